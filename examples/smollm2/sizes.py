"""How large a run is: on two cores it shall end, on a GPU it shall say something."""

from typing import NamedTuple


class Size(NamedTuple):
    """What a run costs.

    Attributes:
        steps: of each expert's training.
        copies: rows of a batch are so many times six.
        rate: the highest learning rate.
        saved_every: steps between two states that training goes on from.
        kept: benign requests that the base answers for its experts to keep; half as many sums,
            and tasks for code.
        located: samples that scores are means over.
        trained_together, asked_together, scored_together: rows, prompts, samples that go through a
            model at once: few on a CPU, many on a GPU.
        samples: questions of each benchmark; None: all there are.
    """

    steps: int
    copies: int
    rate: float
    saved_every: int
    kept: int
    located: int
    samples: int | None
    trained_together: int
    asked_together: int
    scored_together: int


SIZES = {
    "small": Size(
        steps=30,
        copies=1,
        rate=1e-4,
        saved_every=5,
        kept=32,
        located=16,
        samples=40,
        trained_together=16,
        asked_together=16,
        scored_together=1,
    ),
    "full": Size(
        steps=300,
        copies=16,
        rate=5e-5,
        saved_every=100,
        kept=3072,
        located=128,
        samples=None,
        trained_together=96,
        asked_together=256,
        scored_together=16,
    ),
}

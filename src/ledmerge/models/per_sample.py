"""Each sample's own gradient, for all parameters in one backward pass.

`single_gradients` is for one sample at a time: autograd does the work. `batch_gradients` is for
several in one forward pass. Autograd would add their gradients up, and |a + b| is not |a| + |b|,
so each module's gradients are worked out here, from its inputs and the gradient of its outputs.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ledmerge.errors import RecipeError
from ledmerge.models.modules import Owners, find_owners, is_plain
from ledmerge.models.sample_gradients import AddProducts, Rows, Take, Use, take_samples, take_whole

Backward = Callable[[Tensor], None]
"""Takes the losses (B,) of a batch that has just been run forwards."""


@contextmanager
def single_gradients(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], take: Take
) -> Iterator[Backward]:
    """Yields the backward of one sample. A gradient is freed as soon as it has been taken.

    Autograd calls the hook once, after the last use of a shared parameter.
    """

    def hook(name: str, parameter: Tensor) -> None:
        assert parameter.grad is not None
        take_whole(name, parameter.grad, take)
        parameter.grad = None

    with _tracked(parameters, hook):
        yield lambda losses: losses.sum().backward()


@contextmanager
def batch_gradients(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    take: Take,
    add_products: AddProducts | None = None,
) -> Iterator[Backward]:
    """Yields the backward of several samples; `take` is called for each block of rows in turn with
    the samples' gradients, in their order. Where there is an `add_products`, it takes the samples
    of a matrix all at once, but for those of the first batch.

    Parameters do not require gradients here, so autograd computes those of activations only. The
    first batch is the exception: autograd's sum over its samples must be what was taken, else a
    parameter is used in a way that hooks on its module do not see.

    Raises:
        RecipeError: (from a forward or backward pass) samples cannot be told apart in a module.
    """
    owners = find_owners(model, parameters)
    check = _Completeness(parameters, take)
    uses = _Uses(owners, check.take)
    with ExitStack() as hooks, ExitStack() as first_batch:
        hooks.callback(model.register_forward_pre_hook(uses.begin, with_kwargs=True).remove)
        for module in owners:
            handle = module.register_forward_hook(uses.on_forward, with_kwargs=True)
            hooks.callback(handle.remove)
        first_batch.enter_context(_tracked(parameters, check.compare))

        def backward(losses: Tensor) -> None:
            uses.is_backward = True
            losses.sum().backward()
            uses.finish()
            first_batch.close()
            uses.take, uses.add_products = take, add_products

        yield backward


@contextmanager
def _tracked(
    parameters: Mapping[str, nn.Parameter], hook: Callable[[str, Tensor], None]
) -> Iterator[None]:
    """Within, autograd tracks the parameters and calls `hook` when a gradient is complete."""
    handles = []
    for name, parameter in parameters.items():
        parameter.requires_grad_(True)
        handles.append(parameter.register_post_accumulate_grad_hook(partial(hook, name)))
    try:
        yield
    finally:
        for handle, parameter in zip(handles, parameters.values(), strict=True):
            handle.remove()
            parameter.requires_grad_(False)
            parameter.grad = None


class _Uses:
    """Collects the uses of each parameter in a batch; its gradients are taken after the last.

    A layer that is run again in the backward pass (`checkpointing.py`) is seen twice: uses are
    counted in the forward pass, and gradients taken from the graph, which only the second run has.
    """

    def __init__(self, owners: Owners, take: Take):
        self.owners = owners
        self.take = take
        self.add_products: AddProducts | None = None
        self.is_backward = False
        self.num_samples = 0
        self.lengths: list[int] = []
        self.pending: Counter[str] = Counter()
        self.seen: defaultdict[str, list[Use]] = defaultdict(list)

    def begin(self, model: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
        self.is_backward = False
        self.num_samples = len(args[0])
        mask = kwargs.get("attention_mask", torch.ones_like(args[0]))
        self.lengths = mask.sum(1).tolist()
        self.pending.clear()
        self.seen.clear()

    def on_forward(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        owned = self.owners[module]
        if not is_plain(args, kwargs, output, self.num_samples):
            raise RecipeError(
                f"'{next(iter(owned.values()))}': the samples of a batch cannot be told apart in "
                f"{type(module).__name__}; set batch to 1"
            )
        if not self.is_backward:
            self.pending.update(owned.values())
        if not torch.is_grad_enabled():
            return
        if not output.requires_grad:
            output.requires_grad_()  # the graph begins at the first module of interest
        output.register_hook(partial(self.on_backward, module, args[0].detach()))

    def on_backward(self, module: nn.Module, x: Tensor, dy: Tensor) -> None:
        for local, name in self.owners[module].items():
            self.seen[name].append(Use(module, local, x, dy, self.lengths))
            self.pending[name] -= 1
            if self.pending[name] == 0:
                self.give_out(name)

    def give_out(self, name: str) -> None:
        take_samples(name, self.seen.pop(name), self.take, self.add_products)

    def finish(self) -> None:
        """Give out what still waits for uses that the losses do not depend on."""
        for name in list(self.seen):
            self.give_out(name)


class _Completeness:
    """Compares the gradients taken from a batch with the sum that autograd finds for it.

    The bound is the square root of the precision: rounding stays far below, a forgotten use far
    above.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], take: Take):
        self._parameters = parameters
        self._take = take
        self._taken: dict[str, tuple[Tensor, Tensor]] = {}

    def take(self, name: str, rows: Rows, gradient: Tensor) -> None:
        self._take(name, rows, gradient)
        if name not in self._taken:
            like = self._parameters[name]
            self._taken[name] = torch.zeros_like(like), torch.zeros_like(like)
        total, scale = self._taken[name]
        total[rows] += gradient
        scale[rows] += gradient.abs()

    @torch.no_grad()
    def compare(self, name: str, parameter: Tensor) -> None:
        assert parameter.grad is not None
        total, scale = self._taken.pop(name, (torch.zeros(()), torch.zeros(())))
        gap = (parameter.grad - total.to(parameter.device)).abs().max()
        if gap > torch.finfo(parameter.dtype).eps ** 0.5 * scale.max():
            raise RecipeError(
                f"'{name}' is used outside of the module that holds it, so the samples of a batch "
                "cannot be told apart; set batch to 1"
            )
        parameter.grad = None

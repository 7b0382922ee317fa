"""Each sample's own gradient, for all parameters in one backward pass.

`single_gradients` is for one sample at a time: autograd does the work. `batch_gradients` is for
several in one forward pass. Autograd would add their gradients up, and |a + b| is not |a| + |b|,
so each module's gradients are worked out here, from its inputs and the gradient of its outputs.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial, reduce
from operator import add
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import vjp

from ledmerge.errors import RecipeError
from ledmerge.models.modules import Owners, call_with, find_owners, is_plain

Take = Callable[[str, Tensor], None]
"""Is given a parameter's name and one sample's gradient for it, which it may not keep."""

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
        take(name, parameter.grad)
        parameter.grad = None

    with _tracked(parameters, hook):
        yield lambda losses: losses.sum().backward()


@contextmanager
def batch_gradients(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], take: Take
) -> Iterator[Backward]:
    """Yields the backward of several samples; `take` is called for each, in their order.

    Parameters do not require gradients here, so autograd computes those of activations only. The
    first batch is the exception: autograd's sum over its samples must be what was taken, else a
    parameter is used in a way that hooks on its module do not see.

    Raises:
        RecipeError: (from a forward or backward pass) samples cannot be told apart in a module.
    """
    owners = find_owners(model, parameters)
    check = _Completeness(take)
    uses = _Uses(owners, check.take)
    with ExitStack() as hooks, ExitStack() as first_batch:
        hooks.callback(model.register_forward_pre_hook(uses.begin).remove)
        for module in owners:
            handle = module.register_forward_hook(uses.on_forward, with_kwargs=True)
            hooks.callback(handle.remove)
        first_batch.enter_context(_tracked(parameters, check.compare))

        def backward(losses: Tensor) -> None:
            losses.sum().backward()
            uses.finish()
            first_batch.close()
            uses.take = take

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


class _Use(NamedTuple):
    """One call of a module that holds a parameter: input and gradient of the output, (B, ...)."""

    module: nn.Module
    local: str
    x: Tensor
    dy: Tensor


class _Uses:
    """Collects the uses of each parameter in a batch, and gives out gradients after the last one.

    The uses of a shared parameter are added up before anyone takes an absolute value.
    """

    def __init__(self, owners: Owners, take: Take):
        self.owners = owners
        self.take = take
        self.num_samples = 0
        self.pending: Counter[str] = Counter()
        self.seen: defaultdict[str, list[_Use]] = defaultdict(list)

    def begin(self, model: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.num_samples = len(args[0])
        self.pending.clear()
        self.seen.clear()

    def on_forward(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        owned = self.owners[module]
        if not is_plain(args, kwargs, output, self.num_samples):
            raise RecipeError(
                f"'{next(iter(owned.values()))}': the samples of a batch cannot be told apart in "
                f"{type(module).__name__}; set batch to 1"
            )
        if not output.requires_grad:
            output.requires_grad_()  # the graph begins at the first module of interest
        output.register_hook(partial(self.on_backward, module, args[0].detach()))
        self.pending.update(owned.values())

    def on_backward(self, module: nn.Module, x: Tensor, dy: Tensor) -> None:
        for local, name in self.owners[module].items():
            self.seen[name].append(_Use(module, local, x, dy))
            self.pending[name] -= 1
            if self.pending[name] == 0:
                self.give_out(name)

    def give_out(self, name: str) -> None:
        uses = self.seen.pop(name)
        for sample in range(self.num_samples):
            self.take(name, reduce(add, (_gradient(use, sample) for use in uses)))

    def finish(self) -> None:
        """Give out what still waits for uses that the losses do not depend on."""
        for name in list(self.seen):
            self.give_out(name)


def _gradient(use: _Use, sample: int) -> Tensor:
    """One sample's gradient from one use of a parameter."""
    module, local, x, dy = use
    x, dy = x[sample : sample + 1], dy[sample : sample + 1]  # modules expect a batch axis
    kind = type(module)  # not isinstance: a subclass may compute something else
    if kind is nn.Linear or kind.__name__ == "Conv1D":  # transformers' own, GPT-2's
        if local == "bias":
            return dy.flatten(0, -2).sum(0)
        product = dy.flatten(0, -2).T @ x.flatten(0, -2)  # (out, in)
        return product if kind is nn.Linear else product.T
    pulled = vjp(lambda value: call_with(module, local, value, x), getattr(module, local).detach())
    return pulled[1](dy)[0]


class _Completeness:
    """Compares the gradients taken from a batch with the sum that autograd finds for it.

    The bound is the square root of the precision: rounding stays far below, a forgotten use far
    above.
    """

    def __init__(self, take: Take):
        self._take = take
        self._taken: dict[str, tuple[Tensor, Tensor]] = {}

    def take(self, name: str, gradient: Tensor) -> None:
        self._take(name, gradient)
        total, scale = self._taken.get(name, (0.0, 0.0))
        self._taken[name] = total + gradient, scale + gradient.abs().max()

    def compare(self, name: str, parameter: Tensor) -> None:
        assert parameter.grad is not None
        total, scale = self._taken.pop(name, (0.0, 0.0))
        gap = (parameter.grad - total).abs().max()
        if gap > torch.finfo(parameter.dtype).eps ** 0.5 * scale:
            raise RecipeError(
                f"'{name}' is used outside of the module that holds it, so the samples of a batch "
                "cannot be told apart; set batch to 1"
            )
        parameter.grad = None

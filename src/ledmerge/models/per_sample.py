"""Each sample's own gradient, for all parameters in one backward pass.

Autograd makes a weight's gradient whole, and adds up those of a batch; but |a + b| is not
|a| + |b|. So each module's gradients are worked out here, from its inputs and the gradient of its
outputs. One sample at a time only those of matrices are, and autograd does the rest.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from ledmerge.errors import RecipeError
from ledmerge.models.modules import find_owners, is_plain
from ledmerge.models.sample_gradients import (
    AddProducts,
    Rows,
    Take,
    Use,
    is_matrix,
    take_samples,
    take_whole,
)

Run = Callable[[Callable[[], Tensor]], None]
"""Is given what runs a batch forwards and returns its losses (B,), and runs it backwards."""


@contextmanager
def sample_gradients(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    take: Take,
    batch: int,
    add_products: AddProducts | None = None,
) -> Iterator[Run]:
    """Yields what runs up to `batch` samples; `take` is called for each block of rows in turn with
    the samples' gradients, in their order. Where there is an `add_products`, it takes the samples
    of a matrix all at once.

    Parameters whose gradients are worked out here do not require them, so autograd computes those
    of activations only. Each parameter's first gradient is the exception: what autograd finds must
    be the sum of what was worked out, else the parameter is used in a way that hooks on its module
    do not see. Of a batch that is an error; one sample at a time autograd goes on with it.

    The first batch runs twice, first for nothing but these checks: what autograd tracks decides
    how torch multiplies some matrices, so last bits would depend on which batch is the first.

    Raises:
        RecipeError: (from a forward or backward pass) samples cannot be told apart in a module.
    """
    uses = _Uses(model, parameters, take, batch, add_products)
    with ExitStack() as stack:
        hook = model.register_forward_pre_hook(uses.begin, with_kwargs=True)
        stack.callback(hook.remove)
        for module in uses.owners:
            hook = module.register_forward_hook(uses.on_forward, with_kwargs=True)
            stack.callback(hook.remove)
        stack.enter_context(_tracked(parameters, uses.on_gradient))

        def run(forward: Callable[[], Tensor]) -> None:
            for _ in range(2 if uses.is_trial else 1):
                losses = forward()
                uses.is_backward = True
                if losses.requires_grad:  # else no parameter has a part in them
                    losses.sum().backward()
                uses.finish()

        yield run


@contextmanager
def _tracked(
    parameters: Mapping[str, nn.Parameter], hook: Callable[[str, Tensor], None]
) -> Iterator[None]:
    """Within, autograd tracks the parameters and calls `hook` when a gradient is complete: once,
    after the last use of a shared parameter.
    """
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


class _Kept(torch.autograd.Function):
    """Keeps a tensor for the backward pass as autograd keeps its own: not at all, where a layer is
    run again there (`checkpointing.py`).
    """

    @staticmethod
    def forward(ctx: Any, kept: Tensor, tracked: Tensor) -> Tensor:
        ctx.save_for_backward(kept)
        return torch.empty(())


def _keep(kept: Tensor) -> Node:
    node = _Kept.apply(kept.detach(), torch.empty((), requires_grad=True)).grad_fn  # pyright: ignore
    assert node is not None
    return node


class _Uses:
    """Collects the uses of each parameter in a batch; its gradients are taken after the last.

    Attributes:
        owners: modules -> what they call the parameters whose gradients are worked out from uses.
        by_autograd: names of the others.
        unchecked: names of those whose gradient has not been compared with autograd's yet.
        is_trial: nothing is taken.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        take: Take,
        batch: int,
        add_products: AddProducts | None,
    ):
        self.owners = find_owners(model, parameters)
        self.parameters = parameters
        self.take, self.add_products = take, add_products
        self.one_by_one = batch == 1
        self.by_autograd = {
            name
            for module, owned in self.owners.items()
            for local, name in owned.items()
            if self.one_by_one and not is_matrix(module, local)
        }
        self.unchecked = {*parameters} - self.by_autograd
        self.is_trial = True
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

    def on_forward(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        names = self.owners[module].values()
        if self.by_autograd.issuperset(names) or not torch.is_grad_enabled():
            return None
        if not (self.one_by_one or is_plain(args, kwargs, output, self.num_samples)):
            raise RecipeError(
                f"'{next(iter(names))}': the samples of a batch cannot be told apart in "
                f"{type(module).__name__}; set batch to 1"
            )
        if not self.is_backward:  # a layer that is run again there is seen twice
            self.pending.update(names)
        begins = not output.requires_grad
        if begins:  # the graph begins here; a copy, since the model may change it in place
            output = output.requires_grad_().clone()
        (x,) = (*args, *kwargs.values())
        output.register_hook(partial(self.on_backward, module, [_keep(x)]))
        return output if begins else None

    def on_backward(self, module: nn.Module, kept: list[Node], dy: Tensor) -> None:
        (x,) = kept.pop().saved_tensors  # pyright: ignore[reportAttributeAccessIssue]
        if self.one_by_one:  # whatever its shape, all of it is the sample's
            x, dy = x[None], dy[None]
        for local, name in self.owners[module].items():
            if name in self.by_autograd:
                continue
            self.seen[name].append(Use(module, local, x, dy, self.lengths))
            self.pending[name] -= 1
            if self.pending[name] == 0 and name not in self.unchecked:
                self.give_out(name, self.seen.pop(name))

    def on_gradient(self, name: str, parameter: Tensor) -> None:
        """Autograd has found the gradient of a parameter that it tracks."""
        gradient, parameter.grad = parameter.grad, None
        assert gradient is not None
        if name not in self.by_autograd:
            uses = self.seen.pop(name, [])
            if _explain(uses, name, gradient):
                self.unchecked.discard(name)
                self.give_out(name, uses)
                return
            if not self.one_by_one:
                raise RecipeError(
                    f"'{name}' is used outside of the module that holds it, so the samples of a "
                    "batch cannot be told apart; set batch to 1"
                )
            self.by_autograd.add(name)
            self.unchecked.discard(name)
        if not self.is_trial:
            take_whole(name, gradient, self.take)

    def give_out(self, name: str, uses: Sequence[Use]) -> None:
        if not self.is_trial:
            take_samples(name, uses, self.take, self.add_products)

    def finish(self) -> None:
        """Give out what still waits for uses that the losses do not depend on."""
        for name, uses in self.seen.items():
            if name not in self.unchecked:
                self.give_out(name, uses)
        self.seen.clear()
        self.is_trial = False
        for name, parameter in self.parameters.items():
            parameter.requires_grad_(name in self.by_autograd or name in self.unchecked)


@torch.no_grad()
def _explain(uses: Sequence[Use], name: str, gradient: Tensor) -> bool:
    """Whether the gradients from these uses add up to what autograd found.

    The bound is the square root of the precision: rounding stays far below, a forgotten use far
    above. What is NaN or infinite explains whatever autograd found there.
    """
    if not uses:
        return False
    found, scale = torch.zeros_like(gradient), torch.zeros_like(gradient)

    def add(name: str, rows: Rows, part: Tensor) -> None:
        found[rows] += part
        scale[rows] += part.abs()

    take_samples(name, uses, add)
    unknown = ~found.isfinite()  # NaN is not equal to NaN
    gap = found.sub_(gradient).abs_().masked_fill_(unknown, 0).max()
    bound = torch.finfo(gradient.dtype).eps ** 0.5 * scale.masked_fill_(unknown, 0).max()
    return bool(gap <= bound)

"""Which modules hold which parameters, and what can be seen of a module from outside."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

Owners = dict[nn.Module, dict[str, str]]
"""Module -> what it calls a parameter of its own -> the parameter's full name."""


def find_owners(model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> Owners:
    """The modules that hold `parameters` themselves; a shared one has several owners."""
    names = {parameter: name for name, parameter in parameters.items()}
    owners = {}
    for module in model.modules():
        held = module.named_parameters(recurse=False, remove_duplicate=False)
        owned = {local: names[parameter] for local, parameter in held if parameter in names}
        if owned:
            owners[module] = owned
    return owners


def is_plain(args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, *lead: int) -> bool:
    """Whether a call took one tensor and gave one, both led by the axes `lead`.

    The output must have three axes, (B, T, features): (tokens, features) may have as many tokens
    as there are samples.
    """
    return (
        len(args) == 1
        and not kwargs
        and all(isinstance(t, Tensor) and t.shape[: len(lead)] == lead for t in (args[0], output))
        and output.ndim >= 3
    )


class _Bare(nn.Module):
    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module.forward(x)


def call_with(module: nn.Module, local: str, value: Tensor, x: Tensor) -> Tensor:
    """`module(x)` with another value for its parameter `local`; the module's hooks do not run."""
    return functional_call(_Bare(module), {f"module.{local}": value}, (x,))

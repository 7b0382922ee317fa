"""What is told of a method: what it needs and costs, by its signature, and what its docstring says.

The last paragraph of a docstring is where we depart from the source, if we do, then a line
`Cost: ...`, then `Source: ...`.
"""

import inspect
import re
from typing import Any

from ledmerge.methods._catalog import Method

_LAST = re.compile(
    r"(?P<departures>.*?)\n?Cost: (?P<cost>.*?)\.\nSource: (?P<source>.*)", re.DOTALL
)


def shown(method: Method) -> dict[str, Any]:
    """A method as `ledmerge methods --json` has it.

    Raises:
        ValueError: the last paragraph of the docstring has another form.
    """
    text = inspect.cleandoc(method.function.__doc__ or "")
    summary, _, rest = text.partition("\n")
    told = re.sub(r"(?:Args|Raises):\n(?:[ ].*\n|\n(?=[ ]))*", "", rest).strip()
    description = re.sub(r"\n{3,}", "\n\n", told)
    last = _LAST.fullmatch(description.rpartition("\n\n")[2])
    if last is None:
        raise ValueError(f"{method.name}: expected a last paragraph with 'Cost: ' and 'Source: '")
    end = {name: " ".join(part.split()) for name, part in last.groupdict().items()}
    return {
        "name": method.name,
        "inputs": {
            "models": "any models",
            "deltas": "base and experts",
            "other": "base and one model",
        }[method.inputs]
        + (", scores" if method.needs_scores else "")
        + (", Gram matrices" if method.needs_grams else "")
        + (", a base if given" if method.may_have_base else ""),
        "summary": summary,
        "description": description,
        "base": _base(method),
        "data": _data(method),
        "grain": method.grain,
        "memory": _memory(method),
        **{name: end[name] for name in ("cost", "source")},
        "departures": _departures(method, end["departures"]),
        "options": {
            option.name: {
                "default": "required" if option.is_required else _as_written(option.default),
                "kind": option.kind_name,
                "per_model": option.is_per_model,
                "help": " ".join(option.help.split()),
            }
            for option in method.options.values()
        },
    }


def _base(method: Method) -> str:
    """Whether it needs a base: yes, no, or if given."""
    if method.inputs == "models":
        return "if given" if method.may_have_base else "no"
    return "yes"


def _data(method: Method) -> str:
    """What is located for it on data, and at which models."""
    if not method.scored_at:
        return "no"
    what = "Gram matrices" if method.needs_grams else "scores"
    where = {"model": "", "base": "at the base"}
    places = " and ".join(filter(None, (where[at] for at in method.scored_at)))
    if not places:
        return what
    return f"{what}, also {places}" if len(method.scored_at) > 1 else f"{what} {places}"


def _memory(method: Method) -> str:
    """What a worker holds of every model at a time."""
    held = {"entry": "block", "row": "rows of a block", "tensor": "tensor"}[method.grain]
    for name, value in method.whole_where.items():
        held += f"; tensor with {name}: {_as_written(value)}"
    return held + ("; Gram matrices" if method.needs_grams else "")


def _departures(method: Method, told: str) -> str:
    """Where its arithmetic is not the source's, in the words of docstring and option."""
    option = method.options.get("convention")
    chosen = f"`convention`: {' '.join(option.help.split())}" if option else ""
    return " ".join(filter(None, [told, chosen]))


def _as_written(default: Any) -> str:
    """A default as a recipe would write it."""
    if default == ():
        return "none"
    return str(default).lower() if isinstance(default, bool) else str(default)

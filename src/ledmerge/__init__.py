"""Merge fine-tuned language models without losing their safety.

    import ledmerge
    ledmerge.merge("recipe.yaml", "out")

Importing this loads neither torch nor transformers; they come with the first call that needs them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ledmerge.run.adapters import merge_adapters as merge_adapters
    from ledmerge.run.apply import apply as apply
    from ledmerge.run.convert import convert as convert
    from ledmerge.run.diff import diff as diff
    from ledmerge.run.evaluate import evaluate as evaluate
    from ledmerge.run.extract import extract_lora as extract_lora
    from ledmerge.run.info import info as info
    from ledmerge.run.locate import locate as locate
    from ledmerge.run.merge import merge as merge
    from ledmerge.run.plan import plan as plan
    from ledmerge.run.push import push as push
    from ledmerge.run.search import search as search
    from ledmerge.run.synthesize import synthesize as synthesize
    from ledmerge.run.unmask import unmask as unmask
    from ledmerge.run.verify import verify as verify

__version__ = "0.1.0"

_NAMES = (
    "apply",
    "convert",
    "diff",
    "evaluate",
    "info",
    "locate",
    "merge",
    "plan",
    "push",
    "search",
    "synthesize",
    "unmask",
    "verify",
)
_HOMES = {
    **{name: f"ledmerge.run.{name}" for name in _NAMES},
    "extract_lora": "ledmerge.run.extract",
    "merge_adapters": "ledmerge.run.adapters",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'ledmerge' has no attribute '{name}'")

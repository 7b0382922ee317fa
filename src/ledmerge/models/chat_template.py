"""The chat template that a merged model is given, where the recipe names one."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, TemplateSyntaxError

from ledmerge.errors import CheckpointError, RecipeError
from ledmerge.models.folder import ModelFolder

AUTO = "auto"
"""Stands for the template that most of the models have."""

_BUILT_IN = Path(__file__).parent / "chat_templates"
_FILE = "chat_template.jinja"
_CONFIG = "tokenizer_config.json"
_NAMED = "additional_chat_templates"
_OF_PROCESSOR = "chat_template.json"
"""Of models that see or hear; transformers' processors prefer it."""
_GENERATION = re.compile(r"(\{%[-+]?\s*)(end)?generation\b")


def read_chat_template(
    written: str, find: Callable[[str], Path], models: Sequence[ModelFolder]
) -> str:
    """The text of a template.

    Args:
        written: the text itself, a Jinja file, the name of a template of ours, or `auto`.
        find: where a path of the recipe lies.
        models: for `auto`; among equally common templates the first model's wins.

    Raises:
        RecipeError: there is no such template, or it is not Jinja.
        CheckpointError: a model's tokenizer settings cannot be read.
    """
    names = sorted(file.stem for file in _BUILT_IN.glob("*.jinja"))
    if "{" in written:
        return _checked(written, "chat_template")
    if written == AUTO:
        own = [text for model in models if (text := chat_template_of(model.tokenizer_path))]
        if not own:
            raise RecipeError("chat_template: 'auto', but no model has a chat template")
        return Counter(own).most_common(1)[0][0]
    if written in names:
        return (_BUILT_IN / f"{written}.jinja").read_text(encoding="utf-8")
    file = find(written)
    try:
        return _checked(file.read_text(encoding="utf-8"), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"chat_template: '{written}' is no template's text, no readable file ({error}) and no "
            f"name; expected one of these, {', '.join(names)} or {AUTO}"
        ) from error


def chat_template_of(folder: Path) -> str | None:
    """A model's own chat template; of several, the default one."""
    file = folder / _FILE
    if file.is_file():
        return file.read_text(encoding="utf-8")
    own = _tokenizer_config(folder).get("chat_template")
    if isinstance(own, list):
        named = {each["name"]: each["template"] for each in own}
        own = named.get("default")
    return own


def write_chat_template(out: Path, text: str) -> None:
    """Give a finished model folder a chat template instead of all of its own."""
    (out / _FILE).write_text(text, encoding="utf-8")
    # Of several, that for tools would be taken where there are tools.
    shutil.rmtree(out / _NAMED, ignore_errors=True)
    if (out / _OF_PROCESSOR).is_file():
        written = json.dumps({"chat_template": text}, indent=2) + "\n"
        (out / _OF_PROCESSOR).write_text(written, encoding="utf-8")
    config = _tokenizer_config(out)
    # transformers reads the file first; other programs, and older versions, look here.
    if config.pop("chat_template", None) is not None:
        config["chat_template"] = text
        (out / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _tokenizer_config(folder: Path) -> dict[str, Any]:
    file = folder / _CONFIG
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("expected a JSON object")
        return found
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: cannot be read ({error})") from error


def _checked(text: str, place: str) -> str:
    # `generation` marks what the assistant says; transformers adds that word to Jinja's.
    plain = _GENERATION.sub(lambda tag: tag[1] + ("endif" if tag[2] else "if true"), text)
    try:
        Environment(extensions=["jinja2.ext.loopcontrols"]).parse(plain)
    except TemplateSyntaxError as error:
        raise RecipeError(
            f"{place}: not a Jinja template, line {error.lineno}: {error.message}"
        ) from error
    return text

"""Reads a recipe file and says everything that is wrong with it at once."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from ledmerge.errors import RecipeError
from ledmerge.recipe.kinds import checked_kind
from ledmerge.recipe.problems import describe
from ledmerge.recipe.schema import RecipeFile

Schema = TypeVar("Schema", bound=BaseModel)


def read_recipes(path: Path) -> list[RecipeFile]:
    """The recipes in a YAML file, one a document, with their form checked.

    Raises:
        RecipeError: unreadable, not YAML, a key that stands twice or is not known, a wrong value.
    """
    documents = _documents(path)
    if len(documents) == 1 or all(each is None for each in documents):
        return [parse_recipe(documents[0], place=str(path))]
    return [
        parse_recipe(document, place=f"{path}: document {number}")
        for number, document in enumerate(documents, start=1)
        if document is not None
    ]


def read_yaml(path: Path) -> Any:
    """What a YAML file of one document says.

    Raises:
        RecipeError: unreadable, not YAML, several documents, or a key that stands twice.
    """
    documents = _documents(path)
    if len(documents) > 1:
        raise RecipeError(f"{path}: expected one YAML document, found {len(documents)}")
    return documents[0]


def _documents(path: Path) -> list[Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except IsADirectoryError:
        raise RecipeError(f"{path}: is a folder; expected a YAML file") from None
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"{path}: cannot be read (byte {error.start} is not UTF-8); expected a YAML file"
        ) from error
    try:
        return list(yaml.load_all(text, Loader=_UniqueKeyLoader)) or [None]
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:  # "\UFFFFFFFF"
        raise RecipeError(f"{path}: not YAML: {_reason(error, text)}") from error


def _reason(error: Exception, text: str) -> str:
    """What is wrong and where, in one line; PyYAML's own text has several."""
    if isinstance(error, yaml.MarkedYAMLError) and (mark := error.problem_mark):
        context = f" ({error.context})" if error.context else ""
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}{context}"
    if isinstance(error, yaml.reader.ReaderError):
        lines = text[: error.position].split("\n")
        where = f"line {len(lines)}, column {len(lines[-1]) + 1}"
        return f"{where}: {error.reason} (character #x{error.character:04x})"
    return str(error)


def parse_recipe(fields: Any, place: str) -> RecipeFile:
    """The recipe in a mapping; `place` opens every message.

    Raises:
        RecipeError: as `read_recipes`.
    """
    fields = checked_kind(fields, "recipe", place)
    return validated(RecipeFile, fields, lambda where: f"{place}: {where}" if where else place)


def find_path(path: str, folder: Path, place: str) -> Path:
    """A path that a file in `folder` names: beside the file, or where the program runs.

    Raises:
        RecipeError: both exist and differ; `place` opens the message.
    """
    beside, here = folder / Path(path).expanduser(), Path(path).expanduser()
    if not here.exists() or here.resolve() == beside.resolve():
        return beside
    if beside.exists():
        raise RecipeError(
            f"{place}: '{path}' is both beside it ({beside.resolve()}) and in the "
            f"working folder ({here.resolve()}); write the whole path"
        )
    return here


def validated(schema: type[Schema], fields: dict[str, Any], place: Callable[[str], str]) -> Schema:
    """The fields as `schema`.

    Args:
        place: turns a dotted path ("models[1].locate", "" for the top) into the message's opening.

    Raises:
        RecipeError: one line per problem.
    """
    try:
        return schema.model_validate(fields)
    except ValidationError as error:
        problems = [describe(problem, schema, place) for problem in error.errors()]
        raise RecipeError("\n".join(problems)) from None


class _UniqueKeyLoader(yaml.SafeLoader):
    """PyYAML's safe loader, which would otherwise let the last of two equal keys win in silence.

    Numbers such as 1e-3 are numbers, as in YAML 1.2; PyYAML reads 1.1, where they are text. What
    stands for one number in 1.1 and for another, or for text, in 1.2 is refused.
    """

    def __init__(self, stream: str):
        super().__init__(stream)
        self._checked: set[yaml.MappingNode] = set()

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """What a node says; a text that is not what its form or tag makes it is told with its line,
        which PyYAML leaves to Python's own errors; and so is what an alias in it makes endless.
        """
        if node in self.recursive_objects:
            raise yaml.constructor.ConstructorError(
                None, None, "holds itself, by its anchor", node.start_mark
            )
        try:
            return super().construct_object(node, deep=True)
        except (ValueError, KeyError, AttributeError) as error:  # 2024-99-99, !!bool maybe
            kind = node.tag.rpartition(":")[2]
            raise yaml.constructor.ConstructorError(
                None, None, f"{node.value!r:.40} cannot be read as YAML's {kind}", node.start_mark
            ) from error

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """A number, if YAML 1.2 reads it as 1.1 does: 010 is 8 or 10, 1:30 is 90 or text."""
        is_whole = node.tag.endswith(":int")
        found = self.construct_yaml_int(node) if is_whole else self.construct_yaml_float(node)
        digits = node.value.replace("_", "")
        if ":" in digits:
            later = "text"
        elif digits.lstrip("+-").isdecimal() and int(digits) != found:
            later = str(int(digits))
        else:
            return found
        raise yaml.constructor.ConstructorError(
            None,
            None,
            f"'{node.value}' is {found} in YAML 1.1 and {later} in 1.2; write the number that is "
            "meant, or text in quotes",
            node.start_mark,
        )

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Put in what the merge key `<<` names: once, then keys may stand twice by right."""
        if node not in self._checked:
            self._checked.add(node)
            self._check_keys(node)
        super().flatten_mapping(node)

    def _check_keys(self, node: yaml.MappingNode) -> None:
        keys = [
            key.value if key.tag.endswith(":merge") else self.construct_object(key, deep=True)
            for key, _ in node.value
        ]
        for place, key in enumerate(keys):
            if key in keys[:place]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' stands twice", node.value[place][0].start_mark
                )


_UniqueKeyLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+\Z"),
    list("-+.0123456789"),
)
for _kind in ("int", "float"):
    _UniqueKeyLoader.add_constructor(
        f"tag:yaml.org,2002:{_kind}", _UniqueKeyLoader.construct_number
    )

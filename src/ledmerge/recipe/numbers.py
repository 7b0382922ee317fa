"""Marks for numbers of a file: `yes` is no 1, and "12" no 12, though pydantic takes them so.

A mark stands last in `Annotated`, so that a JSON Schema shows the bounds before it.
"""

from typing import Any

from pydantic import BeforeValidator
from pydantic_core import PydanticKnownError


def _whole(found: Any) -> Any:
    if isinstance(found, bool | str):
        raise PydanticKnownError("int_type")
    return found  # 2.0 too: a search may have made it of 2


def _number(found: Any) -> Any:
    if isinstance(found, bool | str):
        raise PydanticKnownError("float_type")
    return found


WHOLE = BeforeValidator(_whole)
NUMBER = BeforeValidator(_number)

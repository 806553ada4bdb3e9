"""Reading the JSON files of a checkpoint, whoever wrote them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from models.fields import shown

_MOST_BYTES = 2**26  # the index of the largest published checkpoints has 2**23
_MOST_LEVELS = 64
_MOST_DIGITS = 400


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not JSON, or not an object; as `read_json_value`.
    """
    value = read_json_value(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object, got {shown(value)}")
    return value


def read_json_value(path: Path) -> Any:
    """Any JSON value from a file in UTF-8.

    Raises:
      FileNotFoundError: no such file.
      ValueError: no regular file, a file of more than 64 MiB, not UTF-8, not JSON (NaN and Infinity are not), a number
        that overflows, more than 64 levels of nesting, or a name that stands twice in one object with two values. The
        message is one line that names the file.
    """
    try:
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing")
        if not path.is_file():
            raise ValueError(f"{path} must be a file, and is a directory or a device")
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise ValueError(f"{path} has {size} bytes; a JSON file of a checkpoint has at most {_MOST_BYTES}")
        content = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror})") from None
    try:
        return _parse(content)
    except RecursionError:
        raise ValueError(f"{path} is not valid JSON (more than {_MOST_LEVELS} levels of nesting)") from None
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error})") from None


def _parse(content: bytes) -> Any:
    if not content.strip():
        raise ValueError("the file is empty")
    if content.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise ValueError("it begins with a byte order mark; save it as UTF-8 without one")
    value = json.loads(
        content.decode("utf-8"),
        object_pairs_hook=_object,
        parse_constant=_constant,
        parse_int=_integer,
        parse_float=_float,
    )
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > _MOST_LEVELS:
            raise RecursionError
        level = [child for item in level for child in _children(item)]
    return value


def _children(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if found.setdefault(name, value) != value:
            raise ValueError(f"{shown(name)} stands twice, as {shown(found[name])} and as {shown(value)}")
    return found


def _constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON number")


def _integer(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"a number has {len(text)} digits")
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value

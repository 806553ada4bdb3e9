"""Checks of single values that somebody else wrote: a bad one is refused in one short line that names its field."""

from __future__ import annotations

import reprlib
from typing import Any

_LONGEST_INT = 10**40


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxlist, self.maxdict, self.maxstring, self.maxother = 2, 4, 4, 80, 80

    def repr_int(self, value: int, level: int) -> str:  # Python refuses to print integers of many thousand digits
        return repr(value) if abs(value) < _LONGEST_INT else f"an integer of {value.bit_length()} bits"


shown = _Short().repr
"""The repr of a value, cut to a length that fits in a message however large or deeply nested the value is."""


def integer(value: Any, name: str, most: int, least: int = 1) -> int:
    """The value, an int from `least` to `most`; true and 2.0 are no integers.

    Raises:
      ValueError: anything else; the message begins with `name`.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        kind = "a positive integer" if least == 1 else f"an integer of at least {least}"
        raise ValueError(f"{name} must be {kind}, got {shown(value)}")
    if value > most:
        raise ValueError(f"{name} must be at most {most}, got {shown(value)}")
    return value


def number(value: Any, name: str, least: float, most: float) -> float:
    """The value as a float from `least` to `most`, both above 0; true, NaN and infinity are no numbers.

    Raises:
      ValueError: anything else; the message begins with `name`.
    """
    if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
        raise ValueError(f"{name} must be a positive number, got {shown(value)}")
    if not least <= value <= most:
        raise ValueError(f"{name} must lie between {least:g} and {most:g}, got {shown(value)}")
    return float(value)


def boolean(value: Any, name: str) -> bool:
    """The value, a bool; 0, 1 and "true" are none.

    Raises:
      ValueError: anything else; the message begins with `name`.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {shown(value)}")
    return value

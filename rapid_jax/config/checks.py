"""Checks that settings share: each ends in one line that says what is wrong and what would be right."""

from __future__ import annotations

import sys


def require(condition: bool, message: str) -> None:
    """Raises ValueError with the message where the condition does not hold."""
    if not condition:
        raise ValueError(message)


def is_integer(value: object) -> bool:
    """Whether a value is a whole number; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether a value is a number that a float can hold; True, False, NaN and infinity are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max

"""Checks that settings share: each ends in one line that says what is wrong and what would be right."""

from __future__ import annotations

from models.fields import shown

_SMALLEST, _LARGEST = 1.1754944e-38, 3.4028235e38  # of the numbers that float32 holds with full precision
MOST_TOKENS = 2**24  # positions: RoPE angles are float32, which count no further
MOST_ROWS = 2**12  # rows of one verification
MOST_LOOPS = 2**8  # rounds of a loop that is compiled into the step one by one; 256 of them compile for half a minute


def require(condition: bool, message: str) -> None:
    """Raises ValueError with the message where the condition does not hold."""
    if not condition:
        raise ValueError(message)


def is_integer(value: object) -> bool:
    """Whether a value is a whole number; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether a value is a number that float32 holds, as the device does; True and False are none.

    1e-300 would be 0 there and 1e39 infinity, and what is computed with them means nothing.
    """
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return value == 0 or _SMALLEST <= abs(value) <= _LARGEST  # NaN is neither


def check_number(
    name: str, value: object, least: float, most: float, right: str, *, above: bool = False, limit: str = ""
) -> None:
    """Checks a number that the device will hold as float32.

    Args:
      name, value: of the setting.
      least, most: bounds, both allowed.
      right: what the setting must be, such as "in [0, 1]".
      above: the lower bound itself is not allowed.
      limit: why there is an upper bound; "" where `right` names it.

    Raises:
      ValueError: no number, out of bounds, or so small that the device would hold 0 in its place.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not (value > least or (value == least and not above)):  # type: ignore[operator]
        raise ValueError(f"{name} must be {right}, got {shown(value)}")
    if value > most:  # type: ignore[operator]
        raise ValueError(f"{name} must be {f'at most {most:g} ({limit})' if limit else right}, got {shown(value)}")
    smallest = f"{'' if above else '0 or '}at least {_SMALLEST:.2g}, the smallest number that float32 holds"
    require(is_number(value), f"{name} must be {smallest}, got {shown(value)}")


def check_most(name: str, value: float, most: float, what: str = "") -> None:
    """Raises ValueError where a number is larger than anything that makes sense, before anything is made of it.

    Args:
      name, value: of the setting.
      most: the largest value.
      what: its unit and the reason, for the message.
    """
    require(value <= most, f"{name} must be at most {most:,}{what and ' ' + what}, got {shown(value)}")

"""Packages that only a part of the project needs: where one is missing, a line says what to install."""

from __future__ import annotations

import importlib


def require_package(name: str, what: str, extra: str = "reports") -> None:
    """Imports a package of an extra.

    Args:
      name: as it is imported.
      what: needs it, for the message.
      extra: of this project, which installs it.

    Raises:
      ValueError: it is not installed, or cannot be imported; says how to install it.
    """
    try:
        importlib.import_module(name)
    except ImportError as error:
        reason = "" if isinstance(error, ModuleNotFoundError) and error.name in (name, None) else f" ({error})"
        raise ValueError(f'{what} needs the package {name}{reason}: pip install "rapid_jax[{extra}]"') from None

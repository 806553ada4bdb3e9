"""Writing files: an error of the disk names the file, and text that is not well-formed Unicode does not stop it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Errors of writing inside of the block become one line that names the file, a full disk among them.

    Raises:
      OSError: "PATH cannot be written: REASON".
    """
    try:
        yield
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror or error}") from None


def encoded(text: str) -> bytes:
    r"""UTF-8 bytes of a text; half of a surrogate pair becomes its escape, \udxxx, which JSON reads back."""
    return text.encode("utf-8", "backslashreplace")


def write_text(path: Path, text: str) -> None:
    """Replaces a text file.

    Raises:
      OSError: see `naming`.
    """
    with naming(path):
        path.write_bytes(encoded(text))


def replace_text(path: Path, text: str) -> None:
    """Replaces a text file at once, through to the disk: a reader finds the old text or the new one, never a part.

    Raises:
      OSError: see `naming`.
    """
    draft = path.with_name(f"{path.name}.part")
    with naming(draft), draft.open("wb") as file:
        file.write(encoded(text))
        file.flush()
        os.fsync(file.fileno())
    with naming(path):
        draft.replace(path)

"""Where a saved document lies: its files in a folder of their own, and a manifest that names the folder.

The manifest is written last and replaced in one step, so that a process which is killed while it saves leaves what was
there before, or nothing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from models import hosts
from models.safetensors_io import naming
from rapid_jax.saving.manifest import FILE, FOLDER


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A new folder in the directory of a document; where the caller fails it is removed, else all others are.

    The caller writes the manifest that names it. On several hosts all of them enter and leave together; the main one
    makes and removes.

    Raises:
      ValueError: in the directory lies something else than a saved document.
      OSError: the folder cannot be made; one line that names the directory.
    """

    def make() -> str:
        if path.exists() and not path.is_dir():
            raise ValueError(f"{path} is a file; name a new directory for the document")
        others = [x.name for x in path.glob("*") if x.name != FILE and not x.name.startswith(FOLDER)]
        if others:
            raise ValueError(f"{path} holds {others[0]}, which is no part of a saved document; name a new directory")
        folder = path / f"{FOLDER}{os.getpid()}-{time.time_ns()}"
        with naming(path):
            folder.mkdir(parents=True)
        return str(folder)

    def clean(keep: Path | None) -> None:
        for other in path.glob(f"{FOLDER}*"):
            if other != keep:
                shutil.rmtree(other, ignore_errors=True)

    folder = Path(hosts.from_main(make))
    try:
        yield folder
    except BaseException:
        if hosts.is_main():
            shutil.rmtree(folder, ignore_errors=True)
        raise
    hosts.from_main(lambda: clean(folder))


def nbytes(path: Path) -> int:
    """Of all files below a directory."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())

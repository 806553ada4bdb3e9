"""Saved documents by what they are, in one directory of bounded size: those that were used last stay."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models import hosts
from rapid_jax.saving.directory import nbytes
from rapid_jax.saving.manifest import FILE, FOLDER

_KEY = re.compile(r"[0-9a-f]{64}")
_UNFINISHED_SECONDS = 3600.0  # after which nobody is believed to be writing


def key_of(parts: Mapping[str, Any]) -> str:
    """The name of a document in a store: SHA-256, in hex digits, of all that its keys and values depend on; JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class DocumentStore:
    """A directory of saved documents.

    Attributes:
      path: made when the first one is kept.
      max_bytes: of all together.
    """

    path: str | Path
    max_bytes: int

    def find(self, key: str) -> Path | None:
        """The directory of a document that is kept, which has now been used; None where it is not there."""

        def found() -> str:
            place = self.place(key)
            if not (place / FILE).is_file():
                return ""
            os.utime(place / FILE)
            return str(place)

        place = hosts.from_main(found)
        return Path(place) if place else None

    def place(self, key: str) -> Path:
        """Where a document is kept, or would be."""
        return Path(self.path) / key

    def forget(self, key: str) -> None:
        """Removes a document, such as one that is damaged."""
        hosts.from_main(lambda: _remove(self.place(key)))

    def has_room(self, size: int) -> bool:
        """Whether a document of so many bytes is worth keeping: it would not push out more than half of the others."""
        return size <= self.max_bytes // 2

    def trim(self) -> list[str]:
        """Removes what was used longest ago until the rest fits, and what nobody has finished; the keys that went."""

        def trimmed() -> list[str]:
            kept, gone, now = [], [], time.time()
            path = Path(self.path)
            for entry in path.iterdir() if path.is_dir() else ():
                if not _KEY.fullmatch(entry.name) or not entry.is_dir():
                    continue  # somebody else's
                manifest = entry / FILE
                if manifest.is_file():
                    kept.append((manifest.stat().st_mtime, nbytes(entry), entry))
                elif now - _newest(entry) > _UNFINISHED_SECONDS:
                    gone.append(entry)
            kept.sort()
            total = sum(size for _, size, _ in kept)
            while kept and total > self.max_bytes:
                _, size, entry = kept.pop(0)
                total -= size
                gone.append(entry)
            for entry in gone:
                _remove(entry)
            return sorted(entry.name for entry in gone)

        return hosts.from_main(trimmed)


def _remove(entry: Path) -> None:
    (entry / FILE).unlink(missing_ok=True)  # first, so that nobody opens what is half gone
    shutil.rmtree(entry, ignore_errors=True)


def _newest(entry: Path) -> float:
    """When an unfinished document was last written to."""
    times = [folder.stat().st_mtime for folder in entry.glob(f"{FOLDER}*")]
    return max([entry.stat().st_mtime, *times])

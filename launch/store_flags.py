"""The flags that say where documents are kept on disk once they have been read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from launch import cli

if TYPE_CHECKING:
    from rapid_jax.saving.store import DocumentStore

_STORE = flags.DEFINE_string(
    "store",
    os.path.join(os.path.expanduser("~"), ".cache", "rapid_jax", "documents"),
    "Directory of documents that have been read, so that the same one is not read again; empty for none.",
)
_STORE_GB = flags.DEFINE_float("store_gb", 8.0, "Gigabytes that --store may take; what was used longest ago goes.", 0)
cli.check_finite("store_gb")


def store() -> DocumentStore | None:
    """Where documents are kept; hosts that run together need a directory that they share, and so one that is named."""
    from models import hosts
    from rapid_jax.saving.store import DocumentStore

    if not _STORE.value or (hosts.count() > 1 and not flags.FLAGS["store"].present):
        return None
    return DocumentStore(Path(_STORE.value), int(_STORE_GB.value * 1e9))

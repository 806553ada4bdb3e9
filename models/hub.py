"""Where a checkpoint lies: a local directory, or a name on the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
_HUB_NAME = re.compile(r"[\w][\w.\-]*(/[\w][\w.\-]*)?")


def resolve(path: str | Path) -> Path:
    """The directory of a checkpoint; a name that is no local path is fetched from the hub (or its local copy).

    Args:
      path: a directory, or a hub name such as "Qwen/Qwen2.5-7B-Instruct". What exists locally wins.

    Raises:
      FileNotFoundError: neither a directory nor on the hub, or the hub is out of reach.
      ValueError: a file, not a directory.
    """
    local = Path(path).expanduser()
    if local.is_dir():
        return local
    if local.exists():
        raise ValueError(f"{path} is a file; give the directory that holds config.json and the weights")
    if isinstance(path, Path) or not _HUB_NAME.fullmatch(path):
        raise FileNotFoundError(f"{path} is not a directory, and no name of the form owner/model either")
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(path, allow_patterns=list(_FILES)))
    except Exception as error:
        cause = " ".join(str(error).split())[:300]
        raise FileNotFoundError(
            f"{path} is neither a directory nor reachable on the Hugging Face hub: {type(error).__name__}: {cause}"
        ) from None

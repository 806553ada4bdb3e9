"""What a checkpoint is, whatever its files look like: a configuration, a tokenizer, and named tensors."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.config import ModelConfig
from models.fields import shown
from models.progress import ProgressCallback

if TYPE_CHECKING:
    from jax.sharding import Mesh
    from jax.typing import DTypeLike


@dataclasses.dataclass(frozen=True)
class Header:
    """What a checkpoint says of one tensor before it is read: its file, its shape, its dtype there, and its bytes."""

    file: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int


class Tensors(contextlib.AbstractContextManager["Tensors"], abc.ABC):
    """The open files of a checkpoint; a context manager.

    Attributes:
      headers: Hugging Face's name of a tensor -> Header; all are known before any tensor is read.
      readable: the dtypes in headers that `read` understands.
    """

    headers: dict[str, Header]
    readable: tuple[str, ...]

    @abc.abstractmethod
    def read(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        """A slice of a tensor, in float32, bfloat16 (ml_dtypes) or float16; no more of the file is read."""

    def why_missing(self, name: str) -> str:
        """What a message adds where a model needs a tensor that is not in headers; "" where nothing is known."""
        return ""

    def check(self, expected: Mapping[str, tuple[int, ...]], ignorable: Iterable[str], where: Path) -> None:
        """Compares the headers with the names and shapes that a model needs.

        Args:
          expected: name -> shape.
          ignorable: endings of names that may be there as well.
          where: what to call the checkpoint in a message.

        Raises:
          ValueError: tensors that are missing, surplus, misshapen or of a dtype that is not read.
        """
        missing = [name for name in expected if name not in self.headers]
        if missing:
            name = missing[0]
            where_else = self.why_missing(name)
            raise ValueError(f"{where}: tensor {name} {list(expected[name])} is missing{_more(missing)}{where_else}")
        endings = tuple(ignorable)
        surplus = [name for name in self.headers if name not in expected and not name.endswith(endings)]
        if surplus:
            raise ValueError(
                f"{where}: tensor {said(surplus[0])} is not part of the model of config.json{_more(surplus)}"
            )
        for name, shape in expected.items():
            header = self.headers[name]
            if header.shape != shape:
                found = shown(list(header.shape))
                raise ValueError(f"{where}: tensor {name} has shape {found}, should be {list(shape)}")
            if header.dtype not in self.readable:
                known = ", ".join(self.readable)
                raise ValueError(f"{where}: tensor {name} has dtype {header.dtype}; readable: {known}")


class WeightSource(abc.ABC):
    """A checkpoint that has been found. A kind of checkpoint is a subclass and a function `claim(path)` beside it.

    `claim` gives a source, or None where the path is not of its kind.

    Attributes:
      path: what messages call it, and what `open_source` finds it by again.
    """

    path: Path

    @abc.abstractmethod
    def read_config(self) -> ModelConfig:
        """What the model is.

        Raises:
          FileNotFoundError: the file that says so is missing.
          ValueError: it cannot be read, or the model is not supported; one line that names the file.
        """

    @abc.abstractmethod
    def tokenizer_files(self) -> Path:
        """A directory with the tokenizer's files as Hugging Face names them; they may be missing."""

    @abc.abstractmethod
    def tensors(self) -> Tensors:
        """Opens the files and reads all headers.

        Raises:
          FileNotFoundError: a file is missing.
          ValueError: a file is damaged, or files contradict each other; one line that names them.
        """

    def for_transformers(self) -> dict[str, Any] | None:
        """Arguments of transformers' `from_pretrained` that load the same weights; None where it cannot."""
        return None

    def for_llama_cpp(self) -> Path | None:
        """The GGUF file that llama.cpp loads the same weights from, the first of several; None where there is none."""
        return None

    def load_params(
        self,
        config: ModelConfig,
        *,
        dtype: DTypeLike | None = None,
        mesh: Mesh | None = None,
        quantize: str = "",
        progress: ProgressCallback | None = None,
    ) -> dict[str, Any]:
        """The weights, as `models.checkpoint.load_params`, by default tensor by tensor."""
        from models.loading import load_tensors  # JAX, which a tokenizer does not need

        with self.tensors() as tensors:
            return load_tensors(
                tensors, config, self.path, dtype=dtype, mesh=mesh, quantize=quantize, progress=progress
            )


def said(name: str) -> str:
    """A name that somebody else wrote, fit for a message: as it is, or cut and escaped where that is not one line."""
    return name if name.isprintable() and 0 < len(name) <= 200 else shown(name)


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""

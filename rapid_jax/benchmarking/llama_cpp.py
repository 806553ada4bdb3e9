"""llama.cpp, through llama-cpp-python, on the same GGUF file and the same tokens, run beside our methods.

Rows such as `llama.cpp q4_k_m` (the file as it is, under the name of its quantisation), `llama.cpp f32` and
`llama.cpp bf16` (the same weights dequantised). The f32 row keeps keys and values in float32, as a float32 engine of
ours does; the others keep them in float16, which is llama.cpp's default. It has a thread for each processor of the
host, and no flash attention, which is the package's default.

The document is read once and stays in llama.cpp's cache. Each run cuts the cache behind it, reads the question but its
last token, which is prefill, and then decodes greedily: a forward of one token, the argmax of its logits, and again, as
many times as there are new tokens, never ending at a stop id. One row, no batch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.gguf_copy import quantisation, weight_bytes, write_dequantised
from models.language_model import LanguageModel
from rapid_jax.benchmarking.measurement import Sample
from rapid_jax.benchmarking.peers import Clock
from rapid_jax.benchmarking.traffic import mean_tails

_PREFIX = "llama.cpp "


@dataclasses.dataclass(frozen=True)
class LlamaCppModel:
    """A file that llama.cpp has loaded.

    Attributes:
      name: of its row.
      llama: llama_cpp.Llama; its `n_tokens` says how much of its cache counts.
      weight_bytes: that a forward reads.
      number_bytes: of one number of its keys and values.
    """

    name: str
    llama: Any
    weight_bytes: int
    number_bytes: int


@dataclasses.dataclass(frozen=True)
class LlamaCppDocument:
    """A document that every model has in its cache, until another one is read.

    Attributes:
      tokens: token ids.
      seconds: that reading them took each model.
    """

    tokens: Sequence[int]
    seconds: Sequence[float]


class LlamaCpp:
    """A GGUF file in llama.cpp, on the processor.

    The dequantised files, of four and two bytes a parameter, lie in a temporary directory. They lose their names as
    soon as they are mapped, and are gone when the process ends.

    Args:
      path: the file, the first one where there are several.
      room: tokens that a cache holds: document, question and answer.

    Raises:
      ValueError: llama.cpp cannot load the file.
    """

    def __init__(self, path: Path, room: int):
        self._room = room
        own = quantisation(path)
        self.models = [self._load(own, path)]
        with tempfile.TemporaryDirectory(prefix="rapid_jax_", ignore_cleanup_errors=True) as directory:
            for kind in ("F32", "BF16"):
                if kind.lower() != own:
                    file = Path(directory) / f"{kind.lower()}.gguf"
                    write_dequantised(path, file, kind)
                    self.models.append(self._load(kind.lower(), file))

    def _load(self, kind: str, path: Path) -> LlamaCppModel:
        import llama_cpp

        threads = os.cpu_count() or 1
        full = {name: llama_cpp.GGML_TYPE_F32 for name in ("type_k", "type_v")} if kind == "f32" else {}
        try:
            llama = llama_cpp.Llama(
                str(path), n_ctx=self._room, n_threads=threads, n_threads_batch=threads, verbose=False, **full
            )
        except (ValueError, RuntimeError, AssertionError) as error:
            cause = " ".join(str(error).split())[:300]
            raise ValueError(f"llama.cpp cannot load {path} ({cause}); --nopeers leaves it out") from None
        return LlamaCppModel(_PREFIX + kind, llama, weight_bytes(path), 4 if full else 2)

    def names(self, rows: int) -> tuple[str, ...]:
        """All files, for a single row."""
        return tuple(model.name for model in self.models) if rows == 1 else ()

    def read(self, tokens: Sequence[int], chunk: int) -> LlamaCppDocument:
        """Reads a document into every cache; llama.cpp has batches of its own, so `chunk` changes nothing."""
        seconds = []
        for model in self.models:
            with _working(model.llama) as clock:
                model.llama.reset()
                model.llama.eval(list(tokens))
            seconds.append(clock.seconds)
        return LlamaCppDocument(tokens, seconds)

    def contestants(
        self, document: LlamaCppDocument, target: LanguageModel, questions: Sequence[Sequence[int]], new_tokens: int
    ) -> list[LlamaCppContestant]:
        """One for each file; none where there are several rows.

        Raises:
          ValueError: document, question and answer are longer than the caches.
        """
        if len(questions) > 1:
            return []
        context, needed = len(document.tokens), len(document.tokens) + len(questions[0]) + new_tokens
        if needed > self._room:
            raise ValueError(f"{needed} tokens are more than llama.cpp was given room for, {self._room}")
        c = target.config
        numbers = 2 * c.num_layers * c.num_kv_heads * c.head_dim * (context + mean_tails(questions, new_tokens)[0])
        return [
            LlamaCppContestant(
                model.name,
                model,
                questions[0],
                new_tokens,
                context_tokens=context,
                document_seconds=seconds,
                read=round(model.weight_bytes + model.number_bytes * numbers),
            )
            for model, seconds in zip(self.models, document.seconds, strict=True)
        ]


@dataclasses.dataclass(frozen=True)
class LlamaCppContestant:
    """Greedy decoding behind a document that is in the cache already.

    Attributes:
      name, context_tokens: see measurement.Contestant.
      model, question, new_tokens: who decodes, behind which token ids, how much.
      document_seconds: that reading the document took.
      read: bytes that a step must read.
    """

    name: str
    model: LlamaCppModel
    question: Sequence[int]
    new_tokens: int
    context_tokens: int
    document_seconds: float
    read: int
    retrieved_tokens: int | None = None
    forced_acceptance: float | None = None

    def bytes_per_step(self, drafter_forwards: float) -> int:
        return self.read

    def run(self) -> Sample:
        """Reads the question, then decodes; only the latter is decoding time."""
        import llama_cpp

        llama = self.model.llama
        llama.n_tokens = self.context_tokens  # `eval` then takes out of the cache what an earlier run left behind it
        with _working(llama) as question:
            llama.eval(list(self.question[:-1]))
        token, tokens = self.question[-1], []
        with _working(llama) as decoding:
            for _ in range(self.new_tokens):
                llama.eval([token])
                logits = llama_cpp.llama_get_logits_ith(llama.ctx, -1)
                token = int(np.argmax(np.ctypeslib.as_array(logits, shape=(llama.n_vocab(),))))
                tokens.append(token)
        return Sample([tokens], [len(tokens)], decoding.seconds, self.document_seconds + question.seconds)


@contextlib.contextmanager
def _working(llama: Any) -> Iterator[Clock]:
    """Work of llama.cpp, finished and timed at the end; what it refuses becomes a ValueError of one line."""
    import llama_cpp

    clock = Clock()
    start = time.perf_counter()
    try:
        yield clock
        llama_cpp.llama_synchronize(llama.ctx)
    except RuntimeError as error:
        raise ValueError(f"llama.cpp: {error}; --nopeers leaves it out") from None
    clock.seconds = time.perf_counter() - start

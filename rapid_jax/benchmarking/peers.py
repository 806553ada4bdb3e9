"""Hugging Face transformers on the same checkpoint and the same tokens, run beside our methods.

Rows `hf` (plain generate) and `hf-pld` (generate with prompt_lookup_num_tokens=10), both greedy and with the number of
new tokens that our rows have. Prefill is excluded as it is from ours: the document goes through the model once, chunk
by chunk, the question behind it, and both rows start from that key-value cache with the last token of the prompt as
their first step. (Subtracting a run of one token from a run of many would leave the noise of two long prefills in a
short decode.)

In a batch every row holds a copy of the document's cache, because generate knows no shared one; questions of different
length are padded between document and question. Prompt lookup takes one row only.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from models.language_model import LanguageModel
from rapid_jax.benchmarking.measurement import Sample
from rapid_jax.benchmarking.traffic import Forward, mean_tails, step_bytes

PLAIN, PROMPT_LOOKUP = "hf", "hf-pld"
_LOOKUP_TOKENS = 10


@dataclasses.dataclass(frozen=True)
class PeerDocument:
    """A document in a cache of transformers.

    Attributes:
      tokens: token ids.
      cache: their keys and values, for one row.
      seconds: that reading them took.
    """

    tokens: Sequence[int]
    cache: Any
    seconds: float


@dataclasses.dataclass(frozen=True)
class PeerPrompt:
    """The rows of a cell: document, padding where questions differ in length, question.

    Attributes:
      ids, mask: torch int64 [B,T], token ids and 1 where they are no padding.
      cache: keys and values of all but the last token.
      seconds: that reading document and questions took.
    """

    ids: Any
    mask: Any
    cache: Any
    seconds: float


class Peer:
    """A checkpoint in transformers.

    Args:
      source: arguments of from_pretrained that name the checkpoint (WeightSource.for_transformers).
      dtype: name of the weights' dtype, such as "float32".
      device: of torch, "cpu" or "cuda".

    Raises:
      ValueError: transformers cannot load the checkpoint.
    """

    def __init__(self, source: Mapping[str, str], dtype: str, device: str):
        import torch
        import transformers

        self.device = device
        transformers.utils.logging.disable_progress_bar()
        try:
            settings: dict[str, Any] = dict(**source, local_files_only=True, trust_remote_code=False)
            config = transformers.AutoConfig.from_pretrained(**settings)
            model_class = _continuing(transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)])
            model = model_class.from_pretrained(**settings, dtype=getattr(torch, dtype))
        except Exception as error:  # transformers, safetensors and torch each have their own
            cause, said = " ".join(str(error).split())[:300], " ".join(source.values())
            raise ValueError(
                f"transformers cannot load {said} ({type(error).__name__}: {cause}); --nopeers leaves it out"
            ) from None
        model.generation_config = transformers.GenerationConfig()  # no stop id, no sampling
        self.model = model.to(device).eval()

    def names(self, rows: int) -> tuple[str, ...]:
        """What can be run with a batch of this size."""
        return (PLAIN, PROMPT_LOOKUP) if rows == 1 else (PLAIN,)

    def read(self, tokens: Sequence[int], chunk: int) -> PeerDocument:
        """Reads a document in chunks of so many tokens."""
        import torch
        import transformers

        with self.working() as clock:
            cache = transformers.DynamicCache(config=self.model.config)
            for part in torch.tensor([list(tokens)], device=self.device).split(chunk, dim=1):
                self.model(input_ids=part, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return PeerDocument(tokens, cache, clock.seconds)

    def prompt(self, document: PeerDocument, questions: Sequence[Sequence[int]]) -> PeerPrompt:
        """Reads questions, one a row, behind a document."""
        import torch

        held, size = len(document.tokens), max(map(len, questions))
        tokens = np.zeros((len(questions), held + size), np.int64)
        seen = np.zeros_like(tokens)
        tokens[:, :held], seen[:, :held] = document.tokens, 1
        for row, (ids_row, seen_row) in enumerate(zip(tokens, seen, strict=True)):
            ids_row[-len(questions[row]) :], seen_row[-len(questions[row]) :] = questions[row], 1
        ids, mask = (torch.from_numpy(array).to(self.device) for array in (tokens, seen))
        cache = copy.deepcopy(document.cache)
        with self.working() as clock:
            if len(questions) > 1:
                cache.batch_repeat_interleave(len(questions))
            self.model(
                input_ids=ids[:, held:-1],
                attention_mask=mask[:, :-1],
                position_ids=(mask.cumsum(dim=1) - 1)[:, held:-1],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        return PeerPrompt(ids, mask, cache, document.seconds + clock.seconds)

    def contestants(
        self, document: PeerDocument, target: LanguageModel, questions: Sequence[Sequence[int]], new_tokens: int
    ) -> list[PeerContestant]:
        """Both ways of generating for the rows of a cell, or the one that takes so many; `target` is our own model."""
        prompt = self.prompt(document, questions)
        context = len(document.tokens)
        rows = len(questions)
        read = step_bytes([Forward(target, [context] * rows, mean_tails(questions, new_tokens))])
        return [
            PeerContestant(name, self, prompt, new_tokens, context_tokens=context, read=read)
            for name in self.names(rows)
        ]

    @contextlib.contextmanager
    def working(self) -> Iterator[_Clock]:
        """Device work without gradients, finished and timed at the end; what torch lacks becomes a MemoryError."""
        import torch

        clock = _Clock()
        start = time.perf_counter()
        try:
            with torch.inference_mode():
                yield clock
                if self.device == "cuda":
                    torch.cuda.synchronize()
        except torch.OutOfMemoryError as error:
            raise MemoryError(f"transformers: {error}; --nopeers leaves it out") from None
        clock.seconds = time.perf_counter() - start


class _Clock:
    seconds = 0.0


@dataclasses.dataclass(frozen=True)
class PeerContestant:
    """`generate` over a cache that holds the prompt but its last token.

    Attributes:
      name: PLAIN or PROMPT_LOOKUP.
      peer, prompt, new_tokens: who generates, behind what, how much.
      context_tokens: see measurement.Contestant.
      read: bytes that a step must read.
    """

    name: str
    peer: Peer
    prompt: PeerPrompt
    new_tokens: int
    context_tokens: int
    read: int
    retrieved_tokens: int | None = None
    forced_acceptance: float | None = None

    def bytes_per_step(self, drafter_forwards: float) -> int:
        return self.read

    def run(self) -> Sample:
        """Generates, then takes the new tokens out of the cache again."""
        prompt, model = self.prompt, self.peer.model
        lookup = {"prompt_lookup_num_tokens": _LOOKUP_TOKENS} if self.name == PROMPT_LOOKUP else {}
        model.forwards = 0
        with self.peer.working() as clock:
            output = model.generate(
                input_ids=prompt.ids,
                attention_mask=prompt.mask,
                past_key_values=prompt.cache,
                max_new_tokens=self.new_tokens,
                do_sample=False,
                pad_token_id=0,
                **lookup,
            )
        size = prompt.ids.shape[1]
        prompt.cache.crop(size - 1 - prompt.cache.get_seq_length())
        tokens = output[:, size:].tolist()
        return Sample(tokens, [model.forwards] * len(tokens), clock.seconds, prompt.seconds)


def _continuing(model_class: Any) -> Any:
    """The model class, counting its forwards, that continues from a cache in every way of generating.

    Plain generation already skips what a given cache holds; assisted generation, which prompt lookup is, would read the
    whole prompt again behind it.
    """

    class Continuing(model_class):
        forwards = 0

        def prepare_inputs_for_generation(self, input_ids: Any, *args: Any, **kwargs: Any) -> Any:
            self.forwards += 1
            cache = kwargs.get("cache", kwargs.get("past_key_values"))  # its name from transformers 5.24 on, and before
            if kwargs.get("is_first_iteration") and kwargs.get("next_sequence_length") is None and cache is not None:
                held = cache.get_seq_length()
                if 0 < held < input_ids.shape[1]:
                    kwargs["next_sequence_length"] = input_ids.shape[1] - held
            return super().prepare_inputs_for_generation(input_ids, *args, **kwargs)

    return Continuing

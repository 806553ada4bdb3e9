"""Hugging Face transformers on the same checkpoint and the same tokens, run beside our methods.

Rows `hf` (plain generate), `hf-pld` (generate with prompt_lookup_num_tokens=10) and `hf-assisted` (generate with
assistant_model), all greedy and with the number of new tokens that our rows have. Prefill is excluded as it is from
ours: the document goes through the model once, chunk by chunk, the question behind it, and all rows start from that
key-value cache with the last token of the prompt as their first step. (Subtracting a run of one token from a run of
many would leave the noise of two long prefills in a short decode.) The assistant, too, has read the whole prompt
before. It drafts as transformers has it by default: up to 20 tokens in a step, fewer where one has a probability
below 0.4.

In a batch every row holds a copy of the document's cache, because generate knows no shared one; questions of different
length are padded between document and question. Prompt lookup and assistants take one row only.
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
from rapid_jax.benchmarking.peers import Clock
from rapid_jax.benchmarking.traffic import Forward, mean_tails, step_bytes

PLAIN, PROMPT_LOOKUP, ASSISTED = "hf", "hf-pld", "hf-assisted"
_LOOKUP_TOKENS = 10


@dataclasses.dataclass(frozen=True)
class Read:
    """What a model of transformers has read.

    Attributes:
      cache: keys and values.
      seconds: that reading took.
    """

    cache: Any
    seconds: float


@dataclasses.dataclass(frozen=True)
class TransformersDocument:
    """A document in caches of transformers.

    Attributes:
      tokens: token ids.
      target: their keys and values, for one row.
      assistant: those of the assistant; None where there is none, and where it is the target itself.
    """

    tokens: Sequence[int]
    target: Read
    assistant: Read | None


@dataclasses.dataclass(frozen=True)
class TransformersPrompt:
    """The rows of a cell: document, padding where questions differ in length, question.

    Attributes:
      ids, mask: torch int64 [B,T], token ids and 1 where they are no padding.
      target: keys and values of all but the last token, and the seconds that document and questions took.
      assistant: the same of the assistant; None where there is none, or several rows.
    """

    ids: Any
    mask: Any
    target: Read
    assistant: Read | None


@dataclasses.dataclass(frozen=True)
class Assistant:
    """Who drafts in assisted generation.

    Attributes:
      source: arguments of from_pretrained; the target's own where it drafts for itself, which holds no weight twice.
      model: our own model of that checkpoint: its dtype is taken, and a forward reads its bytes.
    """

    source: Mapping[str, str]
    model: LanguageModel


class Transformers:
    """A checkpoint in transformers.

    Args:
      source: arguments of from_pretrained that name the checkpoint (WeightSource.for_transformers).
      dtype: name of the weights' dtype, such as "float32".
      device: of torch, "cpu" or "cuda".
      assistant: who drafts for it, with the same vocabulary; None leaves ASSISTED out.
      lookup: whether this version can look the prompt up behind a cache; False leaves PROMPT_LOOKUP out.

    Raises:
      ValueError: transformers cannot load a checkpoint.
    """

    def __init__(
        self,
        source: Mapping[str, str],
        dtype: str,
        device: str,
        assistant: Assistant | None = None,
        *,
        lookup: bool = True,
    ):
        self.device, self._lookup = device, lookup
        self.model = _load(source, dtype, device)
        self.assistant, self.assistant_model = assistant, None
        self._assistant_reads = assistant is not None and assistant.source != source  # what the target does not read
        if assistant is not None and self._assistant_reads:
            self.assistant_model = _load(assistant.source, assistant.model.decoder.dtype.name, device)
        elif assistant is not None:
            self.assistant_model = copy.copy(self.model)  # the same tensors, counters of its own

    def names(self, rows: int) -> tuple[str, ...]:
        """What can be run with a batch of this size."""
        drafting = ((PROMPT_LOOKUP, self._lookup), (ASSISTED, self.assistant is not None))
        return (PLAIN, *(name for name, there in drafting if there and rows == 1))

    def read(self, tokens: Sequence[int], chunk: int) -> TransformersDocument:
        """Reads a document in chunks of so many tokens."""
        target = self._read(self.model, tokens, chunk)
        assistant = self._read(self.assistant_model, tokens, chunk) if self._assistant_reads else None
        return TransformersDocument(tokens, target, assistant)

    def _read(self, model: Any, tokens: Sequence[int], chunk: int) -> Read:
        import torch
        import transformers

        with self.working() as clock:
            cache = transformers.DynamicCache(config=model.config)
            for part in torch.tensor([list(tokens)], device=self.device).split(chunk, dim=1):
                model(input_ids=part, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return Read(cache, clock.seconds)

    def prompt(self, document: TransformersDocument, questions: Sequence[Sequence[int]]) -> TransformersPrompt:
        """Reads questions, one a row, behind a document."""
        import torch

        held, size = len(document.tokens), max(map(len, questions))
        tokens = np.zeros((len(questions), held + size), np.int64)
        seen = np.zeros_like(tokens)
        tokens[:, :held], seen[:, :held] = document.tokens, 1
        for row, (ids_row, seen_row) in enumerate(zip(tokens, seen, strict=True)):
            ids_row[-len(questions[row]) :], seen_row[-len(questions[row]) :] = questions[row], 1
        ids, mask = (torch.from_numpy(array).to(self.device) for array in (tokens, seen))
        target, assistant = self._read_questions(self.model, document.target, ids, mask, held), None
        if self.assistant_model is not None and len(questions) == 1:
            assistant = Read(copy.deepcopy(target.cache), 0.0)
            if document.assistant is not None:
                assistant = self._read_questions(self.assistant_model, document.assistant, ids, mask, held)
        return TransformersPrompt(ids, mask, target, assistant)

    def _read_questions(self, model: Any, document: Read, ids: Any, mask: Any, held: int) -> Read:
        """Rows [B,T] but their last token, behind a document of so many tokens."""
        cache = copy.deepcopy(document.cache)
        with self.working() as clock:
            if len(ids) > 1:
                cache.batch_repeat_interleave(len(ids))
            if held < ids.shape[1] - 1:
                model(
                    input_ids=ids[:, held:-1],
                    attention_mask=mask[:, :-1],
                    position_ids=(mask.cumsum(dim=1) - 1)[:, held:-1],
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
        return Read(cache, document.seconds + clock.seconds)

    def contestants(
        self, document: TransformersDocument, target: LanguageModel, questions: Sequence[Sequence[int]], new_tokens: int
    ) -> list[TransformersContestant]:
        """All ways of generating for the rows of a cell that take so many; `target` is our own model."""
        prompt = self.prompt(document, questions)
        context, tails = len(document.tokens), mean_tails(questions, new_tokens)

        def forward_bytes(model: LanguageModel) -> int:
            return step_bytes([Forward(model, [context] * len(questions), tails)])

        drafter_read = 0 if self.assistant is None else forward_bytes(self.assistant.model)
        return [
            TransformersContestant(name, self, prompt, new_tokens, context, forward_bytes(target), drafter_read)
            for name in self.names(len(questions))
        ]

    @contextlib.contextmanager
    def working(self) -> Iterator[Clock]:
        """Device work without gradients, finished and timed at the end; what torch lacks becomes a MemoryError."""
        import torch

        clock = Clock()
        start = time.perf_counter()
        try:
            with torch.inference_mode():
                yield clock
                if self.device == "cuda":
                    torch.cuda.synchronize()
        except torch.OutOfMemoryError as error:
            raise MemoryError(f"transformers: {error}; --nopeers leaves it out") from None
        clock.seconds = time.perf_counter() - start


@dataclasses.dataclass(frozen=True)
class TransformersContestant:
    """`generate` over a cache that holds the prompt but its last token.

    Attributes:
      name: PLAIN, PROMPT_LOOKUP or ASSISTED.
      engine, prompt, new_tokens: who generates, behind what, how much.
      context_tokens: see measurement.Contestant.
      read: bytes that a forward of the target must read.
      drafter_read: the same of the assistant.
    """

    name: str
    engine: Transformers
    prompt: TransformersPrompt
    new_tokens: int
    context_tokens: int
    read: int
    drafter_read: int = 0
    retrieved_tokens: int | None = None
    forced_acceptance: float | None = None

    def bytes_per_step(self, drafter_forwards: float) -> int:
        return self.read + round(drafter_forwards * self.drafter_read)

    def run(self) -> Sample:
        """Generates, then takes the new tokens out of the caches again."""
        prompt, model = self.prompt, self.engine.model
        assistant = self.engine.assistant_model if self.name == ASSISTED else None
        options: dict[str, Any] = {"prompt_lookup_num_tokens": _LOOKUP_TOKENS} if self.name == PROMPT_LOOKUP else {}
        read = [prompt.target]
        if assistant is not None and prompt.assistant is not None:
            read.append(prompt.assistant)
            options = {"assistant_model": assistant}
            assistant.begin(prompt.assistant.cache)
        model.begin(None)
        with self.engine.working() as clock:
            output = model.generate(
                input_ids=prompt.ids,
                attention_mask=prompt.mask,
                past_key_values=prompt.target.cache,
                max_new_tokens=self.new_tokens,
                do_sample=False,
                pad_token_id=0,
                **options,
            )
        size = prompt.ids.shape[1]
        for one in read:
            one.cache.crop(size - 1 - one.cache.get_seq_length())
        tokens = output[:, size:].tolist()
        drafted: dict[str, Any] = {}
        if assistant is not None:
            proposed, tested, accepted = _drafts(assistant.drafts, model.forwards, output.shape[1])
            drafted = dict(proposed=proposed, tested=tested, accepted=accepted, drafter_forwards=(assistant.forwards,))
        prefill_seconds = sum(one.seconds for one in read)
        return Sample(tokens, [model.forwards] * len(tokens), clock.seconds, prefill_seconds, **drafted)


def _drafts(drafts: Sequence[tuple[int, int]], forwards: int, end: int) -> tuple[int, int, int]:
    """Counts drafted tokens: proposed, tested and accepted ones.

    Args:
      drafts: of each draft, in order, the tokens of the sequence before it and those drafted.
      forwards: of the target: one behind every draft, which adds a token of its own, and a last one where a single
        token is left, for which nothing is drafted.
      end: tokens of the finished sequence.
    """
    before = [start for start, _ in drafts] + [end - (forwards - len(drafts))]
    proposed = tested = accepted = 0
    for (start, size), following in zip(drafts, before[1:], strict=True):
        kept = following - start - 1
        proposed, accepted = proposed + size, accepted + kept
        tested += min(kept + 1, size)
    return proposed, tested, accepted


def _load(source: Mapping[str, str], dtype: str, device: str) -> Any:
    """A model of the class that `_continuing` makes; raises ValueError where transformers cannot load it."""
    import torch
    import transformers

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
    return model.to(device).eval()


def _continuing(model_class: Any) -> Any:
    """The model class, counting its forwards, that continues from a cache in every way of generating.

    Plain generation already skips what a given cache holds; assisted generation, which prompt lookup is, would read the
    whole prompt again behind it. An assistant is handed no cache for its first draft, and would read the prompt too: it
    goes on from the one that `begin` was given.
    """

    class Continuing(model_class):
        forwards = 0
        drafts: list[tuple[int, int]] = []  # of each: tokens before it, tokens drafted
        held: Any = None

        def begin(self, held: Any) -> None:
            """Counts anew; `held` is what the first draft goes on from, None for a target."""
            self.forwards, self.drafts, self.held = 0, [], held

        def generate(self, *args: Any, **kwargs: Any) -> Any:
            if self.held is None:
                return super().generate(*args, **kwargs)
            if kwargs.get("cache", kwargs.get("past_key_values")) is None:
                kwargs["cache"] = self.held  # assistants need the version that calls it so
            output = super().generate(*args, **kwargs)
            before = kwargs["input_ids"].shape[1]
            self.drafts.append((before, output.sequences.shape[1] - before))
            return output

        def prepare_inputs_for_generation(self, input_ids: Any, *args: Any, **kwargs: Any) -> Any:
            self.forwards += 1
            cache = kwargs.get("cache", kwargs.get("past_key_values"))  # its name from transformers 5.24 on, and before
            if kwargs.get("is_first_iteration") and kwargs.get("next_sequence_length") is None and cache is not None:
                held = cache.get_seq_length()
                if 0 < held < input_ids.shape[1]:
                    kwargs["next_sequence_length"] = input_ids.shape[1] - held
            return super().prepare_inputs_for_generation(input_ids, *args, **kwargs)

    return Continuing

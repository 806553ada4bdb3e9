"""What a benchmark decodes from: a document of a wanted length and a question a row, real or of random ids."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from models.language_model import LanguageModel
from rapid_jax.config import EngineConfig
from rapid_jax.engine.engine import Engine
from rapid_jax.engine.prompt import Prompt, chat_for
from rapid_jax.evaluation.archive import make_archive
from rapid_jax.retrieval import num_chunks

SEED = 2_000_000  # of the archive; far from those that the embedded model was trained on
_RANDOM_QUESTION = 32  # tokens


@dataclasses.dataclass(frozen=True)
class ModelPrompts:
    """What one model reads beside the document: token ids, a list a row.

    Attributes:
      passages: the retrieved context, with what precedes it.
      questions: what follows a context.
    """

    passages: list[list[int]]
    questions: list[list[int]]

    def rows(self, count: int) -> ModelPrompts:
        """The first rows."""
        return ModelPrompts(self.passages[:count], self.questions[:count])

    def row(self, index: int) -> ModelPrompts:
        """One row."""
        return ModelPrompts([self.passages[index]], [self.questions[index]])


@dataclasses.dataclass(frozen=True)
class BenchmarkPrompts:
    """A document and questions about it.

    Attributes:
      document: the target's context, token ids; prompts that share a document hold the same list.
      target, drafter: what each reads beside it; the same object in self-speculation.
      kind: of the questions, where a benchmark asks several kinds.
    """

    document: list[int]
    target: ModelPrompts
    drafter: ModelPrompts
    kind: str = ""

    def rows(self, count: int) -> BenchmarkPrompts:
        """The same document with the first rows only."""
        return self._with(lambda prompts: prompts.rows(count))

    def each(self) -> Iterator[BenchmarkPrompts]:
        """The rows one by one, all with the same document."""
        for row in range(len(self.target.questions)):
            yield self._with(functools.partial(ModelPrompts.row, index=row))

    def of_kind(self, kind: str) -> BenchmarkPrompts:
        """The same, named."""
        return dataclasses.replace(self, kind=kind)

    def _with(self, change: Callable[[ModelPrompts], ModelPrompts]) -> BenchmarkPrompts:
        """Both models' prompts changed, and still one object in self-speculation."""
        target = change(self.target)
        drafter = target if self.drafter is self.target else change(self.drafter)
        return dataclasses.replace(self, target=target, drafter=drafter)


def benchmark_config(
    config: EngineConfig, *, new_tokens: int, gamma: int, retrieved_tokens: int | None
) -> EngineConfig:
    """A config in which lengths are what was asked for: nothing is truncated, and retrieval always fills its length.

    Args:
      config: everything else.
      new_tokens: tokens generated in a run.
      gamma: the longest draft.
      retrieved_tokens: tokens that the drafter reads, about; None takes the config's number of chunks.
    """
    retrieval = config.retrieval
    chunks = retrieval.max_chunks if retrieved_tokens is None else math.ceil(retrieved_tokens / retrieval.chunk_tokens)
    threshold = -1.0 if retrieval.threshold is None else retrieval.threshold  # any passage, unless somebody chose
    return dataclasses.replace(
        config,
        max_context_tokens=0,
        truncation="error",
        retrieval=dataclasses.replace(retrieval, max_chunks=chunks, threshold=threshold),
        speculation=dataclasses.replace(config.speculation, gamma=gamma),
        sampling=dataclasses.replace(config.sampling, max_new_tokens=new_tokens, stop=()),
    )


def archive_prompts(engine: Engine, tokens: int, rows: int) -> list[BenchmarkPrompts]:
    """A made archive, and in each row the request to write out what it says about another person.

    The longest such dossiers are asked for, so that a run ends before they do.

    Args:
      engine: with a `benchmark_config`.
      tokens: of the document and what precedes it, at most and nearly.
      rows: questions; they repeat where the archive tells of fewer people.

    Raises:
      ValueError: the archive is too short to tell of anybody.
    """
    tokenizer = engine.target.tokenizer
    archive = make_archive(tokens - head_tokens(engine), SEED, lambda part: len(tokenizer.encode(part)))
    dossiers = [question for question in archive.questions if question.task == "dossier"]
    if not dossiers:
        raise ValueError(f"an archive of {tokens} tokens tells of nobody; take a longer context")
    dossiers.sort(key=lambda question: -len(question.answer))
    return [prompts_about(engine, archive.document, [dossiers[row % len(dossiers)].question for row in range(rows)])]


def head_tokens(engine: Engine) -> int:
    """Tokens that precede a document in the target's prompts."""
    return len(Prompt(engine.target.tokenizer, engine.config.prompt, engine.config.chat).head())


def prompts_about(engine: Engine, text: str, questions: Sequence[str]) -> BenchmarkPrompts:
    """A document and questions about it, a row each, with the passages that are retrieved for them.

    Args:
      engine: with a `benchmark_config`.
      text: the document.
      questions: at least one.
    """
    document = engine.read(text, prefill=False)
    retrieved = [document.index.retrieve(question).text for question in questions]

    def prompts(model: LanguageModel) -> ModelPrompts:
        prompt = Prompt(model.tokenizer, engine.config.prompt, chat_for(model.tokenizer, engine.config.chat))
        passages = [prompt.head() + prompt.document(text)[0] for text in retrieved]
        return ModelPrompts(passages, [prompt.question(question) for question in questions])

    target = prompts(engine.target)
    drafter = target if engine.drafter is engine.target else prompts(engine.drafter)
    return BenchmarkPrompts(document.head + document.tokenized.tokens, target, drafter)


def random_prompts(engine: Engine, tokens: int, rows: int) -> list[BenchmarkPrompts]:
    """Random token ids in the place of text, for models with random weights.

    Args:
      engine: with a `benchmark_config`; it drafts for itself.
      tokens: of the document; the passages have as many as are retrieved for its length, at most all of it.
      rows: questions.
    """
    model: LanguageModel = engine.target
    retrieval = engine.config.retrieval
    chunks = retrieval.max_chunks or num_chunks(tokens, retrieval.chunk_tokens)
    rng = np.random.default_rng(SEED)

    def ids(length: int) -> list[int]:
        return rng.integers(0, model.config.vocab_size, length).tolist()

    document = ids(tokens)
    passages = [ids(min(chunks * retrieval.chunk_tokens, tokens)) for _ in range(rows)]
    prompts = ModelPrompts(passages, [ids(_RANDOM_QUESTION) for _ in range(rows)])
    return [BenchmarkPrompts(document, prompts, prompts)]

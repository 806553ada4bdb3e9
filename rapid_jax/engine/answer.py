"""What a question comes back with: the text, where it came from, and what it cost."""

from __future__ import annotations

import dataclasses
from typing import Any

from rapid_jax.retrieval import Passage
from rapid_jax.tracing import Trace


@dataclasses.dataclass(frozen=True)
class Acceptance:
    """How the drafts fared.

    Attributes:
      steps: decoding steps of this answer.
      proposed: drafted tokens.
      tested: drafted tokens that were tested, up to the first rejection of each step.
      accepted: drafted tokens that passed.
      generated: tokens of the answer, its stop id included.
      drafter_forwards: forwards of a drafting model.
      by_source: accepted tokens by the database that they come from; empty where no database drafts for the target.
    """

    steps: int
    proposed: int
    tested: int
    accepted: int
    generated: int
    drafter_forwards: int = 0
    by_source: dict[str, int] = dataclasses.field(default_factory=dict)

    def tokens_per_step_from(self, source: str) -> float | None:
        """Accepted tokens of one database over the steps; None where it was not asked."""
        return _ratio(self.by_source[source], self.steps) if source in self.by_source else None

    def to_dict(self) -> dict[str, Any]:
        """The counts and their ratios; a ratio over nothing is None."""
        return {
            "steps": self.steps,
            "proposed": self.proposed,
            "tested": self.tested,
            "accepted": self.accepted,
            "tokens_per_step": _ratio(self.generated, self.steps),
            "kept_over_tested": _ratio(self.accepted, self.tested),
            "kept_over_proposed": _ratio(self.accepted, self.proposed),
            "drafter_forwards": self.drafter_forwards,
            "forwards_per_drafted_token": _ratio(self.drafter_forwards, self.proposed)
            if self.drafter_forwards
            else None,
            "accepted_by_source": dict(self.by_source),
        }


@dataclasses.dataclass(frozen=True)
class Seconds:
    """Wall-clock seconds. Compilation is in `compile` alone.

    Attributes:
      load: reading the weights, once for the engine.
      compile: tracing and compiling for this answer; 0 once its shapes have been met.
      retrieval: chunking and embedding the document, and finding the passages.
      prefill: the document (once for all its questions, counted in each), the question, and the drafter's context.
      decode: from the first decoding step to the last token on the host.
      first_token: from the question to the first tokens on the host: retrieval, prefill and the first burst of steps.
    """

    load: float
    compile: float
    retrieval: float
    prefill: float
    decode: float
    first_token: float = 0.0

    def to_dict(self) -> dict[str, float]:
        """The parts, and `total` of retrieval, prefill and decode: what the answer costs on a warm engine."""
        total = self.retrieval + self.prefill + self.decode
        ordered = {"first_token": self.first_token, "total": total, **dataclasses.asdict(self)}
        return {k: round(v, 6) for k, v in ordered.items()}


@dataclasses.dataclass(frozen=True)
class Answer:
    """An answer to one question.

    Attributes:
      method: name of the method.
      question: as asked.
      text: without stop strings and special tokens.
      token_ids: generated tokens, the stop id included.
      finish_reason: "stop" (a stop id), "stop_string", "length", or "stopped" where `Stream.stop` ended it.
      target_tokens: tokens that the target's context and question hold.
      drafter_tokens: the same for the drafter; 0 without one.
      truncated_tokens: document tokens that were left out of the middle.
      passages: what was retrieved, in document order; empty where nothing was.
      below_threshold: no passage reached the threshold.
      batch_size: rows that were decoded together; the seconds are the batch's.
      seconds, acceptance: see there.
      settings: speculation and sampling settings that were in force.
      versions: of the packages that matter.
      database_bytes: of the n-gram databases on the devices, by name, of the whole batch.
      trace: who wrote each token; a notebook shows it as a page, and `to_dict` leaves it out.
    """

    method: str
    question: str
    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    target_tokens: int
    drafter_tokens: int
    truncated_tokens: int
    passages: tuple[Passage, ...]
    below_threshold: bool
    batch_size: int
    seconds: Seconds
    acceptance: Acceptance
    settings: dict[str, Any]
    versions: dict[str, str]
    trace: Trace = dataclasses.field(repr=False)
    database_bytes: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def tokens_per_second(self) -> float | None:
        """Decoding speed of this row, prefill excluded; None if the clock saw no time pass."""
        return _ratio(len(self.token_ids), self.seconds.decode)

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "method": self.method,
            "question": self.question,
            "text": self.text,
            "token_ids": list(self.token_ids),
            "finish_reason": self.finish_reason,
            "context": {
                "target_tokens": self.target_tokens,
                "drafter_tokens": self.drafter_tokens,
                "truncated_tokens": self.truncated_tokens,
                "below_threshold": self.below_threshold,
                "passages": [dataclasses.asdict(p) for p in self.passages],
            },
            "batch_size": self.batch_size,
            "seconds": self.seconds.to_dict(),
            "tokens_per_second": self.tokens_per_second,
            "acceptance": self.acceptance.to_dict(),
            "database_bytes": dict(self.database_bytes),
            "settings": self.settings,
            "versions": self.versions,
        }


def _ratio(part: float, whole: float) -> float | None:
    return round(part / whole, 4) if whole else None

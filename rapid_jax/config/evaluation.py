"""Settings of an evaluation in which the published ones differ, checked without JAX."""

from __future__ import annotations

import dataclasses

from models.fields import shown
from rapid_jax.config.checks import require

RETRIEVAL_QUERIES = ("question", "question_and_choices")
PASSAGES_PROMPTS = ("document", "passages")
LONGBENCH_ANSWERS = ("benchmark", "rapid")


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """How a benchmark is asked and scored; the first value of each is the default.

    Attributes:
      retrieval_query: what passages are retrieved with, "question" (the question alone, as the RAPID paper says) or
        "question_and_choices" (with the answer options, as RAPID's published evaluation does).
      passages_prompt: whose words the prompt around retrieved passages has, "document" (those of the prompt around the
        document) or "passages" (longbench_v2: "retrieved text chunks", as RAPID's published evaluation does).
      longbench_answer: where the letter of an answer is looked for, "benchmark" (behind "The correct answer is", as
        LongBench v2 does) or "rapid" (behind "correct answer is", as RAPID's published evaluation does).
    """

    retrieval_query: str = "question"
    passages_prompt: str = "document"
    longbench_answer: str = "benchmark"

    def __post_init__(self) -> None:
        for name, known in (
            ("retrieval_query", RETRIEVAL_QUERIES),
            ("passages_prompt", PASSAGES_PROMPTS),
            ("longbench_answer", LONGBENCH_ANSWERS),
        ):
            value = getattr(self, name)
            require(
                isinstance(value, str) and value in known,
                f"{name} must be one of {', '.join(known)}, got {shown(value)}",
            )

"""Configuration: frozen dataclasses, each checked once when it is made."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from rapid_jax.hierarchy.config import HierarchyConfig
from rapid_jax.retrieval.config import RetrievalConfig
from rapid_jax.rules import RESIDUALS, TAILS

TRUNCATIONS = ("middle", "error")

__all__ = ["EngineConfig", "HierarchyConfig", "RetrievalConfig", "SamplingConfig", "SpeculationConfig"]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


@dataclasses.dataclass(frozen=True)
class SpeculationConfig:
    """How drafts are made and verified (RAPID, arXiv 2502.20330, section 3).

    Attributes:
      gamma: tokens drafted in a step.
      eta: transfer strength of the drafter's knowledge; 0 is plain speculative decoding, which is lossless. The paper
        uses 5-20 for a drafter of the target's size and 40-50 for a larger one.
      tail: tokens that receive no transfer, "teacher" or "augmented" (see verification.target_mixing).
      residual: what replaces a rejected token, "rapid" or "exact" (see verification.chain).
      alpha: a token is in the tail below alpha times the largest probability.
      early_stop: a row ends its draft where the next tokens would hardly be accepted (AdaEDL, see
        drafting.early_stop); gamma is then the most that is drafted.
      stop_threshold: of early_stop, lower bound of the acceptance below which the first drafts end, in [0, 1]; it then
        follows each row's acceptance, by 0.001 a step.
      first_candidates: tokens drafted without replacement for a draft's first position: the chain's own, and others
        that are tried where it is rejected (multi-candidate speculative decoding, see verification.multi_candidate).
        More than 1 need residual "exact", unless eta is 0.
      sinks, window: tokens of its own cache that the target drafts from in "magicdec", the first ones and the last
        ones (see drafting.magicdec).
      length_rule: nothing is drafted where the measured costs of a step say that drafts would lose, and that is said
        (see rapid_jax.length_rule); of methods whose drafts are a model's.
      choose_gamma: gamma is the draft length in 1..16 that is fastest by the same costs.
      expected_acceptance: of each drafted token, for both, until the Engine has seen an answer of the method.
    """

    gamma: int = 10
    eta: float = 10.0
    tail: str = "teacher"
    residual: str = "rapid"
    alpha: float = 0.1
    early_stop: bool = False
    stop_threshold: float = 0.4
    first_candidates: int = 1
    sinks: int = 4
    window: int = 4096
    length_rule: bool = False
    choose_gamma: bool = False
    expected_acceptance: float = 0.8

    def __post_init__(self) -> None:
        _require(_is_integer(self.gamma) and self.gamma >= 1, f"gamma must be at least 1 token, got {self.gamma}")
        _require(_is_number(self.eta) and self.eta >= 0, f"eta must be a number of at least 0, got {self.eta}")
        _require(self.tail in TAILS, f"tail must be one of {', '.join(TAILS)}, got {self.tail!r}")
        _require(self.residual in RESIDUALS, f"residual must be one of {', '.join(RESIDUALS)}, got {self.residual!r}")
        _require(_is_number(self.alpha) and 0 <= self.alpha <= 1, f"alpha must be in [0, 1], got {self.alpha}")
        for name in ("early_stop", "length_rule", "choose_gamma"):
            value = getattr(self, name)
            _require(isinstance(value, bool), f"{name} must be True or False, got {value!r}")
        _require(
            _is_number(self.expected_acceptance) and 0 <= self.expected_acceptance <= 1,
            f"expected_acceptance must be in [0, 1], got {self.expected_acceptance}",
        )
        _require(
            _is_number(self.stop_threshold) and 0 <= self.stop_threshold <= 1,
            f"stop_threshold must be in [0, 1], got {self.stop_threshold}",
        )
        _require(
            _is_integer(self.first_candidates) and self.first_candidates >= 1,
            f"first_candidates must be at least 1 token, got {self.first_candidates}",
        )
        _require(_is_integer(self.sinks) and self.sinks >= 1, f"sinks must be at least 1 token, got {self.sinks}")
        _require(
            _is_integer(self.window) and self.window > self.gamma,
            f"window must be more tokens than a draft's {self.gamma}, got {self.window}",
        )
        _require(
            self.first_candidates == 1 or self.residual == "exact" or self.eta == 0,
            f"first_candidates {self.first_candidates} needs residual exact (or eta 0), got residual {self.residual}",
        )


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How tokens are drawn and when a row ends.

    Attributes:
      temperature: 0 is greedy.
      top_k: most likely tokens kept; 0 keeps all.
      top_p: probability mass kept, in (0, 1].
      max_new_tokens: tokens generated at most.
      seed: of all random numbers; row b of a batch folds in b.
      stop: strings that end the answer; they are not part of it.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    max_new_tokens: int = 256
    seed: int = 0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require(
            _is_number(self.temperature) and (self.temperature == 0 or self.temperature >= 1e-6),
            f"temperature must be 0 (greedy) or at least 1e-6, got {self.temperature}",
        )
        _require(
            _is_integer(self.top_k) and self.top_k >= 0, f"top_k must be 0 (off) or a positive number, got {self.top_k}"
        )
        _require(_is_number(self.top_p) and 0 < self.top_p <= 1, f"top_p must be in (0, 1], got {self.top_p}")
        _require(
            _is_integer(self.max_new_tokens) and self.max_new_tokens >= 1,
            f"max_new_tokens must be at least 1, got {self.max_new_tokens}",
        )
        _require(_is_integer(self.seed) and 0 <= self.seed < 2**32, f"seed must be in [0, 2**32), got {self.seed}")
        _require(
            isinstance(self.stop, tuple) and all(isinstance(s, str) and s for s in self.stop),
            f"stop must be a tuple of strings that are not empty, got {self.stop!r}",
        )


@dataclasses.dataclass(frozen=True)
class EngineConfig:
    """Everything that a run is made of, apart from the document and the questions.

    configs/*.py hold these fields as ConfigDicts; `from_mapping` reads them back.

    Attributes:
      target: directory or hub name of the long-context model; "" is the embedded model.
      drafter: the same for the drafter; "" is self-speculation, the target's own parameters.
      dtype: of weights and caches, "bfloat16" or "float32"; "" is bfloat16 on TPU and GPU and float32 on CPU.
      weights: "int8" rounds the target's matrices at load, with a scale for each output channel (models.quantize), all
        but its embedding; "" keeps them in dtype.
      drafter_weights: the same of the drafter; "" is as the target. With "int8" alone, self-speculation drafts with an
        int8 copy of the target.
      kv: "int8" rounds what has been read, the document and the passages alike, once their prefill is done, with a
        scale for each head and token; questions and answers stay in dtype.
      mesh: devices along (data, context, model).
      drafter_mesh: the same of devices that the drafter has for itself, behind the target's; () shares the target's.
      attention: backend of the attention kernels, a name in models.attention.api.BACKENDS; "" picks by device.
      prefill_chunk: tokens in one forward of a prefill.
      burst_steps: decoding steps between two reads by the host.
      max_context_tokens: document tokens kept at most; 0 is what the model's context length leaves free.
      truncation: what happens to a longer document, "middle" (its middle is left out, and said) or "error".
      prompt: user message, with {document} before {question}.
      retrieval, speculation, hierarchy, sampling: see there.
    """

    target: str = ""
    drafter: str = ""
    dtype: str = ""
    weights: str = ""
    drafter_weights: str = ""
    kv: str = ""
    mesh: tuple[int, int, int] = (1, 1, 1)
    drafter_mesh: tuple[int, ...] = ()
    attention: str = ""
    prefill_chunk: int = 1024
    burst_steps: int = 8
    max_context_tokens: int = 0
    truncation: str = "middle"
    prompt: str = "{document}\n\n{question}"
    retrieval: RetrievalConfig = dataclasses.field(default_factory=RetrievalConfig)
    speculation: SpeculationConfig = dataclasses.field(default_factory=SpeculationConfig)
    hierarchy: HierarchyConfig = dataclasses.field(default_factory=HierarchyConfig)
    sampling: SamplingConfig = dataclasses.field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        for name in ("target", "drafter", "attention", "prompt"):
            value = getattr(self, name)
            _require(isinstance(value, str), f"{name} must be a string, got {value!r}")
        _require(
            self.dtype in ("", "bfloat16", "float32"),
            f"dtype must be bfloat16 or float32 (or empty), got {self.dtype!r}",
        )
        for name in ("weights", "drafter_weights", "kv"):
            value = getattr(self, name)
            _require(value in ("", "int8"), f"{name} must be int8 (or empty), got {value!r}")
        for name, mesh in (("mesh", self.mesh), ("drafter_mesh", self.drafter_mesh or (1, 1, 1))):
            _require(
                isinstance(mesh, tuple) and len(mesh) == 3 and all(_is_integer(n) and n >= 1 for n in mesh),
                f"{name} must be three positive numbers (data, context, model), got {mesh!r}",
            )
        chunk = self.prefill_chunk
        _require(
            _is_integer(chunk) and chunk >= 32 and chunk & (chunk - 1) == 0,
            f"prefill_chunk must be a power of two of at least 32 tokens, got {chunk}",
        )
        _require(
            _is_integer(self.burst_steps) and self.burst_steps >= 1,
            f"burst_steps must be at least 1, got {self.burst_steps}",
        )
        _require(
            _is_integer(self.max_context_tokens) and self.max_context_tokens >= 0,
            f"max_context_tokens must be 0 (the model's limit) or positive, got {self.max_context_tokens}",
        )
        _require(
            self.truncation in TRUNCATIONS,
            f"truncation must be one of {', '.join(TRUNCATIONS)}, got {self.truncation!r}",
        )
        document, question = self.prompt.find("{document}"), self.prompt.find("{question}")
        _require(
            0 <= document < question and self.prompt.count("{document}") == 1 and self.prompt.count("{question}") == 1,
            f"prompt must hold {{document}} once, then {{question}} once, got {self.prompt!r}",
        )

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> EngineConfig:
        """Makes a config of nested mappings of field values; absent fields keep their defaults.

        Raises:
          ValueError: an unknown field or a bad value.
        """
        nested = {
            "retrieval": RetrievalConfig,
            "speculation": SpeculationConfig,
            "hierarchy": HierarchyConfig,
            "sampling": SamplingConfig,
        }
        fields = {name: _make(kind, values.get(name, {}), f"{name}.") for name, kind in nested.items()}
        return _make(cls, {**values, **fields}, "")

    def to_dict(self) -> dict[str, Any]:
        """Nested dicts of all field values; `from_mapping` reads them back."""
        return dataclasses.asdict(self)


def _make(kind: type, values: Mapping[str, Any], prefix: str) -> Any:
    _require(isinstance(values, Mapping), f"{prefix.rstrip('.')} must hold fields of its own, got {values!r}")
    known = [field.name for field in dataclasses.fields(kind)]
    for name in values:
        _require(name in known, f"unknown config field {prefix}{name}; known: {', '.join(prefix + k for k in known)}")
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})

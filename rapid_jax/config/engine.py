"""EngineConfig: everything that a run is made of, as frozen dataclasses that check themselves when they are made."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from models.fields import shown
from models.formats import KV, WEIGHTS, choices
from rapid_jax.config.chat import ChatConfig, check_prompt_template
from rapid_jax.config.checks import MOST_TOKENS, check_most, is_integer, require
from rapid_jax.config.copying import CopyingConfig
from rapid_jax.config.evaluation import EvaluationConfig
from rapid_jax.config.hierarchy import HierarchyConfig
from rapid_jax.config.retrieval import RetrievalConfig
from rapid_jax.config.sampling import SamplingConfig
from rapid_jax.config.speculation import SpeculationConfig

_MOST_DEVICES, _MOST_STEPS = 2**20, 2**20
TRUNCATIONS = ("middle", "error")
_SECTIONS: dict[str, type] = {
    "chat": ChatConfig,
    "retrieval": RetrievalConfig,
    "speculation": SpeculationConfig,
    "hierarchy": HierarchyConfig,
    "copying": CopyingConfig,
    "sampling": SamplingConfig,
    "evaluation": EvaluationConfig,
}


@dataclasses.dataclass(frozen=True)
class EngineConfig:
    """Everything that a run is made of, apart from the document and the questions.

    configs/*.py hold these fields as ConfigDicts; `from_mapping` reads them back.

    Attributes:
      target: directory, GGUF file, package:NAME or hub name of the long-context model; "" is the embedded model.
      drafter: the same for the drafter; "" is self-speculation, the target's own parameters.
      dtype: of weights and caches, "bfloat16" or "float32"; "" is bfloat16 on TPU and GPU and float32 on CPU.
      weights: "int8" rounds the target's matrices at load, with a scale for each output channel, "int4" with one for
        each group of inputs as well (models.formats); its embedding is never rounded. "" keeps them in dtype.
      drafter_weights: the same of the drafter; "" is as the target. With "int8" or "int4" alone, self-speculation
        drafts with a rounded copy of the target.
      kv: "int8" rounds what has been read, the document and the passages alike, once their prefill is done, with a
        scale for each head and token; questions and answers stay in dtype. "int4" is the same in four bits, the keys in
        another basis. "planes" is int4 and, in a plane of its own, what that leaves: eight bits together, of which
        method planes drafts from the upper four.
      mesh: devices along (data, context, model).
      drafter_mesh: the same of devices that the drafter has for itself, behind the target's; () shares the target's.
      attention: backend of the attention kernels, a name in models.attention.api.BACKENDS; "" picks by device.
      prefill_chunk: tokens in one forward of a prefill.
      burst_steps: decoding steps between two reads by the host.
      max_context_tokens: document tokens kept at most; 0 is what the model's context length leaves free.
      truncation: what happens to a longer document, "middle" (its middle is left out, and said) or "error".
      prompt: user message, with {document} before {question}.
      drafter_prompt: the same around retrieved passages, for whoever reads them (the drafter, and the target in rag);
        empty takes that of the document. evaluation.passages_prompt gives a benchmark's own.
      chat, retrieval, speculation, hierarchy, copying, sampling, evaluation: see there.
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
    drafter_prompt: str = ""
    chat: ChatConfig = dataclasses.field(default_factory=ChatConfig)
    retrieval: RetrievalConfig = dataclasses.field(default_factory=RetrievalConfig)
    speculation: SpeculationConfig = dataclasses.field(default_factory=SpeculationConfig)
    hierarchy: HierarchyConfig = dataclasses.field(default_factory=HierarchyConfig)
    copying: CopyingConfig = dataclasses.field(default_factory=CopyingConfig)
    sampling: SamplingConfig = dataclasses.field(default_factory=SamplingConfig)
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        for name in ("target", "drafter", "attention", "prompt", "drafter_prompt"):
            value = getattr(self, name)
            require(isinstance(value, str), f"{name} must be a string, got {shown(value)}")
        require(
            isinstance(self.dtype, str) and self.dtype in ("", "bfloat16", "float32"),
            f"dtype must be bfloat16 or float32 (or empty), got {shown(self.dtype)}",
        )
        for name, known in (("weights", WEIGHTS), ("drafter_weights", WEIGHTS), ("kv", KV)):
            value = getattr(self, name)
            require(
                isinstance(value, str) and value in tuple(known),
                f"{name} must be {choices(known)} (or empty), got {shown(value)}",
            )
        _check_mesh("mesh", self.mesh)
        if not isinstance(self.drafter_mesh, tuple) or self.drafter_mesh:
            _check_mesh("drafter_mesh", self.drafter_mesh)
        chunk = self.prefill_chunk
        require(
            is_integer(chunk) and chunk >= 32 and chunk & (chunk - 1) == 0,
            f"prefill_chunk must be a power of two of at least 32 tokens, got {shown(chunk)}",
        )
        require(
            is_integer(self.burst_steps) and self.burst_steps >= 1,
            f"burst_steps must be at least 1, got {shown(self.burst_steps)}",
        )
        require(
            is_integer(self.max_context_tokens) and self.max_context_tokens >= 0,
            f"max_context_tokens must be 0 (the model's limit) or positive, got {shown(self.max_context_tokens)}",
        )
        check_most("prefill_chunk", chunk, MOST_TOKENS, "tokens (no model has more positions)")
        check_most("burst_steps", self.burst_steps, _MOST_STEPS, "(no answer takes more)")
        check_most("max_context_tokens", self.max_context_tokens, MOST_TOKENS, "tokens (no model has more positions)")
        require(
            self.truncation in TRUNCATIONS,
            f"truncation must be one of {', '.join(TRUNCATIONS)}, got {shown(self.truncation)}",
        )
        check_prompt_template(self.prompt)
        check_prompt_template(self.drafter_prompt or self.prompt, "drafter_prompt")
        for name, kind in _SECTIONS.items():
            value = getattr(self, name)
            require(isinstance(value, kind), f"{name} must be a {kind.__name__}, got {shown(value)}")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> EngineConfig:
        """Makes a config of nested mappings of field values; absent fields keep their defaults.

        Raises:
          ValueError: an unknown field or a bad value.
        """
        require(isinstance(values, Mapping), f"a config must hold fields of its own, got {shown(values)}")
        fields = {name: _make(kind, values.get(name, {}), f"{name}.") for name, kind in _SECTIONS.items()}
        return _make(cls, {**values, **fields}, "")

    def overridden(self, overrides: Mapping[str, Any]) -> tuple[SpeculationConfig, SamplingConfig]:
        """The settings of drafting and sampling with some of their fields replaced.

        Raises:
          ValueError: a name that is a field of neither, or a bad value.
        """
        ours = {field.name for field in dataclasses.fields(self.speculation)}
        theirs = {field.name for field in dataclasses.fields(self.sampling)} - {"from_checkpoint"}  # read at load
        unknown = sorted(set(overrides) - ours - theirs)
        if unknown:
            raise ValueError(f"unknown setting {shown(unknown[0])}; known: {', '.join(sorted(ours | theirs))}")
        return (
            dataclasses.replace(self.speculation, **{k: v for k, v in overrides.items() if k in ours}),
            dataclasses.replace(self.sampling, **{k: v for k, v in overrides.items() if k in theirs}),
        )

    def to_dict(self) -> dict[str, Any]:
        """Nested dicts of all field values; `from_mapping` reads them back."""
        return dataclasses.asdict(self)


def _check_mesh(name: str, mesh: Any) -> None:
    """Raises ValueError where a mesh is not three positive numbers, or has more devices than there are anywhere."""
    require(
        isinstance(mesh, tuple) and len(mesh) == 3 and all(is_integer(n) and n >= 1 for n in mesh),
        f"{name} must be three positive numbers (data, context, model), got {shown(mesh)}",
    )
    require(math.prod(mesh) <= _MOST_DEVICES, f"{name} must be of at most {_MOST_DEVICES:,} devices, got {shown(mesh)}")


def _make(kind: type, values: Mapping[str, Any], prefix: str) -> Any:
    require(isinstance(values, Mapping), f"{prefix.rstrip('.')} must hold fields of its own, got {shown(values)}")
    known = [field.name for field in dataclasses.fields(kind)]
    for name in values:
        require(name in known, f"unknown config field {prefix}{name}; known: {', '.join(prefix + k for k in known)}")
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})

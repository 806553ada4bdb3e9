"""Settings that an evaluation varies: a sweep is a grid of them, and each method heeds only those that concern it."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rapid_jax.config import SamplingConfig, SpeculationConfig
from rapid_jax.config.methods import OWN_SETTINGS, Method
from rapid_jax.config.speculation import AcceptanceRule

_TRANSFER = ("eta", *(field.name for field in dataclasses.fields(AcceptanceRule)))
_DRAFT = ("gamma", "early_stop", "stop_threshold", "stop_confidence", "first_candidates")
_OWN_CACHE = tuple(name for names in OWN_SETTINGS.values() for name in names)
_RETRIEVAL = ("retrieval_tokens", "unrelated")
_SAMPLING = ("temperature", "top_k", "top_p", "seed", "max_new_tokens")
_CONFIGS = (SpeculationConfig, SamplingConfig)
_FIELDS = {field.name: field.default for config in _CONFIGS for field in dataclasses.fields(config)}
_KINDS: dict[str, type] = {
    **{name: type(_FIELDS[name]) for name in (*_TRANSFER, *_DRAFT, *_OWN_CACHE, *_SAMPLING)},
    "drafter": str,
    "retrieval_tokens": int,
    "unrelated": bool,
}
NAMES = tuple(_KINDS)


@dataclasses.dataclass(frozen=True)
class Variation:
    """One point of a sweep: (name, value) pairs in the order of NAMES.

    eta, tail, residual, alpha, gamma, the drafter's options and the sampling fields override the config's;
    `drafter` is a checkpoint ("" is self-speculation); `retrieval_tokens` is the length of the retrieved context;
    `unrelated` retrieves from another document.
    """

    values: tuple[tuple[str, Any], ...] = ()

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a setting, if it is varied."""
        return dict(self.values).get(name, default)

    def heeded_by(self, method: Method) -> Variation:
        """What concerns a method: plain decoding knows no eta, and a drafter is nothing to it."""
        names = set(_SAMPLING)
        names.update(_RETRIEVAL if method.retrieves else ())
        names.update(_DRAFT if method.draws else ())
        names.update(("drafter",) if method.drafts_from_passages else ())
        names.update(method.own_settings)
        names.update(_TRANSFER if method.transfers else ())
        return Variation(tuple((name, value) for name, value in self.values if name in names))

    def overrides(self) -> dict[str, Any]:
        """Fields of SpeculationConfig and SamplingConfig."""
        return {name: value for name, value in self.values if name in _FIELDS}

    def to_dict(self) -> dict[str, Any]:
        return dict(self.values)

    def __str__(self) -> str:
        return ", ".join(f"{name}={_show(value)}" for name, value in self.values)


def _show(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def parse_sweep(texts: Iterable[str]) -> list[Variation]:
    """All combinations of "name=value,value,..." texts.

    Raises:
      ValueError: a name that cannot be varied, one that comes twice, or a value of the wrong kind.
    """
    axes: dict[str, Sequence[Any]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if name not in _KINDS or not equals:
            raise ValueError(f"a sweep is NAME=VALUE,VALUE,... with a name of {', '.join(NAMES)}; got {text!r}")
        if name in axes:
            raise ValueError(f"{name} is swept twice; give all its values at once")
        axes[name] = list(dict.fromkeys(_parse(name, value.strip()) for value in values.split(",")))
    ordered = [[(name, value) for value in axes[name]] for name in NAMES if name in axes]
    variations = [Variation(tuple(pairs)) for pairs in itertools.product(*ordered)]
    for variation in variations:
        _check(variation.overrides())
    return variations


def _parse(name: str, text: str) -> Any:
    kind = _KINDS[name]
    if kind is bool:
        if text not in ("true", "false"):
            raise ValueError(f"{name} must be true or false, got {text!r}")
        return text == "true"
    try:
        value = kind(text)
    except ValueError:
        raise ValueError(f"{name} must be a number, got {text!r}") from None
    if name == "retrieval_tokens" and value < 1:
        raise ValueError(f"retrieval_tokens must be at least 1, got {value}")
    return value


def _check(overrides: Mapping[str, Any]) -> None:
    """The configs' own rules, before anything is loaded."""
    for kind in _CONFIGS:
        names = {field.name for field in dataclasses.fields(kind)}
        kind(**{name: value for name, value in overrides.items() if name in names})

"""What to run on a slice: the lossless settings side by side, fastest first."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from typing import Any

import jax

from models.progress import ProgressCallback
from rapid_jax.config.methods import get_method
from rapid_jax.evaluation.tables import Table
from rapid_jax.planning import predict
from rapid_jax.planning.compiled import Compiled
from rapid_jax.planning.cost import Rates
from rapid_jax.planning.memory import memory
from rapid_jax.planning.shapes import Plan, Workload
from rapid_jax.speculation import choose_gamma, tokens_per_step


@dataclasses.dataclass(frozen=True)
class Setting:
    """A way to decode without loss with respect to the target in these formats.

    Attributes:
      method: a name in METHODS.
      weights, kv: formats of the target (models.formats), "" for bfloat16.
      drafter: format of the drafter's weights; "" where there is none.
    """

    method: str
    weights: str = ""
    kv: str = ""
    drafter: str = ""


SETTINGS = (
    *(Setting("lc", weights, kv) for weights, kv in (("", ""), ("int8", "int8"), ("int4", "int8"), ("int4", "int4"))),
    *(Setting("copy", weights, kv) for weights, kv in (("", ""), ("int8", "int8"), ("int4", "int8"), ("int4", "int4"))),
    *(Setting("hd", weights, kv) for weights, kv in (("", ""), ("int4", "int8"))),
    *(Setting("auto", weights, kv, "int4") for weights, kv in (("", ""), ("int8", "int8"))),
    *(Setting("sd", weights, kv, "int4") for weights, kv in (("", ""), ("int8", "int8"))),
    *(Setting("pages", weights, kv, "int4") for weights, kv in (("", ""), ("int8", "int8"))),
    *(Setting("planes", weights, "planes", "int4") for weights in ("", "int8")),
)


@dataclasses.dataclass(frozen=True)
class Choice:
    """What a setting is predicted to do.

    Attributes:
      setting: see there.
      peak: bytes on a chip, without temporaries where it does not fit.
      gamma: tokens of a draft; 0 where nothing is drafted.
      tokens_per_second: of all rows together; None where it does not fit.
      speed_up: over the first setting; None where either does not fit.
    """

    setting: Setting
    peak: int
    gamma: int = 0
    tokens_per_second: float | None = None
    speed_up: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return dataclasses.asdict(self)


def choices(
    plan: Plan,
    workload: Workload,
    rates: Rates,
    room: int,
    *,
    acceptance: float,
    settings: Sequence[Setting] = SETTINGS,
    progress: ProgressCallback | None = None,
) -> list[Choice]:
    """Predicts every setting, fastest first, and last those that do not fit.

    Args:
      plan: the model and the mesh; formats come from the settings.
      workload: what is decoded; its gamma is the length of a copied draft, its `tokens_per_step` what a step with a
        draft from a text emits.
      rates: of a device.
      room: bytes of a chip that programs can have.
      acceptance: of a token that a model drafts, assumed.
      settings: the first one is what speed-ups are over.
      progress: called with (settings predicted, settings in all).

    Raises:
      ValueError: a mesh that does not divide the model, or groups of its weights.
    """
    known: dict[Hashable, Compiled] = {}
    found: list[Choice] = []
    for done, setting in enumerate(settings):
        if progress is not None:
            progress(done, len(settings))
        one = _choice(plan, workload, rates, room, setting, acceptance, known)
        base = found[0].tokens_per_second if found else one.tokens_per_second
        if one.tokens_per_second and base:
            one = dataclasses.replace(one, speed_up=one.tokens_per_second / base)
        found.append(one)
    if progress is not None:
        progress(len(settings), len(settings))
    return sorted(found, key=lambda choice: -(choice.tokens_per_second or 0.0))


def _choice(
    plan: Plan,
    workload: Workload,
    rates: Rates,
    room: int,
    setting: Setting,
    acceptance: float,
    known: dict[Hashable, Compiled],
) -> Choice:
    """One setting, without its speed-up."""
    own = dataclasses.replace(plan, weights=setting.weights, drafter_weights=setting.drafter, kv=setting.kv)
    method = get_method(setting.method)
    held = memory(own, workload, method)
    if held.peak > room:
        return Choice(setting, held.peak)
    try:
        predicted = predict.predict(own, workload, method, rates, known=known)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return Choice(setting, held.peak)
    if predicted.memory.peak > room:
        return Choice(setting, predicted.memory.peak)
    costs, copied = predicted.costs(), predicted.copied_costs
    ways = [(1.0 / costs.plain, 0)]
    if predicted.draft is not None:
        gamma = choose_gamma(costs, acceptance)
        ways.append((tokens_per_step(acceptance, gamma) / costs.step(gamma), gamma))
    if predicted.from_text:
        ways.append((predicted.emitted / copied.step(predicted.rows), predicted.longest))
    speed, gamma = max(ways) if setting.method == "auto" else ways[-1]
    return Choice(setting, predicted.memory.peak, gamma, workload.batch * speed)


def choice_table(found: Sequence[Choice], acceptance: float, emitted: float) -> Table:
    """The settings as a table; those that do not fit a chip say so."""
    rows = []
    for one in found:
        s, speed, gain = one.setting, one.tokens_per_second, one.speed_up
        told = ("does not fit", "-") if speed is None else (f"{speed:,.0f}", "-" if gain is None else f"{gain:.2f}")
        formats = (s.weights or "bfloat16", s.kv or "bfloat16", s.drafter or "-")
        rows.append((s.method, *formats, f"{one.gamma or '-'}", f"{one.peak / 1e9:,.1f}", *told))
    columns = ("method", "weights", "keys, values", "drafter", "gamma", "GB of a chip", "tokens/s", "speed-up")
    note = (
        f"Speed-ups are over lc in bfloat16. Assumed: {acceptance:g} of the tokens that a model drafts are kept, and "
        f"{emitted:g} tokens a step with a draft from a text. auto is shown with the source that is fastest then. "
        "Every row is lossless for the target in its own formats."
    )
    return Table("what to run", columns, tuple(rows), note)

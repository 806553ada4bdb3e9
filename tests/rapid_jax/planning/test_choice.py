"""What to run: settings are predicted side by side, and nothing is compiled twice."""

import dataclasses

import jax.numpy as jnp
import pytest

from models import ModelConfig
from models.sharding import make_mesh
from rapid_jax.planning import choice, predict
from rapid_jax.planning.choice import Setting
from rapid_jax.planning.cost import Rates
from rapid_jax.planning.shapes import Plan, Workload

CONFIG = ModelConfig(
    family="llama", vocab_size=512, width=64, ffn_width=128, num_layers=2, num_heads=8, num_kv_heads=2, head_dim=16,
    max_position=32_768,
)  # fmt: skip
RATES = Rates(1e10, 1e11, 1e9, 1e-6)
WORKLOAD = Workload(2048, gamma=3, chunk=256, new_tokens=32, passages=512, pages=256, tokens_per_step=3.0)
SETTINGS = (
    Setting("lc"), Setting("copy"), Setting("copy", "int4"), Setting("sd", "", "", "int4"), Setting("pages", "", "", "int4"),
    Setting("hd"), Setting("auto", "", "", "int4"),
)  # fmt: skip


@pytest.fixture(scope="module")
def plan():
    return Plan(CONFIG, make_mesh((1, 1, 2)), jnp.float32)


@pytest.fixture(scope="module")
def found(plan):
    compiled, original = [], predict.compile_program

    def counted(*args, **kwargs):
        compiled.append(1)
        return original(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict, "compile_program", counted)
        choices = choice.choices(plan, WORKLOAD, RATES, 10**12, settings=SETTINGS, acceptance=0.9)
    return {one.setting: one for one in choices}, len(compiled), choices


def test_settings_are_ordered_by_speed_and_compared_with_the_first(found):
    """A table whose best row is not the first would be read wrongly."""
    by_setting, _, ordered = found
    speeds = [one.tokens_per_second for one in ordered]
    assert speeds == sorted(speeds, reverse=True) and len(ordered) == len(SETTINGS)
    base = by_setting[Setting("lc")]
    assert base.speed_up == 1 and base.gamma == 0
    for one in ordered:
        assert one.speed_up == pytest.approx(one.tokens_per_second / base.tokens_per_second)
    assert by_setting[Setting("copy")].gamma == 3
    assert 1 <= by_setting[SETTINGS[3]].gamma <= 16


def test_int4_weights_take_less_of_a_chip(found):
    """Bytes of int4 are half bytes there."""
    by_setting, _, _ = found
    assert by_setting[Setting("copy", "int4")].peak < by_setting[Setting("copy")].peak


def test_programs_are_shared(found):
    """lc's step and the prefill are those of copy and sd in the same formats."""
    _, compiled, _ = found
    prefills, steps = 2, ["lc", "copy", "lc int4", "copy int4", "rag int4", "sd", "hd", "auto"]
    assert compiled == prefills + len(steps) + len(["pages", "over pages int4", "choosing int4"])


def test_auto_is_as_fast_as_its_fastest_source(found):
    """It holds what copies and pages hold, and draws from the better of the two."""
    by_setting, _, _ = found
    auto, copy, pages = (
        next(by_setting[s] for s in SETTINGS if s.method == name) for name in ("auto", "copy", "pages")
    )
    lc = by_setting[Setting("lc")]
    best = max((lc, copy, pages), key=lambda one: one.tokens_per_second)
    assert (auto.tokens_per_second, auto.gamma) == (best.tokens_per_second, best.gamma)
    assert auto.peak >= max(copy.peak, pages.peak)


def test_databases_draft_no_more_than_a_candidate_has(found, plan):
    """Four tokens; whoever assumes nine a step is told the speed of five."""
    by_setting, _, _ = found
    assert by_setting[Setting("hd")].gamma == 4
    hoped = dataclasses.replace(WORKLOAD, tokens_per_step=9.0)
    (most,) = choice.choices(plan, hoped, RATES, 10**12, settings=[Setting("hd")], acceptance=0.9)
    assert most.tokens_per_second == pytest.approx(by_setting[Setting("hd")].tokens_per_second * 5 / 3)


def test_what_does_not_fit_is_said_and_comes_last(plan, monkeypatch):
    """A speed on a slice that cannot hold the model would be believed."""
    original = choice.memory

    def larger(plan, *args):
        held = original(plan, *args)
        return held if plan.weights else dataclasses.replace(held, weights=10**12)

    monkeypatch.setattr(choice, "memory", larger)
    found = choice.choices(plan, WORKLOAD, RATES, 10**11, settings=SETTINGS[:3:2], acceptance=0.9)
    table = choice.choice_table(found, 0.9, WORKLOAD.tokens_per_step)
    assert found[-1].setting == Setting("lc") and found[-1].tokens_per_second is None
    assert found[0].tokens_per_second and found[0].speed_up is None, "there is nothing to compare it with"
    assert table.rows[-1][-2:] == ("does not fit", "-") and table.rows[0][:3] == ("copy", "int4", "bfloat16")

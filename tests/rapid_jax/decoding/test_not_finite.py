"""NaN and infinity in a model: found in the step, in any row, and never where there is none."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rapid_jax.decoding.drafter import CandidateDraft, ChainDraft
from rapid_jax.decoding.state import DRAFTER, TARGET, BurstReport, NotFinite, check_finite
from rapid_jax.decoding.step import _not_finite

ROWS, GAMMA, VOCAB = 3, 2, 4
NAN, INF = float("nan"), float("inf")


def chain(probs):
    none = jnp.zeros((ROWS,), jnp.int32)
    return ChainDraft(jnp.zeros(probs.shape[:2], jnp.int32), probs, none, none)


@pytest.mark.parametrize(
    "in_target, in_drafter, expected",
    [
        ({}, {}, [0, 0, 0]),
        ({(0, 0, 3): NAN}, {}, [TARGET, 0, 0]),
        ({(2, 2, 0): INF}, {}, [0, 0, TARGET]),
        ({(0, 1, 1): -INF, (1, 0, 3): -INF}, {}, [0, 0, 0]),  # masked, or the padding of a vocabulary
        ({}, {(1, 1, 2): NAN}, [0, DRAFTER, 0]),
        ({}, {(1, 0, 0): INF}, [0, DRAFTER, 0]),
        ({(1, 2, 2): NAN}, {(1, 0, 1): NAN, (2, 1, 1): NAN}, [0, TARGET | DRAFTER, DRAFTER]),
    ],
)
def test_each_row_says_whose_numbers_are_not_finite(in_target, in_drafter, expected):
    """The line that ends a run must name the model whose checkpoint is broken, and a sound one never."""
    logits, probs = np.ones((ROWS, GAMMA + 1, VOCAB), np.float32), np.full((ROWS, GAMMA, VOCAB), 0.25, np.float32)
    for place, number in in_target.items():
        logits[place] = number
    for place, number in in_drafter.items():
        probs[place] = number
    assert _not_finite(jnp.asarray(logits), chain(jnp.asarray(probs))).tolist() == expected
    only_target = [found & TARGET for found in expected]
    assert _not_finite(jnp.asarray(logits), chain(jnp.zeros((ROWS, 0, VOCAB)))).tolist() == only_target
    none = jnp.zeros((ROWS, 2), jnp.int32)
    candidates = CandidateDraft(jnp.zeros((ROWS, 2, 1), jnp.int32), none, none, none[:, :0], none[:, 0])
    assert _not_finite(jnp.asarray(logits), candidates).tolist() == only_target


@pytest.mark.parametrize(
    "rows, model",
    [
        ([0, 0], None),
        ([0, DRAFTER], "drafter"),
        ([TARGET, 0], "target"),
        ([DRAFTER, TARGET], "target"),
        ([3], "target"),
    ],
)
def test_the_host_names_one_model(rows, model):
    """The target comes first: in self-speculation it is both."""
    report = BurstReport(None, None, None, None, np.array(rows, np.int32), None)
    if model is None:
        check_finite(report)
        return
    with pytest.raises(NotFinite, match=f"^the {model} computes numbers that are not finite") as error:
        check_finite(report)
    assert error.value.model == model and "\n" not in str(error.value)
    assert str(NotFinite(model, "(/there)")).startswith(f"the {model} (/there) computes")


def poisoned(model, name, place, number):
    """A model with one number replaced in one of its arrays."""

    def change(path, x):
        return x.at[place].set(number) if jax.tree_util.keystr(path).startswith(f"['{name}']") else x

    return dataclasses.replace(model, params=jax.tree_util.tree_map_with_path(change, model.params))


@pytest.mark.parametrize("number", [NAN, INF])
def test_one_broken_weight_of_the_target_ends_the_run(lab, monkeypatch, number):
    """Within the first burst, and not as an answer of zeros."""
    spec = lab.spec()
    monkeypatch.setattr(lab, "target", poisoned(lab.target, "final_norm", (3,), number))
    with pytest.raises(NotFinite, match="the target"):
        lab.run(spec, lab.questions)


def test_a_drafter_that_breaks_in_one_row_ends_the_run(lab):
    """That row is over first, and the others, which never meet the broken word, must not hide what was found."""
    drafter, spec = poisoned(lab.drafter, "embed", (7,), NAN), lab.spec(gamma=1)
    broken, sound = lab.questions[1], lab.questions[3]  # 7, 7 and 4, 1, 2
    start = dict(drafter=drafter, rows=[1, 3, 3, 3], seed=5)
    finite = lab.run(spec, [broken, *[sound] * 3], budget=[0, 6, 6, 6], **start)
    assert not finite.not_finite.any() and finite.num_tokens.tolist() == [0, 6, 6, 6] and 7 not in finite.output
    reports = lab.bursts(spec, lab.start(spec, [broken, *[sound] * 3], budget=[1, 6, 6, 6], **start), burst_steps=4)
    next(reports)
    with pytest.raises(NotFinite, match="the drafter"):
        next(reports)

"""Speed by task: figures worked out by hand, intervals, counts, and the base at a method's own temperature."""

import math

import numpy as np
import pytest

from rapid_jax.evaluation import task_tables
from rapid_jax.evaluation.benchmarks.spec_bench import TASKS
from rapid_jax.evaluation.series import read_series
from rapid_jax.evaluation.statistics import ratio_interval
from tests.rapid_jax.evaluation.records import make_record


@pytest.fixture
def series():
    """lc takes 1 second for each of two facts and 2 for a dossier; pld half the seconds and half the steps."""
    plain = [make_record("1"), make_record("2"), make_record("3", task="dossier", seconds=2.0)]
    fast = [
        make_record("1", "pld", seconds=0.5, steps=1),
        make_record("2", "pld", seconds=0.5, steps=1),
        make_record("3", "pld", task="dossier", seconds=1.0, steps=1),
    ]
    return read_series([*plain, *fast])


def test_tokens_per_step_have_counts_and_an_overall_column(series):
    table = task_tables.tokens_per_step(series)
    assert table.columns == ("method", "dossier (1)", "fact (2)", "overall (3)")
    assert table.rows[0] == ("lc", "1.00", "1.00 [1.00, 1.00]", "1.00 [1.00, 1.00]")
    assert table.rows[1] == ("pld", "2.00", "2.00 [2.00, 2.00]", "2.00 [2.00, 2.00]")


def test_nothing_drafted_is_no_table_of_tokens_per_step():
    """Rows of ones would only say that lc is lc."""
    plain = [make_record("1", acceptance={"proposed": 0}), make_record("2", "rag", acceptance={"proposed": 0})]
    assert task_tables.tokens_per_step(read_series(plain)) is None


def test_speed_up_by_task_is_of_decoding_alone(series):
    lc, pld = task_tables.speed_by_task(series).rows
    assert lc == ("lc", "1.00x", "1.00x", "1.00x")
    assert pld == ("pld", "2.00x", "2.00x [2.00, 2.00]", "2.00x [2.00, 2.00]")
    assert task_tables.speed_by_task(series[1:]) is None


def test_a_question_s_speed_is_tokens_over_wall_time(series):
    """Spec-Bench takes the mean over questions and the ratio of means, prefill and retrieval included."""
    lc, pld = task_tables.question_speed(series).rows
    # two tokens in 0.5 + 2 + 1 seconds, twice, and in 0.5 + 2 + 2 seconds; pld in 0.5 + 2 + 0.5 and 0.5 + 2 + 1
    assert lc == ("lc", "0.4, 1.00x", "0.6, 1.00x", "0.5, 1.00x")
    assert pld == ("pld", "0.6, 1.29x", "0.7, 1.17x [1.17, 1.17]", "0.6, 1.20x [1.20, 1.20]")
    (alone,) = task_tables.question_speed(series[1:]).rows
    assert alone == ("pld", "0.6", "0.7", "0.6")


def test_each_temperature_has_its_own_base_and_a_cell_of_fewer_questions_says_so():
    """A sampled answer beside the greedy base would compare two texts; an unfinished run lacks the last ones."""
    records = []
    for temperature, seconds in ((0.0, 1.0), (1.0, 4.0)):
        warm = {"variation": {"temperature": temperature}}
        records += [make_record(name, seconds=seconds, **warm) for name in ("1", "2")]
        records.append(make_record("1", "pld", seconds=1.0, **warm))
    table = task_tables.speed_by_task(read_series(records))
    assert table.columns == ("method", "fact (2)")
    assert [row[1] for row in table.rows] == ["1.00x", "1.00x (1)", "1.00x", "4.00x (1)"]


def test_spec_bench_s_tasks_have_the_names_and_the_order_of_its_tables():
    records = [make_record(str(n), task=task) for n, task in enumerate(sorted(TASKS))]
    table = task_tables.tokens_per_step(read_series(records), TASKS)
    assert table.columns[1:3] == ("multi-turn conversation (1)", "translation (1)")
    assert table.columns[-2:] == ("retrieval-augmented generation (1)", "overall (6)")


def test_an_interval_of_a_ratio_holds_it_and_grows_with_the_spread():
    """Half of all intervals of a fair coin's resamples would not hold its mean; equal questions have no spread."""
    rng = np.random.default_rng(0)
    steps = np.full(200, 10.0)
    tokens = rng.poisson(20, 200)
    found = ratio_interval({"a": np.stack([tokens, steps], axis=1)}, lambda t: t[..., 0] / t[..., 1])
    error = tokens.std() / math.sqrt(200) / 10
    assert found.value == tokens.sum() / 2000
    assert found.low == pytest.approx(found.value - 1.96 * error, abs=0.2 * error)
    assert found.high == pytest.approx(found.value + 1.96 * error, abs=0.2 * error)


def test_one_question_has_no_interval():
    found = ratio_interval({"a": np.ones((1, 2))}, lambda t: t[..., 0] / t[..., 1])
    assert found.value == 1.0 and math.isnan(found.low)


def test_a_clock_that_saw_no_time_is_no_figure():
    instant = [make_record("1", "lc"), make_record("1", "pld", seconds=1.0)]
    instant[1]["turns"][0]["seconds"]["decode"] = 0.0
    assert task_tables.speed_by_task(read_series(instant)).rows[1][1] == "-"

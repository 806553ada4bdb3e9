"""Spec-Bench: plain conversations of one or two turns, grouped as its tables have them."""

import pytest

from rapid_jax.config import EngineConfig, SamplingConfig
from rapid_jax.evaluation.benchmarks.selection import Selection
from rapid_jax.evaluation.benchmarks.spec_bench import MT_BENCH, OTHERS, TASKS, SpecBench


def record(number, category="qa", turns=("Who?",), **fields):
    return {"question_id": number, "category": category, "turns": list(turns), **fields}


def test_the_eight_categories_of_mt_bench_make_one_task(write_records):
    """The published tables have six columns; eight of ten questions each would be noise."""
    records = [record(i, category) for i, category in enumerate((*MT_BENCH, *OTHERS))]
    (source,) = SpecBench(write_records("question.jsonl", records)).sources()
    assert source.text == ""
    assert [item.task for item in source.items] == ["mt_bench"] * 8 + list(OTHERS)
    assert [item.id for item in source.items] == [str(i) for i in range(13)]
    assert all(item.max_new_tokens == 1024 and item.question == "Who?" for item in source.items)


def test_so_many_questions_of_each_task_are_of_every_category(write_records):
    """The file has ten of writing first: the first ten alone would say nothing of coding or mathematics."""
    records = [record(2 * i + n, category) for i, category in enumerate((*MT_BENCH, *OTHERS)) for n in (0, 1)]
    benchmark = SpecBench(write_records("question.jsonl", records))
    (source,) = benchmark.sources()
    assert [item.id for item in source.items] == [str(i) for i in (*range(0, 16, 2), *range(1, 16, 2), *range(16, 26))]
    (chosen,) = Selection(benchmark, limit=1).sources()
    assert [item.task for item in chosen.items] == list(TASKS)


def test_the_second_turn_follows_the_whole_conversation(write_records):
    """Without the first answer the second question means nothing."""
    data = write_records("question.jsonl", [record(81, "writing", ("Write.", "Again.")), record(161, "translation")])
    benchmark = SpecBench(data)
    (source,) = benchmark.sources()
    two, one = source.items
    assert two.question == two.retrieval_query == "Write."
    turn = benchmark.follow_up(two, ["First answer."])
    assert turn.max_new_tokens == 1024
    assert turn.messages == (
        {"role": "user", "content": "Write."},
        {"role": "assistant", "content": "First answer."},
        {"role": "user", "content": "Again."},
    )
    assert benchmark.follow_up(two, ["First answer.", "Second."]) is None
    assert benchmark.follow_up(one, ["Answer."]) is None


def test_there_is_no_score_and_decoding_is_greedy(write_records):
    """A made-up quality number would look like a result."""
    benchmark = SpecBench(write_records("question.jsonl", [record(1)]))
    (source,) = benchmark.sources()
    assert benchmark.metrics == () and benchmark.score(source.items[0], ["Somebody."]) == {}
    assert SamplingConfig(**benchmark.sampling).temperature == 0
    EngineConfig(prompt=benchmark.template)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (record(2, "cooking"), "field 'category' must be one of writing"),
        (record(2, turns=()), "field 'turns' must be a list of strings"),
        (record(2, turns=("Who?", " ")), "field 'turns' must hold strings that are not empty"),
        (record(1), "id '1' appears twice"),
        ({"category": "qa", "turns": ["Who?"]}, "field 'question_id' is missing"),
    ],
)
def test_a_bad_record_is_named(write_records, bad, message):
    """A question that is dropped or asked empty would change the mean speed."""
    with pytest.raises(ValueError, match=f"question.jsonl, line 2: {message}"):
        SpecBench(write_records("question.jsonl", [record(1), bad]))


def test_the_fingerprint_follows_the_data(write_records):
    """Speeds over different questions must not be averaged."""
    first = SpecBench(write_records("question.jsonl", [record(1)])).fingerprint
    assert SpecBench(write_records("copy.jsonl", [record(1)])).fingerprint == first
    assert SpecBench(write_records("question.jsonl", [record(1), record(2)])).fingerprint != first


def test_a_bad_record_among_good_ones_is_an_item_with_its_problem(write_records):
    """One conversation that is none must not end the other 479."""
    path = write_records("question.jsonl", [record(1), record(2, turns=[" "]), record(3, category="cooking")])
    good, bad = SpecBench(path, keep_bad=True).sources()
    assert [item.id for item in good.items] == ["1"]
    assert [(item.id, item.task) for item in bad.items] == [("line 2", "specbench"), ("line 3", "specbench")]
    assert "field 'turns' must hold strings" in bad.items[0].problem

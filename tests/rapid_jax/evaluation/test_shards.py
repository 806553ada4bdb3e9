"""A benchmark in parts: every question in exactly one of them, every document read by one job."""

import pytest

from rapid_jax.evaluation.benchmarks.base import Item, Source
from rapid_jax.evaluation.benchmarks.files import Record
from rapid_jax.evaluation.shards import Part, Shard


class Made:
    """Documents with two questions each, and conversations."""

    def __init__(self, prefix, documents, conversations=0):
        self._documents, self._conversations = [f"{prefix}{n}" for n in range(documents)], conversations
        self._prefix = prefix

    def sources(self):
        for name in self._documents:
            yield Source(name, "text", (item(f"{name}/x"), item(f"{name}/y")))
        if self._conversations:
            yield Source("talks", "", tuple(item(f"{self._prefix}talk{n}") for n in range(self._conversations)))


def item(name):
    return Item(name, "task", "What?", "What?", None, 4)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 11])
def test_every_question_is_in_one_shard_and_documents_stay_whole(count):
    """A question in no shard would be missing from the merged report, one in two would count twice."""
    benchmarks = [Made("a", 4), Made("b", 3, conversations=4)]
    parts = [Part.of(Shard(index, count), benchmarks) for index in range(count)]
    for number, benchmark in enumerate(benchmarks):
        asked = [part.asked(number) for part in parts]
        everything = [item.id for source in benchmark.sources() for item in source.items]
        assert sorted(one for ids in asked for one in ids) == sorted(everything)
        for ids in asked:
            assert {one[:-1] + "y" for one in ids if one.endswith("/x")} == {one for one in ids if one.endswith("/y")}
    sizes = [sum(map(len, part.questions)) for part in parts]
    assert sum(sizes) == 11 and max(sizes) - min(sizes) <= 1


def test_places_are_those_of_the_whole_benchmark():
    """The merged results are in the order of an unsharded run."""
    benchmarks = [Made("a", 2), Made("b", 1, conversations=2)]
    places = {}
    for index in range(3):
        places |= Part.of(Shard(index, 3), benchmarks).places([64, 128])
    assert places == {
        (64, "a0/x"): 0, (64, "a0/y"): 0, (64, "a1/x"): 1, (64, "a1/y"): 1,
        (128, "b0/x"): 2, (128, "b0/y"): 2, (128, "btalk0"): 3, (128, "btalk1"): 4,
    }  # fmt: skip


def test_more_shards_than_documents_are_refused():
    """A job without a question would end without results, and its directory would look like a failure."""
    with pytest.raises(ValueError, match="4 shards are more than the 3 documents .* take 3 at most"):
        Part.of(Shard(3, 4), [Made("a", 1), Made("b", 1, conversations=1)])


@pytest.mark.parametrize(
    "text", ["", "1", "1/0", "-1/4", "a/b", "1/4/2", "0.5/4", "1 / 4", "\u00b2/4", "1/9999999", "0/"]
)
def test_what_is_no_shard_is_said_in_one_line(text):
    with pytest.raises(ValueError, match="a shard is I/N with I from 0 to N-1, such as 0/4 to 3/4, got"):
        Shard.parse(text)


def test_shards_are_counted_from_0():
    """Someone who counts from 1 must learn it at the first job, not from a merged report."""
    assert [str(Shard.parse(f"{index}/2")) for index in (0, 1)] == ["0/2", "1/2"]
    with pytest.raises(ValueError, match="counted from 0: of 4 the last one is 3/4, got 4/4"):
        Shard.parse("4/4")


def test_a_part_is_read_as_it_was_written():
    part = Part.of(Shard(1, 2), [Made("a", 3), Made("b", 1, conversations=1)])
    written = {"part": "1/2", "questions": [[list(ids) for ids in documents] for documents in part.questions]}
    assert Part.read(Record("m", written), 2) == part
    assert {**part.to_dict(), "questions": written["questions"]} == written


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"part": "2/2"}, "counted from 0"),
        ({"part": 3}, "field 'part' must be a string"),
        ({"questions": None}, "ids of the items of 1 context lengths"),
        ({"questions": []}, "ids of the items of 1 context lengths"),
        ({"questions": [["a"]]}, "ids of the items of 1 context lengths"),
        ({"questions": [[[1]]]}, "ids of the items of 1 context lengths"),
    ],
)
def test_a_damaged_part_is_named_by_its_file(change, message):
    record = Record("out/manifest.json", {"part": "1/2", "questions": [[["a"]]], **change})
    with pytest.raises(ValueError, match=f"^out/manifest.json: .*{message}"):
        Part.read(record, 1)

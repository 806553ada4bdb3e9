"""Results of shards as one directory: equal to those of an unsharded run, or one line that says what does not fit."""

import copy
import json

import pytest

from rapid_jax.evaluation.compilation import COMPILATION, read_compilation
from rapid_jax.evaluation.distribution_shift_table import read_shifts, write_shifts
from rapid_jax.evaluation.merging import merge
from rapid_jax.evaluation.report import Report
from rapid_jax.evaluation.results import FAILED
from rapid_jax.evaluation.store import MANIFEST, RESULTS, ResultStore, read_manifest, read_results
from tests.rapid_jax.evaluation.records import make_record

MANIFESTED = {
    "benchmark": {"name": "archive", "context_lengths": [2048, 4096], "fingerprints": ["x", "y"]},
    "config": {"target": "", "speculation": {"eta": 10.0}},
    "versions": {"jax": "1.2.3"},
}
DOCUMENTS = [("a", 2048), ("b", 2048), ("c", 2048), ("d", 4096), ("e", 4096)]
WAYS = [("lc", {}), ("rapid", {"eta": 1.0}), ("rapid", {"eta": 2.0})]


def results(document):
    """Two items about a document, asked in three ways; one of them cannot be asked."""
    name, length = document
    for method, variation in WAYS:
        for item in (f"{name}-1", f"{name}-2"):
            found = make_record(item, method, variation=variation, context_length=length, source=name)
            found["key"] = f"{length}|{found['key']}"
            if (item, method) in (("b-2", "rapid"), ("c-1", "lc")):
                found = {k: v for k, v in found.items() if k not in ("scores", "turns", "batch")} | {
                    FAILED: f"no {item}"
                }
            yield found


def figures(document):
    name, length = document
    rest = {"residual": "rapid", "eta": 1.0, "temperature": 1.0}
    measured = {"from_p": 0.1, "from_p_hat": 0.2, "p_hat_from_p": 0.3, "acceptance": 0.9}
    return [{"context_length": length, "item": f"{name}-1", "task": "fact", "tail": "teacher", **rest, **measured}]


def write(directory, documents, manifest):
    with ResultStore(directory, manifest) as store:
        for document in documents:
            store.append(results(document))
    write_shifts(directory, [line for document in documents for line in figures(document)])
    (directory / COMPILATION).write_text(json.dumps({"programs": len(documents), "seconds": 1.5}) + "\n")
    return directory


def sharded(index, count=2):
    """The manifest of a shard."""
    mine = DOCUMENTS[index::count]
    questions = [[[f"{n}-1", f"{n}-2"] for n, length in mine if length == wanted] for wanted in (2048, 4096)]
    return copy.deepcopy(MANIFESTED) | {"shard": {"part": f"{index}/{count}", "questions": questions}}


@pytest.fixture
def shards(tmp_path):
    """Directories of both shards."""
    return [write(tmp_path / f"shard{n}", DOCUMENTS[n::2], sharded(n)) for n in range(2)]


def rewrite(directory, change):
    """Changes the manifest of a directory."""
    path = directory / MANIFEST
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def keep_lines(directory, keep):
    """Takes lines of results away; `keep` is told each line's number and fields."""
    path = directory / RESULTS
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for number, line in enumerate(lines) if keep(number, json.loads(line))))


def test_merged_results_are_those_of_an_unsharded_run(shards, tmp_path):
    """The same manifest, lines in the same order, failures and figures of the rules included: the same report."""
    whole = write(tmp_path / "whole", DOCUMENTS, MANIFESTED)
    merge(shards[::-1], tmp_path / "merged")
    for name in (MANIFEST, RESULTS):
        assert (tmp_path / "merged" / name).read_text() == (whole / name).read_text()
    assert read_shifts(tmp_path / "merged") == read_shifts(whole)
    assert read_compilation(tmp_path / "merged") == [(3, 1.5), (2, 1.5)]
    reports = [Report(tmp_path / name, timings=False).markdown(pictures=[]) for name in ("whole", "merged")]
    assert reports[0] == reports[1] and "27 answers; failed: 3; items: 10; documents: 5;" in reports[0]
    with ResultStore(tmp_path / "merged", MANIFESTED) as store:  # an unsharded run could go on there
        assert len(store.keys) == 30


def test_a_shard_that_is_missing_is_named_or_noted(shards, tmp_path, caplog):
    """Half of a benchmark must not pass for all of it."""
    four = [write(tmp_path / f"of4-{n}", DOCUMENTS[n::4], sharded(n, 4)) for n in range(4)]
    with pytest.raises(ValueError, match=r"^shard 2 of 4 is missing \(they are counted from 0\)\. --partial merges"):
        merge([*four[:2], four[3]], tmp_path / "merged")
    with pytest.raises(ValueError, match="^shards 0, 3 of 4 are missing"):
        merge(four[1:3], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    merge(four[1:3], tmp_path / "merged", partial=True)
    assert "a partial report: shards 0, 3 of 4 are missing" in caplog.text
    text = Report(tmp_path / "merged").markdown()
    assert "A part of the benchmark: shards 0, 3 of 4 are missing" in text and "documents: 2;" in text
    with pytest.raises(ValueError, match="partial"):
        ResultStore(tmp_path / "merged", MANIFESTED)
    merge(four, tmp_path / "merged")  # what was a part becomes the whole
    assert "A part of" not in Report(tmp_path / "merged").markdown()
    assert len(read_results(tmp_path / "merged")) == 30


def test_a_shard_that_has_not_come_to_its_end_is_named(shards, tmp_path):
    """A job that was killed, and one that was given fewer methods, lack answers that no directory shows by itself."""
    keep_lines(shards[1], lambda number, line: number != 7)
    with pytest.raises(ValueError, match=r"^shard 1/2 lacks 1 of 12 answers, the first lc to d-2\. --partial"):
        merge(shards, tmp_path / "merged")
    keep_lines(shards[1], lambda number, line: line["variation"] != {"eta": 2.0})
    with pytest.raises(ValueError, match=r"shard 1/2 lacks 5 of 12 answers, the first rapid \(eta 2\) to b-1"):
        merge(shards, tmp_path / "merged")
    (shards[0] / "rules.jsonl").unlink()
    with pytest.raises(ValueError, match="shard 0/2 was run without --rules, or not to its end; shard 1/2 lacks"):
        merge(shards, tmp_path / "merged")
    merge(shards, tmp_path / "merged", partial=True)
    assert len(read_results(tmp_path / "merged")) == 25


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["config"]["speculation"].update(eta=5.0), r"config.speculation.eta = 5.0, .*shard0 with 10.0"),
        (lambda m: m["benchmark"].update(fingerprints=["x", "z"]), r"benchmark.fingerprints = \['x', 'z'\]"),
        (lambda m: m["versions"].update(jax="2"), r"versions.jax = '2', .* with '1.2.3': they are not of one evaluation"),
        (lambda m: m["versions"].update(more=1), r"versions.more = 1, .* with None"),
        (lambda m: m["shard"].update(part="0/2"), r"shard0 and .*shard1 are both shard 0/2"),
        (lambda m: m["shard"].update(part="1/3"), r"shard1 is shard 1/3 and .*shard0 shard 0/2"),
        (lambda m: m["shard"].update(questions=[[["b-1"]], [["d-1", "d-2"]]]), r"holds item 'b-2', which shard 1/2 does not"),
        (lambda m: m["shard"]["questions"][0].append(["a-1"]), r"shard0 and .*shard1 both ask item 'a-1'"),
        (lambda m: m["shard"].update(part="2/2"), r"shard1/manifest.json .*counted from 0"),
        (lambda m: m.update(shard=7), r"shard1/manifest.json .*'shard' must be an object"),
        (lambda m: m.pop("shard"), r"shard1 holds no shard of an evaluation: only runs with --shard are merged"),
        (lambda m: m["benchmark"].update(context_lengths=[2048]), r"shard1/manifest.json .*of 1 context lengths"),
        (lambda m: m["benchmark"].update(context_lengths="x"), r"shard1/manifest.json .*'context_lengths' must be"),
    ],
)  # fmt: skip
def test_what_does_not_belong_together_is_one_line(shards, tmp_path, change, message):
    """Results of two evaluations in one table would be compared as if they were one."""
    rewrite(shards[1], change)
    with pytest.raises(ValueError, match=message) as error:
        merge(shards, tmp_path / "merged", partial=True)
    assert "\n" not in str(error.value) and not (tmp_path / "merged").exists()


def test_the_results_of_others_are_never_lost(shards, tmp_path):
    """An --output that is a shard, or another evaluation, must not be overwritten."""
    before = (shards[0] / RESULTS).read_text()
    with pytest.raises(ValueError, match="shard0 is one of the shards"):
        merge(shards, tmp_path / "x" / ".." / "shard0")
    other = write(tmp_path / "other", [("z", 2048)], MANIFESTED)
    with pytest.raises(ValueError, match="other holds 6 results that are not among these: name another directory"):
        merge(shards, other)
    assert len(read_results(other)) == 6 and (shards[0] / RESULTS).read_text() == before
    with ResultStore(tmp_path / "running", MANIFESTED), pytest.raises(OSError, match="being written by another"):
        merge(shards, tmp_path / "running")
    assert read_manifest(tmp_path / "running") == MANIFESTED
    with pytest.raises(FileNotFoundError, match="missing holds no results"):
        merge([*shards, tmp_path / "missing"], tmp_path / "merged")


def test_the_report_of_one_shard_says_so(shards):
    assert "Shard 1/2 of the benchmark alone." in Report(shards[1]).markdown(pictures=[])

"""A directory of results that was damaged: a report and a resumed run end right, or in one line that names the file."""

import json
import shutil

import pytest

from rapid_jax.evaluation.report import Report
from rapid_jax.evaluation.results import FAILED, check_result
from rapid_jax.evaluation.store import MANIFEST, RESULTS, open_store, read_results
from tests.rapid_jax.evaluation.records import make_record

COMMON = {
    "benchmark": {"name": "archive", "context_lengths": [2048]},
    "config": {"target": "", "speculation": {"eta": 10.0}},
    "versions": {"jax": "1.2.3"},
}


def good_lines():
    """Six answers of two methods, with everything that a line may hold, and one failure."""
    counts = {"drafter_forwards": 3, "accepted_by_source": {"history": 2}}
    records = [
        make_record(str(n), method, variation=variation, acceptance=counts, groups=["easy"])
        for method, variation in (("lc", {}), ("rapid", {"eta": 10.0}))
        for n in (1, 2, 3)
    ]
    failure = make_record("4", "lc", groups=[])
    for name in ("scores", "turns", "batch"):
        del failure[name]
    return [*records, {**failure, FAILED: "data.jsonl, line 4: field 'question' is missing"}]


@pytest.fixture
def directory(tmp_path):
    """A good directory of results."""
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / MANIFEST).write_text(json.dumps(COMMON))
    write(folder, good_lines())
    return folder


def write(folder, records, end="\n"):
    (folder / RESULTS).write_text("".join(json.dumps(record) + end for record in records), encoding="utf-8", newline="")


def resume(folder):
    """What launch.evaluate does with what is there; the names of the results that it will not ask again."""
    with open_store(folder, COMMON) as store:
        return store.keys


def paths(value, path=()):
    """Every place in a JSON value, the value itself left out."""
    for name, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, name)
        yield from paths(part, (*path, name))


def changed(value, path, new):
    """A copy of a JSON value with one place changed; new None removes it."""
    copy = json.loads(json.dumps(value))
    place = copy
    for name in path[:-1]:
        place = place[name]
    if new is REMOVED:
        del place[path[-1]]
    else:
        place[path[-1]] = new
    return copy


REMOVED = object()
ODD = [
    REMOVED, None, True, -1, 0, 0.5, 1e300, 2**70, float("nan"), float("inf"), "", " ", "x", "\ud800", "$a^{", [], [1],
    {}, {"a": {"b": 1}}, {"": 1}, {"x/y": 0.5},
]  # fmt: skip


def check_ends(folder, *names):
    """A report and a resumed run: each right, or one line with the name of one of these files."""
    for act in (lambda: Report(folder).markdown(pictures=[]), lambda: resume(folder)):
        try:
            act()
        except (ValueError, OSError) as error:
            message = str(error)
            assert "\n" not in message and any(name in message for name in names), repr(message)


@pytest.mark.slow
def test_a_field_of_the_wrong_kind_anywhere_is_named_or_harmless(directory):
    """Every place of an answer, of a failure and of the manifest, with twenty odd values each: about 1,900 damages."""
    records = good_lines()
    tried = 0
    for number in (3, 6):
        for path in paths(records[number]):
            for new in ODD:
                write(directory, [*records[:number], changed(records[number], path, new), *records[number + 1 :]])
                check_ends(directory, f"{RESULTS}, line {number + 1}", MANIFEST)
                tried += 1
    write(directory, records)
    for path in paths(COMMON):
        for new in ODD:
            (directory / MANIFEST).write_text(json.dumps(changed(COMMON, path, new)))
            check_ends(directory, MANIFEST, str(directory))
            tried += 1
    assert tried > 1000


def test_a_whole_report_of_damaged_results_is_drawn_or_refused(directory):
    """Tables, plots and the page, with the values that pass the checks."""
    records = good_lines()
    for name, new in (
        ("method", "$a^{"), ("task", "\ud800|<b>"), ("item", "\u00b2"), ("variation", {"eta": 2**61}),
        ("variation", {"drafter": 5}), ("variation", {"eta": -1e-300}), ("groups", ["a\nb"]), ("context_length", 2**61),
        ("scores", {}), ("scores", {"other": 1}),
    ):  # fmt: skip
        write(directory, [*records[:3], {**records[3], name: new}, *records[4:]])
        for path in Report(directory).write():
            assert path.read_text(encoding="utf-8")
    nothing = {"retrieval": 0, "prefill": 0, "decode": 0}
    turn = {**records[0]["turns"][0], "seconds": nothing, "token_ids": [], "acceptance": dict.fromkeys(
        ("steps", "proposed", "tested", "accepted"), 0)}  # fmt: skip
    write(directory, [{**record, "turns": [turn]} for record in records[:6]])
    (directory / MANIFEST).write_text(json.dumps({**COMMON, "benchmark": {"name": "specbench"}}))
    assert "nan" in Report(directory).markdown() and Report(directory).write()


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"[]", "holds [], not an object"),
        (b"{}", "holds {}, not an object"),
        (b"", "not JSON"),
        (b'{"benchmark": {"na', "not JSON"),
        (b"\xff\xfe", "not text in UTF-8"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"benchmark": ' + b'{"a": ' * 200 + b"1" + b"}" * 201, "nested more than 30 deep"),
        (b'{"a": ' + b"1" * 5000 + b"}", "a number of more than 4,300 digits"),
    ],
    ids=["list", "object", "empty", "cut", "bytes", "deep", "deep settings", "digits"],
)
def test_a_manifest_that_is_none_is_named(directory, contents, message):
    """An empty, cut or foreign manifest: the file is named, by the report and by a resumed run."""
    (directory / MANIFEST).write_bytes(contents)
    for act in (Report, resume):
        with pytest.raises(ValueError) as error:
            act(directory)
        assert str(directory / MANIFEST) in str(error.value) and message in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [MANIFEST, RESULTS])
def test_a_directory_in_the_place_of_a_file_is_named(directory, name):
    """A restored backup may hold one."""
    (directory / name).unlink()
    (directory / name).mkdir()
    for act in (Report, resume):
        with pytest.raises(OSError, match=name):
            act(directory)


@pytest.mark.parametrize("name", ["report.md", "report.html", "rules.jsonl"])
def test_a_directory_in_the_place_of_what_a_report_reads_or_writes_is_named(directory, name):
    (directory / name).mkdir()
    with pytest.raises(OSError, match=name):
        Report(directory).write()


def test_a_result_that_stands_twice_counts_once(directory, caplog):
    """Two files that were joined: the report must not count it twice, and a resumed run neither asks nor writes it."""
    records = good_lines()
    before = Report(directory).markdown()
    renamed = {**records[1], "key": "another name of the same answer"}
    write(directory, [*records, records[0], renamed, {**records[4], "scores": {"score": 0.0}}])
    assert Report(directory).markdown() == before
    assert "line 8 repeats line 1" in caplog.text and "line 9 repeats line 2" in caplog.text
    assert [record["key"] for record in read_results(directory)] == [record["key"] for record in records]
    assert set(resume(directory)) >= {record["key"] for record in records}
    lines = (directory / RESULTS).read_bytes().count(b"\n")
    with open_store(directory, COMMON) as store, pytest.raises(ValueError, match="is already there"):
        store.append([records[0]])
    assert (directory / RESULTS).read_bytes().count(b"\n") == lines == 10


@pytest.mark.parametrize("line", ["{cut", "", "7", "null", "[" * 100_000, '{"key": ["lc"]}', '{"key": ""}'])
def test_a_line_that_is_no_result_in_the_middle_is_named(directory, line):
    """Its number counts every line of the file; a line with nothing on it is none, and does no harm."""
    lines = [json.dumps(record) for record in good_lines()]
    (directory / RESULTS).write_text("\n".join([*lines[:2], line, *lines[2:]]) + "\n")
    if not line:
        assert len(read_results(directory, check_result)) == 7 == len(resume(directory))
        return
    for act in (Report, resume):
        with pytest.raises(ValueError, match=f"{RESULTS}, line 3: not a result of an evaluation: "):
            act(directory)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": {"score": float("nan")}}, "field 'score' must be a number of 0 to 1, got nan"),
        ({"scores": {"score": float("inf")}}, "field 'score' must be a number of 0 to 1, got inf"),
        ({"scores": {"score": None}}, "field 'score' must be a number of 0 to 1, got None"),
        ({"scores": {"score": "1.0"}}, "field 'score' must be a number of 0 to 1, got '1.0'"),
        ({"scores": {"score": True}}, "field 'score' must be a number of 0 to 1, got True"),
        ({"scores": [1.0]}, "field 'scores' must be an object"),
        ({"key": ["lc", "1"]}, "field 'key' must be a string"),
        ({"context_length": "2048"}, "field 'context_length' must be a whole number"),
        ({"turns": []}, "field 'turns' must be a list of at least one answer"),
        ({"batch": {"size": 0}}, "field 'size' must be a whole number of 1"),
        ({FAILED: 3}, "field 'failed' must be a string"),
    ],
)
def test_a_field_that_a_table_would_show_wrong_is_named(directory, change, message):
    """A score that is no number would become the mean of the whole table."""
    records = good_lines()
    write(directory, [*records[:4], {**records[4], **change}, *records[5:]])
    for act in (Report, resume):
        with pytest.raises(ValueError) as error:
            act(directory)
        assert f"{directory / RESULTS}, line 5: not a result" in str(error.value) and message in str(error.value)


@pytest.mark.parametrize("name", ["scores", "context_length", "turns", "key", "batch", "variation"])
def test_a_field_that_is_missing_is_named(directory, name):
    records = good_lines()
    del records[0][name]
    write(directory, records)
    for act in (Report, resume):
        with pytest.raises(ValueError, match=f"{RESULTS}, line 1: .*field '{name}' is missing"):
            act(directory)


def test_line_ends_of_windows_are_read(directory):
    """An editor may have saved them; the results are the same, and a resumed run keeps them."""
    before = Report(directory).markdown()
    write(directory, good_lines(), end="\r\n")
    assert Report(directory).markdown() == before
    assert len(resume(directory)) == 7 and len(read_results(directory)) == 7
    write(directory, good_lines(), end="\r")
    for act in (Report, resume):
        with pytest.raises(ValueError, match="its lines end in carriage returns"):
            act(directory)
    assert (directory / RESULTS).stat().st_size > 1000, "what cannot be read must not be cut off"


def test_no_results_yet_are_said_to_be_none_and_begun_anew(directory):
    """A run that was stopped before its first answer; another configuration may take the directory."""
    (directory / RESULTS).write_bytes(b"")
    (directory / MANIFEST).write_text("{}")
    with pytest.raises(ValueError, match=MANIFEST):
        Report(directory)
    assert resume(directory) == []
    with pytest.raises(ValueError, match="holds no results yet"):
        Report(directory)


def test_a_damaged_file_of_rule_figures_is_named_by_its_line(directory):
    good = {"context_length": 2048, "item": "1", "task": "fact", "tail": "teacher", "residual": "rapid", "eta": 10.0,
            "temperature": 1.0, "from_p": 0.1, "from_p_hat": 0.1, "p_hat_from_p": 0.1, "acceptance": 0.9}  # fmt: skip
    file = directory / "rules.jsonl"
    file.write_text(json.dumps(good) + "\n")
    assert "Verification rules" in Report(directory).markdown()
    once = Report(directory).markdown()
    file.write_text(f"{json.dumps(good)}\r\n" * 2)
    assert Report(directory).markdown() == once
    for name in good.keys() - {"task"}:
        for new in (None, [], "x", -5, float("nan")):
            if (name, new) == ("item", "x"):
                continue
            file.write_text(f"{json.dumps(good)}\n{json.dumps({**good, 'item': '2', name: new})}\n")
            with pytest.raises(ValueError, match="rules.jsonl, line 2: no figures of a verification rule"):
                Report(directory).markdown()
    file.write_text("[]\n")
    with pytest.raises(ValueError, match="rules.jsonl, line 1"):
        Report(directory).markdown()


def test_failures_are_counted_and_left_out_of_every_mean(directory):
    """A question that could not be asked is neither right nor wrong."""
    text = Report(directory).markdown()
    assert "6 answers; failed: 1; items: 3;" in text
    assert "| lc | 2,048 | 1 of 4 | 4: data.jsonl, line 4: field 'question' is missing |" in text
    assert "| lc | 100.0 ± 0.0 (3) |" in text
    write(directory, good_lines()[6:])
    only = Report(directory)
    assert "0 answers; failed: 1" in only.markdown() and [heading for heading, _ in only.tables()] == ["Not answered"]


def test_a_copied_directory_gives_the_same_report(directory, tmp_path):
    """Nothing of a report depends on where the results lie."""
    shutil.copytree(directory, tmp_path / "copy")
    assert Report(tmp_path / "copy").markdown() == Report(directory).markdown()

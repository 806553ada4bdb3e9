"""Tables, pictures and pages: figures worked out by hand from hand-made results."""

import re
import sys

import pytest

from rapid_jax.evaluation import tables
from rapid_jax.evaluation.plots import plots
from rapid_jax.evaluation.report import Report, html, markdown_table
from rapid_jax.evaluation.series import cost, outcomes, read_series, same_answers
from rapid_jax.evaluation.store import ResultStore
from tests.rapid_jax.evaluation.records import make_record

MANIFEST = {
    "benchmark": {"name": "archive", "context_lengths": [2048]},
    "config": {"target": "", "dtype": "float32"},
    "versions": {"jax": "1.2.3", "device": "cpu: test"},
}


@pytest.fixture
def series():
    """lc gets 1 of 2 facts and 1 of 1 dossiers; rapid gets all, in half the time, one answer with other tokens."""
    plain = [make_record("1"), make_record("2", score=0.0), make_record("3", task="dossier", seconds=2.0)]
    fast = [
        make_record("1", "rapid", seconds=0.5, steps=1),
        make_record("2", "rapid", seconds=0.5, steps=1, tokens=(7, 2)),
        make_record("3", "rapid", task="dossier", seconds=1.0, steps=1),
    ]
    return read_series([*plain, *fast])


def test_quality_has_counts_errors_and_an_average_of_tasks(series):
    """A bare mean says nothing; three questions of two tasks average the tasks."""
    table = tables.quality(series, "score")
    assert table.columns == ("method", "dossier", "fact", "average")
    assert table.rows[0] == ("lc", "100.0 (1)", "50.0 ± 50.0 (2)", "75.0 (3)")
    assert table.rows[1][0] == "rapid" and table.rows[1][2] == "100.0 ± 0.0 (2)"


def test_groups_are_further_columns():
    """LongBench's easy and hard questions are counted beside the overall score."""
    records = [make_record("1", groups=["easy", "short"]), make_record("2", score=0.0, groups=["hard", "short"])]
    table = tables.quality(read_series(records), "score")
    assert table.columns == ("method", "fact", "easy", "short", "hard")
    assert table.rows[0][2:] == ("100.0 (1)", "50.0 ± 50.0 (2)", "0.0 (1)")


def test_differences_are_on_shared_questions_and_marked(series):
    """RAPID's gain over the target must come with its interval."""
    table = tables.differences(series, "score")
    assert [row[0] for row in table.rows] == ["rapid - lc"]
    assert table.rows[0][1].startswith("+0.0 [+0.0, +0.0]") and table.rows[0][3].startswith("+25.0 [+0.0, +50.0]")
    partly = [*series[0].records, make_record("2", "rag", score=1.0)]
    (row,) = tables.differences(read_series(partly), "score").rows
    assert row[0] == "rag - lc" and row[1] == "-" and row[2].startswith("+100.0")


def test_accepted_tokens_are_counted_by_database():
    """Which database pays, and how many forwards of the drafter its drafts take."""
    by_source = {"drafter_forwards": 0, "accepted_by_source": {"history": 3, "context": 1}}
    records = [
        make_record("1"),
        make_record("1", "hd", steps=2, acceptance=by_source),
        make_record("1", "rapid+hd", steps=2, acceptance={"drafter_forwards": 4}),
    ]
    table = tables.drafts(read_series(records))
    assert table.columns == ("method", "tokens/step", "from history", "from context", "drafter forwards/drafted")
    assert table.rows == (
        ("lc", "1.00", "-", "-", "-"),
        ("hd", "1.00", "1.50", "0.50", "-"),
        ("rapid+hd", "1.00", "-", "-", "0.40"),
    )
    assert tables.drafts(read_series([make_record("1")])) is None


def test_speed_counts_every_batch_once():
    """Two rows of one batch share its seconds; counting them twice would halve the speed."""
    records = [make_record(str(n), seconds=1.0, size=2, batch={"first": "0", "size": 2, "row": n}) for n in range(2)]
    found = cost(records)
    assert (found.tokens, found.decode, found.tokens_per_second) == (4, 1.0, 4.0)
    assert found.prefill_seconds == 2.0 and found.end_to_end == 3.5
    assert found.kept_over("tested") == 0.8 and found.kept_over("proposed") == 0.4


def test_speed_ups_are_decode_only_and_end_to_end(series):
    """Twice the decoding speed is not twice the speed of an answer."""
    plain, fast = tables.speed(series).rows
    assert plain[3] == "1.00x" and plain[5] == "1.00x"
    assert fast[3] == "2.00x"
    assert fast[5] == f"{(3 * 2.5 + 4) / (3 * 2.5 + 2):.2f}x"
    assert fast[6] == "2.00"


def test_a_method_is_compared_with_lc_at_its_own_temperature():
    """A sweep over temperature has two baselines; the wrong one would make a gain of nothing."""
    records = []
    for temperature, score, seconds in ((0.0, 0.0, 1.0), (1.0, 1.0, 4.0)):
        warm = {"temperature": temperature}
        records.append(make_record("1", score=score, seconds=seconds, variation=warm))
        records.append(make_record("1", "rapid", score=1.0, seconds=1.0, variation={"eta": 5.0, **warm}))
    series = read_series(records)
    names = [row[0] for row in tables.differences(series, "score").rows]
    assert names == [f"rapid (eta 5, temperature {t}) - lc (temperature {t})" for t in (0, 1)]
    assert [row[3] for row in tables.speed(series).rows] == ["1.00x", "1.00x", "1.00x", "4.00x"]
    assert [row[2] for row in tables.against_target(series, "score").rows] == ["1", "0"]


def test_speed_ups_are_on_the_questions_that_both_answered():
    """While an evaluation runs, a method is ahead of another by a batch."""
    records = [make_record("1"), make_record("2", seconds=9.0), make_record("1", "rapid", seconds=0.5)]
    assert tables.speed(read_series(records)).rows[1][3] == "2.00x"


def test_success_and_failure_against_the_target(series):
    """Which questions a method wins is another question than how many."""
    found = outcomes(series[1], series[0], "score")
    assert (found.both, found.only_method, found.only_baseline, found.neither) == (2, 1, 0, 0)
    assert found.relative_success == 1.0 and found.relative_failure == 0.0
    assert same_answers(series[1], series[0]) == (2, 3)
    assert tables.against_target(series, "score").rows[0][-1] == "2 of 3"


def test_series_keep_settings_apart_and_name_them():
    """Answers with eta 5 and eta 20 must never be averaged."""
    records = [
        make_record("1", "rapid", variation={"eta": 5.0, "drafter": ""}),
        make_record("1", "rapid", variation={"eta": 20.0, "drafter": "a/large", "unrelated": True}),
    ]
    labels = [one.key.label for one in read_series(records)]
    assert labels == ["rapid (eta 5, self)", "rapid (eta 20, large drafts, unrelated passages)"]


def test_pictures_show_what_was_swept():
    """A sweep without its curve is a table of numbers nobody reads."""
    records = []
    for length in (4096, 16384):
        records += [make_record("1", context_length=length)]
        records += [
            make_record("1", "rapid", context_length=length, seconds=0.5, variation={"eta": e}) for e in (0.0, 9.0)
        ]
    found = {plot.name: plot for plot in plots(read_series(records), "score")}
    assert {"decode-speed-up-over-lc-over-context-length", "score-over-eta"} <= set(found)
    assert "rapid, 4,096 tokens" in found["score-over-eta"].svg
    assert plots(read_series([make_record("1")]), "score") == []
    assert not any("speed" in plot.name for plot in plots(read_series(records), "score", timings=False))


def test_a_report_is_written_and_holds_everything(tmp_path, series):
    """The page must stand alone: tables, settings, versions, no file beside it."""
    with ResultStore(tmp_path, MANIFEST) as store:
        store.append(record for one in series for record in one.records)
    markdown, page = Report(tmp_path).write()
    text = markdown.read_text(encoding="utf-8")
    assert "6 answers; items: 3; documents: 1; methods: lc, rapid." in text
    assert "| jax | 1.2.3 |" in text and "| dtype | float32 |" in text and "speed-up, end to end" in text
    source = page.read_text(encoding="utf-8")
    assert "<table>" in source and not re.search(r'src="(?!data:)', source)
    assert "Speed" not in Report(tmp_path, timings=False).markdown()


def test_pictures_are_within_the_page():
    """An HTML report that is sent by mail must not lose its pictures."""
    records = [make_record("1", context_length=n) for n in (1024, 2048)]
    pictures = plots(read_series(records), "score")
    page = html("# t\n\n" + "\n\n".join(f"![{p.title}](plots/{p.name}.svg)" for p in pictures), pictures)
    assert page.count("<svg") == len(pictures) > 0 and "<img" not in page


def test_an_empty_evaluation_says_so(tmp_path):
    """A report of nothing must not be a page of nothing."""
    ResultStore(tmp_path, MANIFEST).__exit__()
    with pytest.raises(ValueError, match="has not finished an answer"):
        Report(tmp_path)


def test_bars_and_newlines_do_not_break_a_table():
    """A label with | would shift every column, a prompt with a newline would end the table."""
    table = tables.Table("", ("a|b", "c"), (("d\n\nf", "e"),))
    assert markdown_table(table).splitlines() == ["| a\\|b | c |", "| --- | ---: |", "| d\\n\\nf | e |"]


@pytest.fixture
def results(tmp_path, series):
    with ResultStore(tmp_path, MANIFEST) as store:
        store.append(record for one in series for record in one.records)
    return tmp_path


@pytest.mark.parametrize("name", ["report.md", "report.html"])
def test_a_report_on_a_full_disk_names_the_file(results, name):
    (results / name).symlink_to("/dev/full")
    with pytest.raises(OSError, match=rf"{name} cannot be written: No space left on device$"):
        Report(results).write()


def test_tables_need_no_package_of_reports_and_pages_say_which(results, monkeypatch):
    """A machine that only measures has none of them; whoever draws a report is told what to install."""
    for name in ("markdown_it", "matplotlib"):
        monkeypatch.setitem(sys.modules, name, None)
    report = Report(results)
    assert list(report.tables()) and report.markdown(pictures=[])
    with pytest.raises(ValueError, match=r'HTML needs the package markdown_it: pip install "rapid_jax\[reports\]"$'):
        report.write()
    assert not (results / "report.md").exists()
    records = [make_record("1", context_length=n) for n in (1024, 2048)]
    with pytest.raises(ValueError, match=r'plots needs the package matplotlib: pip install "rapid_jax\[reports\]"$'):
        plots(read_series(records), "score")


def test_markup_in_a_name_stays_text(results):
    """A task or a method of somebody's file must not become part of the page."""
    page = html("# <script>\n\n<script>alert(1)</script>\n", [])
    assert "<script>" not in page and "&lt;script&gt;" in page

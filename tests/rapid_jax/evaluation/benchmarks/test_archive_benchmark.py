"""Archives as a benchmark: the questions that were drawn, with the references of the archive."""

import json
import sys

import pytest

from rapid_jax.config import EngineConfig, SamplingConfig
from rapid_jax.evaluation.archive import TASKS, make_archive, write_archive
from rapid_jax.evaluation.benchmarks.archive import MAX_NEW_TOKENS, ArchiveBenchmark, sample_questions


def count(text):
    return len(text.split())


def made(tokens=800, **arguments):
    return ArchiveBenchmark.made(tokens, count, **{"archives": 2, "seed": 5, "limit": 3, **arguments})


def items_of(benchmark):
    return [item for source in benchmark.sources() for item in source.items]


def test_archives_are_those_of_the_seeds_with_the_questions_drawn_from_them():
    """Two runs of one seed that ask different questions could not be compared."""
    sources = list(made().sources())
    assert [source.id for source in sources] == ["archive-800-5", "archive-800-6"]
    for source, seed in zip(sources, (5, 6), strict=True):
        archive = make_archive(800, seed, count)
        assert source.text == archive.document
        drawn = [f"{source.id}/{q.id}" for group in sample_questions(archive, 3, seed).values() for q in group]
        assert [item.id for item in source.items] == drawn
    items = items_of(made())
    assert len({item.id for item in items}) == len(items)
    assert items == items_of(made()) and items != items_of(made(seed=6))


def test_questions_are_drawn_without_repeats_up_to_the_limit():
    """A question that counts twice would weigh twice."""
    archive = make_archive(2000, 3, count)
    drawn = sample_questions(archive, 5, seed=1)
    assert set(drawn) == set(TASKS) and drawn == sample_questions(archive, 5, seed=1)
    assert drawn != sample_questions(archive, 5, seed=2)
    for task, questions in drawn.items():
        assert len({question.id for question in questions}) == len(questions) <= 5
        assert all(question.task == task for question in questions)
    everything = sample_questions(archive, None, seed=1)
    assert sum(map(len, everything.values())) == len(archive.questions)


def test_items_carry_options_budget_and_a_query_without_options():
    """Retrieval that sees the options finds three wrong values as well."""
    items = items_of(made(2000))
    assert {item.task for item in items} == set(TASKS)
    for item in items:
        assert item.max_new_tokens == MAX_NEW_TOKENS[item.task]
        assert ("\nA. " in item.question) == (item.task == "choice")
        assert item.question.startswith(item.retrieval_query) and "\n" not in item.retrieval_query


def test_scores_are_those_of_the_task():
    """Exact match for facts, the letter for choices, ROUGE-L for dossiers."""
    benchmark = made(2000)
    for item in items_of(benchmark):
        assert benchmark.score(item, [item.reference]) == {"score": 1.0}
        assert benchmark.score(item, ["zzz"]) == {"score": 0.0}
        assert benchmark.follow_up(item, ["zzz"]) is None
        if item.task == "dossier":
            assert 0 < benchmark.score(item, [item.reference.split(".")[0]])["score"] < 1
    assert benchmark.metrics == ("score",) and SamplingConfig(**benchmark.sampling).temperature == 0
    EngineConfig(prompt=benchmark.template)


def test_a_subset_of_tasks_and_all_questions_can_be_asked():
    """Dossiers take most of the time of a run; whoever wants facts leaves them out."""
    items = items_of(made(limit=None, tasks=("fact",), archives=1))
    archive = make_archive(800, 5, count)
    assert {item.task for item in items} == {"fact"}
    assert len(items) == sum(question.task == "fact" for question in archive.questions)


def test_a_written_archive_comes_back(tmp_path):
    """What launch.make_archive wrote is asked as what is made in memory."""
    archive = make_archive(800, 5, count)
    write_archive(archive, tmp_path)
    (source,) = ArchiveBenchmark.read(tmp_path).sources()
    assert source.text == archive.document
    assert sorted(item.id for item in source.items) == sorted(f"archive/{q.id}" for q in archive.questions)
    (source,) = ArchiveBenchmark.read(tmp_path, limit=2, tasks=("fact", "dossier")).sources()
    assert [item.task for item in source.items] == ["fact", "fact", "dossier", "dossier"]


@pytest.mark.parametrize(
    "change",
    [
        {"task": "poem"},
        {"answer": 7},
        {"question": " "},
        {"choices": ["a", "b"]},
        {"task": "choice"},
        {"id": "fact-0"},
        {"working": 7},
    ],
)
def test_a_written_question_that_cannot_be_scored_is_named(tmp_path, change):
    """Files are edited by hand; a reference of the wrong form would make every answer wrong."""
    (tmp_path / "document.txt").write_text("Words.\n")
    first = {"id": "fact-0", "task": "fact", "question": "q", "answer": "a", "choices": []}
    lines = [first, {**first, "id": "fact-1", **change}]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ValueError, match="questions.jsonl, line 2: not a question of an archive"):
        ArchiveBenchmark.read(tmp_path)


def test_missing_files_are_named(tmp_path):
    """A directory of another kind must not look like an empty archive."""
    with pytest.raises(FileNotFoundError, match="no document at"):
        ArchiveBenchmark.read(tmp_path)
    (tmp_path / "document.txt").write_text("\n")
    with pytest.raises(ValueError, match="document.txt: the document is empty"):
        ArchiveBenchmark.read(tmp_path)
    (tmp_path / "document.txt").write_text("Words.\n")
    with pytest.raises(FileNotFoundError, match="no questions file at"):
        ArchiveBenchmark.read(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tasks": ("fact", "poem")}, "tasks must be some of fact, choice, dossier, whole, got poem"),
        ({"tasks": ()}, "got none"),
        ({"limit": 0}, "limit must be at least 1 question"),
        ({"archives": 0}, "archives must be at least 1"),
        ({"tokens": 10}, "at least 64 tokens"),
        ({"tokens": 64, "tasks": ("whole",), "archives": 1, "seed": 0}, "no archive has a question of task whole"),
    ],
)
def test_settings_that_ask_nothing_are_refused(arguments, message):
    """Each of them would end in a table without rows."""
    with pytest.raises(ValueError, match=message):
        made(**arguments)


def test_the_fingerprint_follows_documents_and_questions():
    """Answers about other archives, or other questions, are other results."""
    settings = [{}, {"seed": 6}, {"tokens": 900}, {"limit": 2}, {"tasks": ("fact",)}, {"archives": 1}]
    assert len({made(**arguments).fingerprint for arguments in settings}) == len(settings)
    assert made().fingerprint == made().fingerprint


def test_bad_lines_of_a_written_archive_are_kept_apart(tmp_path):
    """A questions.jsonl that was edited by hand; the sound questions are asked, the others named by their line."""
    (tmp_path / "document.txt").write_text("Words.\n")
    sound = {"id": "fact-0", "task": "fact", "question": "q \ud800", "answer": "a"}
    lines = [sound, {**sound, "id": "fact-1", "answer": ""}, {**sound, "task": "poem"}, sound]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "questions.jsonl").write_text(text + "cut off {\n")
    good, bad = ArchiveBenchmark.read(tmp_path, keep_bad=True).sources()
    assert [item.question for item in good.items] == ["q \N{REPLACEMENT CHARACTER}"]
    assert [item.id for item in bad.items] == ["line 2", "line 3", "line 4", "line 5"]
    assert all("not a question of an archive" in item.problem for item in bad.items)
    with pytest.raises(ValueError, match="questions.jsonl, line 2: not a question of an archive"):
        ArchiveBenchmark.read(tmp_path)


def test_a_database_needs_no_scores(monkeypatch):
    """What only scores need may be missing where nothing is scored, and is named at once where it is."""
    monkeypatch.setitem(sys.modules, "rouge_score", None)
    dossiers = dict(archives=1, limit=None, tasks=("dossier",))
    unscored = made(**dossiers, scored=False)
    assert unscored.score(next(unscored.sources()).items[0], ["x"]) == {}
    with pytest.raises(ValueError, match=r"needs the package rouge_score: pip install"):
        made(**dossiers)


def test_the_query_may_hold_the_options():
    item = next(made(tasks=("choice",), query_with_choices=True).sources()).items[0]
    assert item.retrieval_query == item.question and "\nA. " in item.question

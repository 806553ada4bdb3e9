"""Archives: the reference answers must be what the document says, or every number measured on them is wrong."""

import json
import re

import pytest

from rapid_jax.evaluation import archive_text as text
from rapid_jax.evaluation.archive import (
    TASKS,
    Question,
    make_archive,
    read_questions,
    with_choices,
    write_archive,
)


def count_words(part: str) -> int:
    return len(re.findall(r"\w+|[^\w\s]|\n", part))


@pytest.fixture(scope="module")
def archive():
    return make_archive(6000, 3, count_words)


def test_same_seed_same_archive_and_another_seed_another():
    assert make_archive(600, 1, count_words) == make_archive(600, 1, count_words)
    assert make_archive(600, 1, count_words).document != make_archive(600, 2, count_words).document


@pytest.mark.parametrize("num_tokens", [64, 150, 400, 2048, 20_000])
@pytest.mark.parametrize("seed", range(5))
def test_length_is_close_to_the_budget_and_never_over(num_tokens, seed):
    used = count_words(make_archive(num_tokens, seed, count_words).document)
    assert num_tokens - 40 <= used <= num_tokens


def test_a_budget_too_small_is_refused_in_one_line():
    with pytest.raises(ValueError, match="at least 64 tokens, not 10"):
        make_archive(10, 0, count_words)


def test_all_tasks_are_asked(archive):
    assert {question.task for question in archive.questions} == set(TASKS)
    assert len({question.id for question in archive.questions}) == len(archive.questions)


def test_every_fact_answer_is_told_once_in_a_sentence_naming_its_subject(archive):
    """A fact with two answers in the document could not be scored."""
    sentences = re.split(r"(?<=\.)\s+", archive.document)
    groups = text.PERSON_ATTRIBUTES + text.TOWN_ATTRIBUTES + text.OBJECT_ATTRIBUTES
    for question in archive.questions:
        if question.task != "fact":
            continue
        told = set()
        for attribute in groups:
            for wording in attribute.questions:
                asked = re.fullmatch(re.escape(wording).replace(r"\{name\}", "(.+)"), question.question)
                if asked:
                    for statement in attribute.statements:
                        pattern = re.escape(statement).replace(r"\{value\}", "(.+)")
                        pattern = pattern.replace(r"\{name\}", re.escape(asked.group(1)))
                        told |= {m.group(1) for s in sentences if (m := re.fullmatch(pattern, s))}
        assert told == {question.answer}, question


def test_dossier_is_all_records_of_that_person_in_document_order(archive):
    for question in archive.questions:
        if question.task != "dossier":
            continue
        records = question.answer.split("\n\n")
        name = re.match(r"Of (\w+ \w+),", records[0]).group(1)
        assert name in question.question
        assert records == [p for p in archive.paragraphs if p.startswith(f"Of {name},")]
        number = text.NUMBERS[len(records) - 1]
        for ordinal, record in zip(text.ORDINALS, records, strict=False):
            assert record.startswith(f"Of {name}, of {number} the {ordinal}.")


def test_choices_hold_the_answer_once_anywhere_and_match_the_fact(archive):
    facts = {q.question: q.answer for q in archive.questions if q.task == "fact"}
    choices = [q for q in archive.questions if q.task == "choice"]
    for question in choices:
        assert len(set(question.choices)) == 4
        assert question.choices.count(question.answer) == 1 and question.answer == facts[question.question]
    assert {question.choices.index(question.answer) for question in choices} == {0, 1, 2, 3}


def test_logs_are_listed_counted_and_ended_as_the_document_tells_them(archive):
    whole = [question for question in archive.questions if question.task == "whole"]
    sizes = set()
    for question in whole:
        vessel = next(v for v in text.VESSELS if v in question.question)
        lines = [p for p in archive.paragraphs if p.startswith(f"Log of the {vessel}, ")]
        told = [re.match(r"Log of the \w+, (\w+): (\w+ \w+) ", line).groups() for line in lines]
        assert [ordinal for ordinal, _ in told] == list(text.ORDINALS[: len(lines)])
        listed = [f"the {vessel}, {ordinal}: {name}" for ordinal, name in told]
        listed.append(f"the {vessel}, {text.ORDINALS[len(lines)]}: nobody")
        if question.question.startswith("How many"):
            assert (question.working, question.answer) == ("; ".join(listed) + ". So ", text.NUMBERS[len(lines) - 1])
        elif "last" in question.question:
            assert (question.working, question.answer) == ("; ".join(listed) + ". So ", told[-1][1])
        else:
            assert (question.working, question.answer) == ("", "; ".join(listed))
        sizes.add(len(lines))
    assert max(sizes) > 8, "as many log lines as a few passages hold need no whole document"


def test_people_share_first_names_and_surnames_but_no_full_name(archive):
    """Without namesakes, looking at half a name would be enough."""
    names = [re.search(r"Of (\w+) (\w+),", q.answer).groups() for q in archive.questions if q.task == "dossier"]
    assert len(set(names)) == len(names)
    assert len({first for first, _ in names}) < len(names)
    assert len({last for _, last in names}) < len(names)


def test_names_and_values_are_distinct_and_no_wording_belongs_to_two_attributes():
    names = text.FIRST_NAMES + text.SURNAMES + text.TOWNS + text.VESSELS
    assert len(set(names)) == len(names)
    wordings = [q for a in text.PERSON_ATTRIBUTES + text.TOWN_ATTRIBUTES + text.OBJECT_ATTRIBUTES for q in a.questions]
    assert len(set(wordings)) == len(wordings)
    for attribute in text.PERSON_ATTRIBUTES + text.TOWN_ATTRIBUTES + text.OBJECT_ATTRIBUTES:
        assert len(attribute.statements) >= 4
        assert all(s.index("{name}") < s.index("{value}") for s in attribute.statements)
        assert len(set(attribute.values)) == len(attribute.values)


def test_files_come_back_as_written(tmp_path, archive):
    write_archive(archive, tmp_path / "new" / "folder")
    assert (tmp_path / "new" / "folder" / "document.txt").read_text() == archive.document + "\n"
    assert read_questions(tmp_path / "new" / "folder" / "questions.jsonl") == archive.questions


@pytest.mark.parametrize("line", ["not json", "[1]", json.dumps({"id": "a"}), json.dumps({"id": "a", "colour": "red"})])
def test_a_bad_questions_file_names_its_line(tmp_path, line):
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps({"id": "a", "task": "fact", "question": "q", "answer": "r"}) + "\n" + line + "\n")
    with pytest.raises(ValueError, match="line 2: not a question"):
        read_questions(path)


def test_a_missing_questions_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no questions file at"):
        read_questions(tmp_path / "questions.jsonl")


def test_options_are_put_on_lines_of_their_own():
    question = Question("choice-1", "choice", "Which?", "blue", ("red", "blue", "green", "pink"))
    assert with_choices(question) == "Which?\nA. red\nB. blue\nC. green\nD. pink"
    assert with_choices(Question("fact-1", "fact", "Which?", "red")) == "Which?"

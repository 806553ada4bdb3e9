"""Made dialogues: each must be answerable from its own records, in words that the embedded tokenizer knows."""

import json
import re
from pathlib import Path

import pytest

from rapid_jax.config.embedded import ASSETS
from rapid_jax.evaluation import archive_text as text
from rapid_jax.evaluation.benchmarks.dialogue import DialogueBenchmark
from rapid_jax.evaluation.dialogues import ACKNOWLEDGEMENTS, make_dialogues, write_dialogues

FILE = ASSETS / "dialogues.jsonl"


@pytest.fixture(scope="module")
def dialogues():
    return make_dialogues(200, seed=0)


def words(value):
    """All words of a string, an attribute or a tuple of them, placeholders left out."""
    if isinstance(value, str):
        return set(re.findall(r"[A-Za-z]+", re.sub(r"\{\w+\}", "", value)))
    if isinstance(value, text.Attribute):
        return words(value.statements) | words(value.questions) | words(value.values)
    return set().union(*map(words, value)) if isinstance(value, tuple) else set()


def subject(dialogue):
    return re.match(r"Of (\w+ \w+),", dialogue["messages"][0]["content"]).group(1)


def test_the_embedded_file_is_what_the_function_writes(tmp_path, dialogues):
    """A file that nobody can make again could not be checked or extended."""
    write_dialogues(dialogues, tmp_path / "dialogues.jsonl")
    assert (tmp_path / "dialogues.jsonl").read_bytes() == FILE.read_bytes()
    assert FILE.stat().st_size < 400_000


def test_the_embedded_file_can_be_asked():
    """The default data of the benchmark must fill a history and ask every dialogue."""
    sources = list(DialogueBenchmark(FILE, tokens=4000, count_tokens=lambda part: len(part.split())).sources())
    assert sum(len(source.items) for source in sources) == 200


def test_roles_alternate_and_records_are_numbered(dialogues):
    """Chat templates refuse anything else; one and two records both occur."""
    lengths = set()
    for dialogue in dialogues:
        messages = dialogue["messages"]
        assert [message["role"] for message in messages] == ["user", "assistant"] * (len(messages) // 2)
        records = [message["content"] for message in messages[:-2:2]]
        lengths.add(len(records))
        for ordinal, record in zip(text.ORDINALS, records, strict=False):
            header = text.RECORD_HEADER.format(
                name=subject(dialogue), number=text.NUMBERS[len(records) - 1], ordinal=ordinal
            )
            assert record.startswith(f"{header} ")
    assert lengths == {1, 2}
    assert len({dialogue["id"] for dialogue in dialogues}) == 200


def test_the_answer_is_told_once_in_a_statement_of_the_attribute_that_is_asked_for(dialogues):
    """A question with two answers, or none, could not be scored."""
    asked = set()
    for dialogue in dialogues:
        *earlier, question, answer = (message["content"] for message in dialogue["messages"])
        name = subject(dialogue)
        (attribute,) = (
            attribute
            for attribute in text.PERSON_ATTRIBUTES
            if question in [wording.format(name=name) for wording in attribute.questions]
        )
        told = re.findall(
            "|".join(
                re.escape(statement).replace(r"\{name\}", name).replace(r"\{value\}", r"[\w ]+")
                for statement in attribute.statements
            ),
            " ".join(earlier),
        )
        assert len(told) == 1 and told[0].endswith(f" {answer}."), dialogue
        asked.add(attribute.name)
    assert asked == {attribute.name for attribute in text.PERSON_ATTRIBUTES}


def test_no_name_appears_in_two_dialogues(dialogues):
    """Two people of one name in a history would have two answers."""
    seen = set()
    full_name = re.compile(rf"\b(?:{'|'.join(text.FIRST_NAMES)}) (?:{'|'.join(text.SURNAMES)})\b")
    for dialogue in dialogues:
        names = {name for message in dialogue["messages"] for name in full_name.findall(message["content"])}
        assert subject(dialogue) in names and not names & seen
        seen |= names


def test_every_word_is_one_of_an_archive(dialogues):
    """The embedded tokenizer has a piece for those, and the embedded model has read no others."""
    known = set().union(*(words(getattr(text, name)) for name in dir(text) if name.isupper()))
    used = set().union(*(words(m["content"]) for dialogue in dialogues for m in dialogue["messages"]))
    assert used <= known
    assert words(ACKNOWLEDGEMENTS) <= known


def test_the_seed_decides_and_too_many_are_refused():
    """More dialogues than names would never end."""
    assert make_dialogues(5, 1) == make_dialogues(5, 1) != make_dialogues(5, 2)
    for number in (0, 10**6):
        with pytest.raises(ValueError, match=r"number of dialogues must be in \[1, 16384\]"):
            make_dialogues(number, 0)


def test_lines_are_json_objects(tmp_path):
    """Other tools read the file line by line."""
    write_dialogues(make_dialogues(3, 4), tmp_path / "d.jsonl")
    lines = Path(tmp_path / "d.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == make_dialogues(3, 4)

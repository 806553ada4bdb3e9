"""Files of prompts as the runner asks them."""

import json

import pytest

from rapid_jax.database_building.prompts import Prompts

TEMPLATE = "{document}\n\n{question}"


def prompts(path, *, document="", max_new_tokens=9, template=TEMPLATE):
    return Prompts(path, document=document, template=template, max_new_tokens=max_new_tokens)


def write(path, *lines):
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


def test_a_line_of_text_is_a_prompt(tmp_path):
    path = write(tmp_path / "p.txt", "Who sings?\n", "\n", "  \n", "Why?\n")
    (source,) = prompts(path, document="A document.").sources()
    assert source.text == "A document."
    assert [(item.id, item.question, item.max_new_tokens) for item in source.items] == [
        ("prompt-1", "Who sings?", 9),
        ("prompt-2", "Why?", 9),
    ]


def test_records_of_every_form_are_prompts(tmp_path):
    """The fields of common instruction files, and the turns of Spec-Bench."""
    path = write(
        tmp_path / "p.jsonl",
        {"prompt": "One", "answer": "x"},
        {"question": "Two"},
        {"question_id": 81, "category": "writing", "turns": ["Three", "And then?"]},
    )
    benchmark = prompts(path)
    (source,) = benchmark.sources()
    assert source.text == "" and [item.question for item in source.items] == ["One", "Two", "Three"]
    one, _, three = source.items
    assert benchmark.follow_up(one, ["a"]) is None
    turn = benchmark.follow_up(three, ["b"])
    assert [(message["role"], message["content"]) for message in turn.messages] == [
        ("user", "Three"),
        ("assistant", "b"),
        ("user", "And then?"),
    ]
    assert turn.max_new_tokens == 9 and benchmark.follow_up(three, ["b", "c"]) is None


def test_the_fingerprint_changes_with_everything_that_changes_answers(tmp_path):
    """Answers to other prompts must never be mixed with these."""
    path, other = write(tmp_path / "p.txt", "Who?\n"), write(tmp_path / "q.txt", "Whose?\n")
    same = write(tmp_path / "r.txt", "Who?\n")
    one = prompts(path).fingerprint
    assert one == prompts(same).fingerprint == prompts(path, template="{document}{question}").fingerprint
    others = [prompts(other), prompts(path, document="d"), prompts(path, max_new_tokens=8)]
    others += [prompts(path, document="e"), prompts(path, document="d", template="{document}{question}")]
    assert len({one, *(benchmark.fingerprint for benchmark in others)}) == 6


@pytest.mark.parametrize(
    "name, line, message",
    [
        (
            "p.jsonl",
            {"text": "x"},
            "p.jsonl, line 1: not a prompt: it has none of the fields prompt, question and turns",
        ),
        ("p.jsonl", {"prompt": " "}, "p.jsonl, line 1: field 'prompt' must be a string that is not empty"),
        ("p.jsonl", {"turns": []}, "p.jsonl, line 1: field 'turns' must be a list of strings"),
        ("p.jsonl", {"turns": ["a", " "]}, "p.jsonl, line 1: field 'turns' must hold strings that are not empty"),
        ("p.txt", "\n\n", "p.txt is empty"),
    ],
)
def test_what_is_no_prompt_is_named(tmp_path, name, line, message):
    with pytest.raises(ValueError, match=message):
        prompts(write(tmp_path / name, line))

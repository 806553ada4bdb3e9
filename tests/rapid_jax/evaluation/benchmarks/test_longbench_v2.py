"""LongBench v2: prompts as its templates have them, two stages with reasoning, and the letter of the answer."""

import pytest

from rapid_jax.config import EngineConfig, SamplingConfig
from rapid_jax.config.evaluation import EvaluationConfig
from rapid_jax.evaluation.benchmarks.longbench_v2 import TEMPLATES, LongBenchV2

OFFICIAL_FORM = {
    "0shot.txt": "Read {this}.\n<t>\n$DOC$\n</t>\nQ: $Q$\n$C_A$|$C_B$|$C_C$|$C_D$\n{question} {document}",
    "0shot_cot.txt": "Read.\n$DOC$\nQ: $Q$\n$C_A$|$C_B$|$C_C$|$C_D$\nThink:",
    "0shot_cot_ans.txt": "Left out.\nQ: $Q$\n$C_A$|$C_B$|$C_C$|$C_D$\nThink: $COT$\nAnswer:",
}


def record(number=0, **fields):
    return {
        "_id": f"id{number}", "domain": "x", "sub_domain": "y", "difficulty": "hard", "length": "long",
        "question": " What is it? \n", "choice_A": "one ", "choice_B": "two", "choice_C": "three", "choice_D": "four",
        "answer": "C", "context": "\nA long text.\n", **fields,
    }  # fmt: skip


@pytest.fixture
def prompts(tmp_path):
    directory = tmp_path / "prompts"
    directory.mkdir()
    for name, text in OFFICIAL_FORM.items():
        (directory / name).write_text(text, encoding="utf-8")
    return directory


def only_item(benchmark):
    (source,) = benchmark.sources()
    (item,) = source.items
    return source, item


def test_the_question_is_all_that_follows_the_document(write_records, prompts):
    """Values are stripped, and braces of a template file survive the engine's own template."""
    benchmark = LongBenchV2(write_records("data.json", [record()]), prompts=prompts)
    source, item = only_item(benchmark)
    assert benchmark.template == "Read {this}.\n<t>\n{document}{question}"
    assert source.text == "A long text."
    assert item.question == "\n</t>\nQ: What is it?\none|two|three|four\n{question} {document}"
    assert item.retrieval_query == "What is it?"
    assert (item.task, item.groups, item.max_new_tokens, item.reference) == (
        "longbench_v2", ("hard", "long"), 128, "C",
    )  # fmt: skip
    EngineConfig(prompt=benchmark.template)
    assert SamplingConfig(**benchmark.sampling).temperature == 0.1


def test_placeholders_inside_of_values_stay(write_records, prompts):
    """A document about templates, or reasoning that quotes one, must not be filled with the question."""
    data = write_records("data.jsonl", [record(context="cost $Q$", choice_A="$C_B$", question="Why $COT$ $DOC$?")])
    benchmark = LongBenchV2(data, prompts=prompts, cot=True)
    source, item = only_item(benchmark)
    assert source.text == "cost $Q$"
    assert item.question == "\nQ: Why $COT$ $DOC$?\n$C_B$|two|three|four\nThink:"
    (message,) = benchmark.follow_up(item, ["as $C_A$ says"]).messages
    assert message["content"] == ("Left out.\nQ: Why $COT$ $DOC$?\n$C_B$|two|three|four\nThink: as $C_A$ says\nAnswer:")


def test_reasoning_is_followed_by_an_answer_without_the_document(write_records, prompts):
    """The second stage that saw the document again would pay its prefill twice and be another benchmark."""
    benchmark = LongBenchV2(write_records("data.jsonl", [record()]), prompts=prompts, cot=True)
    _, item = only_item(benchmark)
    assert item.max_new_tokens == 1024
    turn = benchmark.follow_up(item, [" It is three.\n"])
    assert turn.max_new_tokens == 128
    assert [message["role"] for message in turn.messages] == ["user"]
    assert "Think: It is three.\nAnswer:" in turn.messages[0]["content"]
    assert "A long text." not in turn.messages[0]["content"]
    assert benchmark.follow_up(item, ["It is three.", "C"]) is None
    right, wrong = "The correct answer is (C)", "The correct answer is (A)"
    assert benchmark.score(item, [wrong, right])["score"] == 1.0
    assert benchmark.score(item, [right, wrong])["score"] == 0.0


def test_without_reasoning_there_is_one_turn(write_records):
    """A second turn would double the time that is reported."""
    benchmark = LongBenchV2(write_records("data.jsonl", [record()]))
    assert benchmark.follow_up(only_item(benchmark)[1], ["C"]) is None


def test_no_answer_is_wrong_and_counted_apart(write_records):
    """A model that ignores the form scores 0 for another reason than one that guesses."""
    benchmark = LongBenchV2(write_records("data.jsonl", [record()]))
    _, item = only_item(benchmark)
    assert benchmark.score(item, ["**The correct answer is (C)**"]) == {"score": 1.0, "answered": 1.0}
    assert benchmark.score(item, ["The correct answer is B"]) == {"score": 0.0, "answered": 1.0}
    assert benchmark.score(item, ["C"]) == {"score": 0.0, "answered": 0.0}


@pytest.mark.parametrize("cot", [False, True])
def test_our_own_templates_ask_for_the_form_that_is_extracted(write_records, cot):
    """Without the official files the reader must still be usable: all values in, the form named."""
    benchmark = LongBenchV2(write_records("data.jsonl", [record()]), cot=cot)
    _, item = only_item(benchmark)
    last = benchmark.follow_up(item, ["Three."]).messages[0]["content"] if cot else item.question
    assert "What is it?" in last and "(A) one\n(B) two\n(C) three\n(D) four" in last and "$" not in last
    assert "The correct answer is (X)" in last
    assert "{document}" in benchmark.template and "$" not in benchmark.template
    assert ("Thoughts: Three." in last) == cot
    assert set(TEMPLATES) == set(OFFICIAL_FORM)


def test_questions_about_one_document_share_it(write_records):
    """Several questions of the benchmark are about the same text."""
    records = [record(0), record(1, context="Other."), record(2, difficulty="easy", length="short")]
    sources = list(LongBenchV2(write_records("data.jsonl", records)).sources())
    assert [[item.id for item in source.items] for source in sources] == [["id0", "id2"], ["id1"]]
    assert sources[0].items[1].groups == ("easy", "short")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (record(1, answer="BC"), "field 'answer' must be one of A, B, C, D, got 'BC'"),
        (record(1, difficulty="mild"), "field 'difficulty' must be one of easy, hard"),
        (record(1, length=7), "field 'length' must be one of short, medium, long"),
        (record(1, context=" "), "field 'context' must be a string that is not empty"),
        (record(1, choice_B=None), "field 'choice_B' must be a string"),
        (record(0), "id 'id0' appears twice"),
        ({"_id": "x"}, "field 'question' is missing"),
    ],
)
def test_a_bad_record_is_named(write_records, bad, message):
    """A label or group that is not one would fall out of every row of the table."""
    with pytest.raises(ValueError, match=f"data.jsonl, line 2: {message}"):
        LongBenchV2(write_records("data.jsonl", [record(0), bad]))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("0shot.txt", "$DOC$ $Q$ $C_A$ $C_B$ $C_C$", r"missing or do not belong there: \$C_D\$"),
        ("0shot.txt", "$DOC$ $Q$ $C_A$ $C_B$ $C_C$ $C_D$ $COT$", r"do not belong there: \$COT\$"),
        ("0shot.txt", "$Q$ $DOC$ $C_A$ $C_B$ $C_C$ $C_D$", r"\$DOC\$ must stand once, before all other"),
        ("0shot.txt", "$DOC$ $DOC$ $Q$ $C_A$ $C_B$ $C_C$ $C_D$", r"\$DOC\$ must stand once"),
        ("0shot.txt", "{document} $DOC$ $Q$ $C_A$ $C_B$ $C_C$ $C_D$", "must not stand before"),
        ("0shot_cot_ans.txt", "$Q$ $C_A$ $C_B$ $C_C$ $C_D$", r"missing or do not belong there: \$COT\$"),
        ("0shot_cot_ans.txt", "$DOC$ $Q$ $C_A$ $C_B$ $C_C$ $C_D$ $COT$", r"do not belong there: \$DOC\$"),
    ],
)
def test_a_template_that_cannot_be_filled_is_named(write_records, prompts, name, text, message):
    """A template of another version would otherwise ask without the question or the options."""
    (prompts / name).write_text(text)
    with pytest.raises(ValueError, match=f"{name}: .*{message}"):
        LongBenchV2(write_records("data.jsonl", [record()]), prompts=prompts, cot=name != "0shot.txt")


def test_a_missing_template_is_named(write_records, tmp_path):
    """The directory `prompts` of the checkout is meant, and not the checkout."""
    with pytest.raises(FileNotFoundError, match="no template at .*0shot_cot.txt"):
        LongBenchV2(write_records("data.jsonl", [record()]), prompts=tmp_path, cot=True)


def test_the_fingerprint_follows_data_and_templates(write_records, prompts):
    """Answers to another prompt are other results."""
    data = write_records("data.jsonl", [record()])
    values = [LongBenchV2(data, prompts=p, cot=cot).fingerprint for p in (None, prompts) for cot in (False, True)]
    data = write_records("data.jsonl", [record(answer="A")])
    values.append(LongBenchV2(data).fingerprint)
    assert len(set(values)) == 5


RAPID = EvaluationConfig(retrieval_query="question_and_choices", passages_prompt="passages", longbench_answer="rapid")


def test_the_published_evaluation_of_rapid_can_be_asked(write_records, prompts):
    """Its query holds the options, its drafter reads "retrieved text chunks", its pattern wants no "The"."""
    wording = "Please read the following text and answer.\n<text>\n$DOC$\n</text>\nQ: $Q$\n$C_A$ $C_B$ $C_C$ $C_D$"
    (prompts / "0shot.txt").write_text(wording)
    data = write_records("data.json", [record(choice_D="$Q$")])
    usual, published = (LongBenchV2(data, prompts=prompts, settings=s) for s in (EvaluationConfig(), RAPID))
    source, item = only_item(published)
    assert item.retrieval_query == "What is it?\nChoices:\n(A) one\n(B) two\n(C) three\n(D) $Q$"
    assert source.passages_template == (
        "Please read the following retrieved text chunks and answer.\n<text>\n{document}{question}"
    )
    assert published.template == usual.template and item.question == only_item(usual)[1].question
    assert published.score(item, ["So the correct answer is (C)"]) == {"score": 1.0, "answered": 1.0}
    assert usual.score(item, ["So the correct answer is (C)"]) == {"score": 0.0, "answered": 0.0}
    assert only_item(usual)[0].passages_template == ""
    assert published.fingerprint != usual.fingerprint == LongBenchV2(data, prompts=prompts).fingerprint


@pytest.mark.parametrize("cot", [False, True])
def test_our_own_templates_have_words_for_passages(write_records, cot):
    source, _ = only_item(LongBenchV2(write_records("data.json", [record()]), cot=cot, settings=RAPID))
    assert "parts of a text that were retrieved" in source.passages_template
    EngineConfig(drafter_prompt=source.passages_template)


def test_a_template_without_the_words_to_change_is_refused(write_records, prompts):
    """A drafter that is told nothing of chunks would be another experiment under the published one's name."""
    with pytest.raises(ValueError, match=r"prompts: passages_prompt 'passages' needs a template with the words"):
        LongBenchV2(write_records("data.json", [record()]), prompts=prompts, settings=RAPID)


def test_a_bad_record_among_good_ones_is_an_item_with_its_problem(write_records, tmp_path):
    """Its line is named, the others are asked; a file of nothing but bad records is refused."""
    path = write_records(
        "data.jsonl", [record(0), record(1, question=" "), record(2), record(0), record(3, answer="E")]
    )
    text = path.read_text().splitlines()
    path.write_text("\n".join([text[0], "{broken", *text[1:], "[]", '{"_id": "\\ud800"}', ""]))
    with pytest.raises(ValueError, match="line 2: not JSON"):
        LongBenchV2(path)
    good, bad = LongBenchV2(path, keep_bad=True).sources()
    assert [item.id for item in good.items] == ["id0", "id2"] and not any(item.problem for item in good.items)
    problems = {item.id: item.problem for item in bad.items}
    assert list(problems) == [f"line {n}" for n in (2, 3, 5, 6, 7, 8)]
    assert all(f"data.jsonl, {name}: " in problem and "\n" not in problem for name, problem in problems.items())
    assert "field 'question' must be a string that is not empty" in problems["line 3"]
    assert "id 'id0' appears twice" in problems["line 5"]
    path.write_text("{broken\n[]\n")
    with pytest.raises(ValueError, match="data.jsonl, line 1: not JSON"):
        LongBenchV2(path, keep_bad=True)


def test_half_a_surrogate_pair_is_read_as_the_replacement_character(write_records):
    """No tokenizer takes one; the record is asked all the same."""
    path = write_records("data.jsonl", [record(question="Who is \ud800?", context="A \udfff long text.")])
    source, item = only_item(LongBenchV2(path))
    assert source.text == "A \N{REPLACEMENT CHARACTER} long text."
    assert item.retrieval_query == "Who is \N{REPLACEMENT CHARACTER}?"

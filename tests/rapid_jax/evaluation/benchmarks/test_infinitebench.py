"""InfiniteBench: what is asked, about which book, and what counts as right."""

import pytest

from rapid_jax.config import EngineConfig, SamplingConfig
from rapid_jax.evaluation.benchmarks.infinitebench import SUMMARY_QUERY, InfiniteBench

OPTIONS = ["a red hat", "a blue hat", "Based on tales", "no hat"]


def question(context="Book one.", **fields):
    return {
        "id": 0,
        "context": context,
        "input": "Who wears it?",
        "answer": ["Ann", "old Ann"],
        "options": [],
        **fields,
    }


def choice(context="Book one.", answer=("a blue hat",), **fields):
    return question(context, input="Which hat?", answer=list(answer), options=OPTIONS, **fields)


def summary(context="Book two."):
    return {"context": context, "input": "", "answer": ["Ann finds a hat.\nShe wears it."], "options": []}


@pytest.fixture
def directory(write_records):
    write_records("data/longbook_sum_eng.jsonl", [summary(), summary("Book one.")])
    write_records("data/longbook_choice_eng.json", [choice(), choice("Book three.")])
    return write_records("data/longbook_qa_eng.jsonl", [question(), question("Book two.")]).parent


def test_items_about_one_book_share_it_across_tasks(directory):
    """A book of 200K tokens would be read once for every question otherwise."""
    sources = list(InfiniteBench(directory).sources())
    assert [source.text for source in sources] == ["Book one.", "Book two.", "Book three."]
    assert [[item.id for item in source.items] for source in sources] == [
        ["longbook_qa_eng-0", "longbook_choice_eng-0", "longbook_sum_eng-1"],
        ["longbook_qa_eng-1", "longbook_sum_eng-0"],
        ["longbook_choice_eng-1"],
    ]
    assert len({source.id for source in sources}) == 3


def test_each_task_has_its_budget_question_and_query(directory):
    """Retrieval with the options, or a summary cut at 40 tokens, would measure something else."""
    items = {item.task: item for source in InfiniteBench(directory).sources() for item in source.items}
    qa, mc, total = (items[f"longbook_{task}_eng"] for task in ("qa", "choice", "sum"))
    assert [item.max_new_tokens for item in (qa, mc, total)] == [40, 40, 1200]
    assert qa.retrieval_query == "Who wears it?" and qa.question.endswith("\n\nQuestion: Who wears it?")
    assert mc.retrieval_query == "Which hat?"
    assert mc.question.endswith("Question: Which hat?\nA. a red hat\nB. a blue hat\nC. Based on tales\nD. no hat")
    assert total.retrieval_query == SUMMARY_QUERY and "Question:" not in total.question


def test_the_tasks_are_sampled_as_the_paper_says(directory):
    """Temperature 1: greedy numbers could not be compared with RAPID's."""
    benchmark = InfiniteBench(directory)
    config = SamplingConfig(**benchmark.sampling)
    assert (config.temperature, config.top_p) == (1.0, 1.0)
    EngineConfig(prompt=benchmark.template)


def test_one_file_gives_its_own_task(directory):
    """The name alone says which task it is."""
    (source, other) = InfiniteBench(directory / "longbook_choice_eng.json").sources()
    assert {item.task for item in source.items + other.items} == {"longbook_choice_eng"}


@pytest.mark.parametrize("answer", [["a blue hat"], ["a blue hat", "B"], ["B"], "a blue hat", "B"])
def test_every_form_of_a_choice_s_answer_gives_option_and_letter(write_records, answer):
    """The files of the benchmark hold the text; its own scripts hand on text and letter."""
    path = write_records("longbook_choice_eng.jsonl", [question(options=OPTIONS, answer=answer)])
    (source,) = InfiniteBench(path).sources()
    assert source.items[0].reference == {"option": "a blue hat", "letter": "B"}


def test_scores_are_those_of_the_task(directory):
    """F1 of words, the official choice with the strict one beside it, ROUGE-Lsum."""
    benchmark = InfiniteBench(directory)
    items = {item.task: item for source in benchmark.sources() for item in source.items}
    qa, mc, total = (items[f"longbook_{task}_eng"] for task in ("qa", "choice", "sum"))
    assert benchmark.score(qa, ["The old man"]) == {"score": pytest.approx(0.5)}  # old man / old Ann: 1 of 2 and 2
    assert benchmark.score(mc, ["B. a blue hat"]) == {"score": 1.0, "strict_accuracy": 1.0}
    assert benchmark.score(mc, ["Based on the book, a red hat"]) == {"score": 1.0, "strict_accuracy": 0.0}
    assert benchmark.score(mc, ["I say (B)"]) == {"score": 0.0, "strict_accuracy": 1.0}
    assert benchmark.score(total, ["She wears it.\nAnn finds a hat."]) == {"score": 1.0}
    assert benchmark.follow_up(qa, ["Ann"]) is None and benchmark.metrics[0] == "score"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (choice(answer=["a green hat"]), "field 'answer' must be one of the options or a letter"),
        (choice(answer=["a blue hat", "C"]), "with its letter B at most"),
        (choice() | {"options": OPTIONS[:3]}, "field 'options' must hold 4 strings, got 3"),
        (choice() | {"options": [*OPTIONS[:3], ""]}, "field 'options' must hold 4 strings that are not empty"),
        (choice(context="  "), "field 'context' must be a string that is not empty"),
        (choice() | {"input": None}, "field 'input' must be a string"),
        ({"context": "Book"}, "field 'input' is missing"),
    ],
)
def test_a_record_that_cannot_be_scored_is_named(write_records, record, message):
    """A wrong label would count right answers as wrong without a word."""
    path = write_records("longbook_choice_eng.jsonl", [choice(), record])
    with pytest.raises(ValueError, match=f"longbook_choice_eng.jsonl, line 2: .*{message}"):
        InfiniteBench(path)


def test_paths_that_hold_no_task_are_refused(tmp_path, write_records):
    """A typing error in the path must not end in an empty table."""
    with pytest.raises(FileNotFoundError, match="no data file at"):
        InfiniteBench(tmp_path / "longbook_qa_eng.jsonl")
    with pytest.raises(FileNotFoundError, match="holds none of longbook_qa_eng.jsonl"):
        InfiniteBench(tmp_path)
    with pytest.raises(ValueError, match="must have its task's name"):
        InfiniteBench(write_records("passkey.jsonl", [question()]))
    write_records("longbook_qa_eng.jsonl", [question()])
    write_records("longbook_qa_eng.json", [question()])
    with pytest.raises(ValueError, match="longbook_qa_eng.jsonl and longbook_qa_eng.json"):
        InfiniteBench(tmp_path)


def test_the_fingerprint_follows_the_data(directory, write_records):
    """Answers about an older version of the file would be taken for those of the newer."""
    before = InfiniteBench(directory).fingerprint
    assert InfiniteBench(directory).fingerprint == before
    assert InfiniteBench(directory / "longbook_qa_eng.jsonl").fingerprint != before
    write_records("data/longbook_qa_eng.jsonl", [question(), question("Book two!")])
    assert InfiniteBench(directory).fingerprint != before


OFFICIAL_FORM = {
    "longbook_qa_eng": "Read.\n{context}\n\nQ: {question}\nA:",
    "longbook_choice_eng": "Pick.\n{context}\n\nQ: {input}\n{OPTION_A}|{OPTION_B}|{OPTION_C}|{OPTION_D}",
    "longbook_sum_eng": "Summarize.\n{context}\nSummary:",
}


@pytest.fixture
def prompts(tmp_path):
    folder = tmp_path / "prompts"
    folder.mkdir()
    for task, text in OFFICIAL_FORM.items():
        (folder / f"{task}.txt").write_text(text)
    return folder


def test_prompts_can_be_read_from_a_directory(write_records, directory, prompts):
    """As LongBench's are; a book is read once for each wording before it, and values are not filled again."""
    write_records("data/longbook_qa_eng.jsonl", [question(input="Who {OPTION_A}?")])
    sources = list(InfiniteBench(directory, prompts=prompts).sources())
    asked = {item.id: (source.template, item.question) for source in sources for item in source.items}
    assert asked["longbook_qa_eng-0"] == ("Read.\n{document}{question}", "\n\nQ: Who {OPTION_A}?\nA:")
    assert asked["longbook_choice_eng-0"] == (
        "Pick.\n{document}{question}",
        "\n\nQ: Which hat?\na red hat|a blue hat|Based on tales|no hat",
    )
    assert asked["longbook_sum_eng-0"] == ("Summarize.\n{document}{question}", "\nSummary:")
    assert len({source.id for source in sources}) == len(sources)
    assert InfiniteBench(directory).fingerprint != InfiniteBench(directory, prompts=prompts).fingerprint


@pytest.mark.parametrize(
    ("task", "text", "message"),
    [
        ("longbook_qa_eng", "{context} Q", r"missing or do not belong there: \{question\}"),
        ("longbook_qa_eng", "{question} {context} now", r"\{context\} must stand once, before all other"),
        ("longbook_qa_eng", "{context} {context} {question}", r"\{context\} must stand once"),
        ("longbook_qa_eng", "{context} {question} {OPTION_A}", r"do not belong there: \{OPTION_A\}"),
        ("longbook_choice_eng", "{context} {question} {OPTION_A}", r"\{OPTION_B\} \{OPTION_C\} \{OPTION_D\}"),
        ("longbook_sum_eng", "Sum up. {context}", r"some words must follow \{context\}"),
    ],
)
def test_a_template_that_cannot_be_filled_is_named(directory, prompts, task, text, message):
    (prompts / f"{task}.txt").write_text(text)
    with pytest.raises(ValueError, match=f"{task}.txt: .*{message}"):
        InfiniteBench(directory, prompts=prompts)


def test_a_missing_template_is_named(directory, tmp_path):
    with pytest.raises(FileNotFoundError, match="no template at .*longbook_qa_eng.txt"):
        InfiniteBench(directory, prompts=tmp_path)


def test_the_query_may_hold_the_options(directory):
    sources = InfiniteBench(directory, query_with_choices=True).sources()
    queries = {item.id: item.retrieval_query for source in sources for item in source.items}
    assert queries["longbook_choice_eng-0"] == "Which hat?\nA. a red hat\nB. a blue hat\nC. Based on tales\nD. no hat"
    assert queries["longbook_qa_eng-0"] == "Who wears it?" and queries["longbook_sum_eng-0"] == SUMMARY_QUERY


def test_a_bad_record_keeps_its_number_and_the_others_theirs(write_records):
    path = write_records("longbook_qa_eng.jsonl", [question(), question(context=""), question("Book two.")])
    *good, bad = InfiniteBench(path, keep_bad=True).sources()
    assert [item.id for source in good for item in source.items] == ["longbook_qa_eng-0", "longbook_qa_eng-2"]
    (item,) = bad.items
    assert item.id == "longbook_qa_eng-1" and "longbook_qa_eng.jsonl, line 2: field 'context'" in item.problem

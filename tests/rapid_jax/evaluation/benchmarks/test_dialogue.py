"""Questions behind a chat history: what was told must be in the history, and the answer must not be given away."""

import pytest

from rapid_jax.config import EngineConfig, SamplingConfig
from rapid_jax.evaluation.benchmarks.dialogue import DialogueBenchmark


def count(text):
    return len(text.split())


def told(number, **fields):
    """A dialogue that can be asked: ten words before its question, sixteen in all, speakers included."""
    return {
        "messages": [
            {"role": "user", "content": f"Person{number} keeps goat{number} at home."},
            {"role": "assistant", "content": "Noted, thank you."},
            {"role": "user", "content": f"What does Person{number} keep?"},
            {"role": "assistant", "content": f"goat{number}"},
        ],
        **fields,
    }


def talk(number):
    """A dialogue without anything before its question."""
    roles = ("user", "assistant")
    return {"messages": [{"role": role, "content": f"Small talk {number}."} for role in roles]}


@pytest.fixture
def path(write_records):
    return write_records("dialogues.jsonl", [told(i) if i % 2 else talk(i) for i in range(60)])


def make(path, **arguments):
    return DialogueBenchmark(path, **{"tokens": 200, "count_tokens": count, "questions": 4, **arguments})


def test_a_history_holds_what_was_told_and_not_what_is_asked(path):
    """An answer in the history would make the task one of copying; a missing record would make it impossible."""
    sources = list(make(path).sources())
    items = [item for source in sources for item in source.items]
    assert len(items) == len({item.id for item in items}) == 30
    for source in sources:
        parts = source.text.split("\n\n")
        assert 1 <= len(source.items) <= 4
        for item in source.items:
            name = item.question.split()[2]
            (part,) = (part for part in parts if f"{name} " in part)
            assert part == f"User: {name} keeps {item.reference} at home.\nAssistant: Noted, thank you."
            assert item.question == item.retrieval_query and item.task == "dialogue" and item.max_new_tokens == 64


def test_other_dialogues_are_told_in_full_up_to_the_length(path):
    """A history of another length than was asked for would be reported under the wrong length."""
    for source in make(path).sources():
        assert 200 - 16 < count(source.text) <= 200
        whole = [part for part in source.text.split("\n\n") if "What does" in part]
        assert whole and all(part.count("\n") == 3 for part in whole)
        parts = source.text.split("\n\n")
        assert len(set(parts)) == len(parts)


def test_places_and_draws_come_from_the_seed(path):
    """Records that always stand first would be easy to find, and another draw in each run not comparable."""

    def texts(**arguments):
        return [source.text for source in make(path, **arguments).sources()]

    assert texts() == texts() and texts() != texts(seed=1)
    places = set()
    for source in make(path, questions=1).sources():
        name = source.items[0].question.split()[2]
        parts = source.text.split("\n\n")
        places.add(next(i for i, part in enumerate(parts) if f"{name} " in part))
    assert len(places) > 5


def test_a_dialogue_that_opens_alike_is_kept_out(write_records):
    """A copy told in full, or a longer version of it, would give the answer away."""
    longer = told(0)
    longer["messages"] = longer["messages"] + [
        {"role": "user", "content": "Are you sure?"},
        {"role": "assistant", "content": "Quite sure."},
    ]
    records = [told(0), told(0), longer, *(talk(i) for i in range(60))]
    sources = list(make(write_records("dialogues.jsonl", records)).sources())
    assert [len(source.items) for source in sources] == [1, 1, 1]
    for source in sources:
        assert source.text.count("Person0 keeps") == 1


def test_scores_are_exact_match_and_rouge(path):
    """Short answers are right or wrong; ROUGE-L says how far off the others are."""
    benchmark = make(path)
    item = next(benchmark.sources()).items[0]
    assert benchmark.score(item, [f"The {item.reference}."])["score"] == 1.0
    score = benchmark.score(item, [f"{item.reference} perhaps or not"])
    assert score == {"score": 0.0, "rouge_l": pytest.approx(2 / 5)}
    assert tuple(score) == benchmark.metrics and benchmark.follow_up(item, ["x"]) is None
    assert SamplingConfig(**benchmark.sampling).temperature == 0
    EngineConfig(prompt=benchmark.template)


def test_limit_and_answer_length_can_be_set(path):
    """A quick run asks a few questions."""
    sources = list(make(path, limit=5, max_new_tokens=7).sources())
    assert [len(source.items) for source in sources] == [4, 1]
    assert all(item.max_new_tokens == 7 for source in sources for item in source.items)


def test_few_tokens_give_fewer_questions_a_history(path):
    """What is asked must fit; ten words each make two in 25."""
    assert max(len(source.items) for source in make(path, tokens=25).sources()) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tokens": 5}, "takes 10 tokens and does not fit into a history of 5"),
        ({"tokens": 5000}, "name a longer file, or ask for fewer tokens"),
        ({"questions": 0}, "questions must be at least 1"),
        ({"limit": 0}, "limit must be at least 1 question"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"tokens": 0}, "tokens must be at least 1"),
    ],
)
def test_a_history_that_cannot_be_made_is_refused(path, arguments, message):
    """A shorter history under the wrong label would flatter every method."""
    with pytest.raises(ValueError, match=message):
        make(path, **arguments)


MESSAGES = told(1)["messages"]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"id": "x"}, "field 'messages' is missing"),
        ({"messages": MESSAGES[:1]}, "must be a list of at least 2 messages"),
        ({"messages": MESSAGES[:3]}, "the last two messages must be of user and assistant"),
        ({"messages": [*MESSAGES, MESSAGES[3]]}, "the last two messages must be of user and assistant"),
        ({"messages": ["hello", *MESSAGES]}, "message 1 is not an object"),
        ({"messages": [{"role": "robot", "content": "x"}, *MESSAGES]}, "message 1: field 'role' must be one of user"),
        ({"messages": [MESSAGES[0], {"role": "assistant"}]}, "message 2: field 'content' is missing"),
        ({"messages": MESSAGES, "id": "first"}, "id 'first' appears twice"),
    ],
)
def test_a_bad_record_is_named(write_records, record, message):
    """A dialogue cut in the middle would have somebody else's reference."""
    path = write_records("dialogues.jsonl", [told(0, id="first"), record])
    with pytest.raises(ValueError, match=f"dialogues.jsonl, line 2.*{message}"):
        make(path)


def test_a_file_in_which_nothing_can_be_asked_is_refused(write_records):
    """Without anything told before a question the history is of no use."""
    with pytest.raises(ValueError, match="no dialogue has a message before its last question"):
        make(write_records("dialogues.json", [talk(1), talk(2)]))


def test_the_fingerprint_follows_data_settings_and_lengths(path):
    """Tokens of another tokenizer make other histories: their results must not be mixed."""
    settings = [{}, {"seed": 1}, {"tokens": 150}, {"questions": 2}, {"limit": 5}, {"max_new_tokens": 9}]
    settings.append({"count_tokens": len, "tokens": 1000})
    assert len({make(path, **arguments).fingerprint for arguments in settings}) == len(settings)
    assert make(path).fingerprint == make(path).fingerprint


def test_bad_records_and_dialogues_that_are_too_long_are_kept_apart(write_records):
    """They are recorded as failed by their line or name; histories are made of the others."""
    long = told(98, id="long")
    long["messages"][0]["content"] += " word" * 300
    path = write_records("dialogues.jsonl", [{"id": "x"}, long, *(told(i) if i % 2 else talk(i) for i in range(60))])
    *good, bad = make(path, keep_bad=True).sources()
    assert len([item for source in good for item in source.items]) == 30
    problems = {item.id: item.problem for item in bad.items}
    assert list(problems) == ["line 1", "long"]
    assert "dialogues.jsonl, line 1: field 'messages' is missing" in problems["line 1"]
    assert "does not fit into a history of 200" in problems["long"]
    path.write_text("7\n")
    with pytest.raises(ValueError, match="dialogues.jsonl, line 1: not an object"):
        make(path, keep_bad=True)

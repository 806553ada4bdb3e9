"""From messages to a document and a question: what is joined again must be the messages."""

import pytest

from rapid_jax.serving.errors import ApiError
from rapid_jax.serving.reading import about_document, with_document


def user(text):
    return {"role": "user", "content": text}


def said(text):
    return {"role": "assistant", "content": text}


def is_long(text):
    return len(text) >= 20


LONG = "A long text.\n\nIn two parts."


def test_a_long_message_is_parted_at_its_last_blank_line():
    found = with_document([user(f"{LONG}\n\nWho?\n")], is_long)
    assert (found.text, found.earlier, found.question) == (LONG, (), "Who?")


def test_turns_behind_the_first_message_stay_turns():
    found = with_document([user(f"{LONG}\n\nWho?"), said("He."), user("Why?")], is_long)
    assert (found.text, found.earlier, found.question) == (LONG, (user("Who?"), said("He.")), "Why?")


def test_a_long_system_message_is_the_document_and_a_short_one_stands_before_the_question():
    found = with_document([{"role": "system", "content": LONG}, user("Who?")], is_long)
    assert (found.text, found.question) == (LONG, "Who?")
    found = with_document([{"role": "system", "content": "Be short."}, user(f"{LONG}\n\nWho?")], is_long)
    assert (found.text, found.question) == (LONG, "Be short.\n\nWho?")


@pytest.mark.parametrize(
    "text", ["Who?", "A long text without any question", f"x\n\n{'y' * 30}", f"{LONG}\n\n{'z' * 30}"]
)
def test_other_messages_hold_no_document(text):
    """A short text, one without a blank line, a long last part: they are read as they are."""
    assert with_document([user(text)], is_long) is None


def test_turns_of_one_role_are_one_turn():
    told = about_document([user("One."), user("Two?"), said("Yes."), said("No."), user("Why?")])
    assert told.earlier == (user("One.\n\nTwo?"), said("Yes.\n\nNo.")) and told.question == "Why?"


def test_a_conversation_that_the_assistant_begins_is_refused():
    with pytest.raises(ApiError, match="must be one of the user"):
        about_document([said("Hello."), user("Who?")])

"""A real long text that lies on every machine: the reference of the Python language in the standard library."""

from __future__ import annotations

from collections.abc import Callable

NAME = "the reference of the Python language"
QUESTION = "What happens when a pass statement is executed, and what is it useful for?"
ANSWER = (
    "When a pass statement is executed, nothing happens. It is useful as a placeholder when a statement is required "
    "syntactically, but no code needs to be executed."
)
_TOPIC = "pass"  # the topic that answers it
_BETWEEN = "\n\n"


def document(room: int, count: Callable[[str], int]) -> str:
    """Whole topics of the reference in the order of their names, those for which there is room.

    The topic that answers QUESTION is always one of them.

    Args:
      room: tokens of the document at most.
      count: gives the tokens of a text.

    Raises:
      ValueError: the room does not hold that topic.
    """
    from pydoc_data.topics import topics

    needed = count(topics[_TOPIC] + _BETWEEN)
    if room < needed:
        raise ValueError(
            f"the model has room for a document of {room} tokens, the default one needs {needed} at least: "
            "give a document and a question of your own"
        )
    free, chosen = room - needed, [_TOPIC]
    for name in sorted(topics):
        size = count(topics[name] + _BETWEEN)
        if name != _TOPIC and size <= free:
            free -= size
            chosen.append(name)
    while True:  # a token may lie across two topics, so that the whole has a few more or fewer than the sum
        text = _BETWEEN.join(topics[name] for name in sorted(chosen))
        if count(text) <= room or len(chosen) == 1:
            return text
        chosen.pop()

"""A real long text that lies on every machine: the reference of the Python language in the standard library."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

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
    needed = count(text(_TOPIC) + _BETWEEN)
    if room < needed:
        raise ValueError(
            f"the model has room for a document of {room} tokens, the default one needs {needed} at least: "
            "give a document and a question of your own"
        )
    names = sorted([_TOPIC, *_fitting(_names(), room - needed, count, without=_TOPIC)])
    return _joined(names, count, room, keep=_TOPIC)


def document_about(topic: str, room: int, count: Callable[[str], int], depth: float) -> str:
    """A topic among those that follow it in the order of names, those for which there is room.

    Args:
      topic: key of pydoc_data.topics.
      room: tokens of the document at most.
      count: gives the tokens of a text.
      depth: share of the other topics that stand before it, from 0 to 1.

    Raises:
      ValueError: the room does not hold the topic.
    """
    needed = count(text(topic) + _BETWEEN)
    if room < needed:
        raise ValueError(
            f'the section "{title(topic)}" has {needed} tokens and does not fit into {room}: take a longer document'
        )
    names = _names()
    place = names.index(topic)
    around = _fitting(names[place:] + names[:place], room - needed, count, without=topic)
    around.insert(round(depth * len(around)), topic)
    return _joined(around, count, room, keep=topic)


def title(topic: str) -> str:
    """The heading of a topic."""
    return text(topic).strip().splitlines()[0]


def text(topic: str) -> str:
    """A topic as it stands in a document."""
    return _topics()[topic]


def _topics() -> Mapping[str, str]:
    from pydoc_data.topics import topics

    return topics


def _names() -> list[str]:
    """Topics in the order of their names; of those with one text, such as "if" and "else", the first."""
    first: dict[str, str] = {}
    for name, text in sorted(_topics().items()):
        first.setdefault(text, name)
    return list(first.values())


def _fitting(order: Sequence[str], free: int, count: Callable[[str], int], *, without: str) -> list[str]:
    """The topics but one that still fit into `free` tokens when they are tried in this order."""
    fitting = []
    for name in order:
        size = count(text(name) + _BETWEEN)
        if name != without and size <= free:
            free -= size
            fitting.append(name)
    return fitting


def _joined(names: list[str], count: Callable[[str], int], room: int, keep: str) -> str:
    """Their texts; a token may lie across two topics, so that the whole has a few more or fewer than the sum."""
    topics = _topics()
    while True:
        text = _BETWEEN.join(topics[name] for name in names)
        if count(text) <= room or len(names) == 1:
            return text
        names.remove(next(name for name in reversed(names) if name != keep))

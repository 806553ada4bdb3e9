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
    needed = count(_topics()[_TOPIC] + _BETWEEN)
    if room < needed:
        raise ValueError(
            f"the model has room for a document of {room} tokens, the default one needs {needed} at least: "
            "give a document and a question of your own"
        )
    chosen = _chosen(_TOPIC, _names(), room, count)
    return _joined(sorted(chosen), count, room, keep=_TOPIC)


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
    needed = count(_topics()[topic] + _BETWEEN)
    if room < needed:
        raise ValueError(f'the section "{title(topic)}" has {needed} tokens and does not fit into {room}')
    names = _names()
    place = names.index(topic)
    others = [name for name in _chosen(topic, names[place:] + names[:place], room, count) if name != topic]
    others.insert(round(depth * len(others)), topic)
    return _joined(others, count, room, keep=topic)


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


def _chosen(topic: str, order: Sequence[str], room: int, count: Callable[[str], int]) -> list[str]:
    """The topic, and all others that still fit when they are tried in this order."""
    topics = _topics()
    free, chosen = room - count(topics[topic] + _BETWEEN), [topic]
    for name in order:
        size = count(topics[name] + _BETWEEN)
        if name != topic and size <= free:
            free -= size
            chosen.append(name)
    return chosen


def _joined(names: list[str], count: Callable[[str], int], room: int, keep: str) -> str:
    """Their texts; a token may lie across two topics, so that the whole has a few more or fewer than the sum."""
    topics = _topics()
    while True:
        text = _BETWEEN.join(topics[name] for name in names)
        if count(text) <= room or len(names) == 1:
            return text
        names.remove(next(name for name in reversed(names) if name != keep))

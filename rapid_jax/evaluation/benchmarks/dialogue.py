"""The last question of a dialogue, hidden behind a long chat history of other dialogues.

The data file holds one dialogue a record: {"id": optional, "messages": [{"role": "user" or "assistant", "content":
text}, ...]}. The last two messages are a question and its reference answer. assets/dialogues.jsonl is such a file, made
by `rapid_jax.evaluation.dialogues`.

A dialogue can be asked if messages stand before its question. They are told in a history among whole other dialogues,
which are drawn until the history is as long as wanted; several questions share a history, so that it is read once.
RAPID (arXiv 2502.20330) tests generation on long chat histories as well; the data and the drawing here are our own.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rapid_jax.evaluation import metrics
from rapid_jax.evaluation.benchmarks.base import FollowUp, Item, Message, Source
from rapid_jax.evaluation.benchmarks.files import Record, fingerprint, read_records
from rapid_jax.evaluation.benchmarks.grouping import bad_item, with_bad

_SEPARATOR = "\n\n"
_SPEAKERS = {"user": "User", "assistant": "Assistant"}


@dataclasses.dataclass(frozen=True)
class Dialogue:
    """One dialogue of the file; the last two messages are the question and its answer."""

    id: str
    messages: tuple[Message, ...]

    @property
    def opening(self) -> str:
        return self.messages[0]["content"]

    @property
    def earlier(self) -> str:
        """Transcript of everything before the question."""
        return transcript(self.messages[:-2])

    @property
    def whole(self) -> str:
        """Transcript of all of it."""
        return transcript(self.messages)


def transcript(messages: Iterable[Message]) -> str:
    """One line or more a message, after the name of its speaker."""
    return "\n".join(f"{_SPEAKERS[message['role']]}: {message['content']}" for message in messages)


class DialogueBenchmark:
    """Histories with the questions whose dialogues began in them; see `base.Benchmark`.

    "score" is the exact match of `metrics.exact_match`, "rouge_l" its softer companion.

    Args:
      path: the data file.
      tokens: length of a history at most, as `count_tokens` counts. It falls short by less than one dialogue.
      count_tokens: number of tokens of a text; called once for each text that is drawn.
      questions: asked about one history at most.
      limit: questions in all; None asks all.
      seed: of the drawing of questions, of other dialogues, and of places.
      max_new_tokens: of an answer.
      keep_bad: a record that is not a dialogue becomes an item with its problem, instead of an error.

    Raises:
      FileNotFoundError: the data file is not there.
      ValueError: a record that is not a dialogue, no dialogue that can be asked, a file too short for such a history,
        or a history too short for a dialogue.
    """

    name = "dialogue"
    template = "{document}\n\n{question}"
    metrics: tuple[str, ...] = ("score", "rouge_l")
    sampling: Mapping[str, Any] = {"temperature": 0.0}

    def __init__(
        self,
        path: Path | str,
        *,
        tokens: int,
        count_tokens: Callable[[str], int],
        questions: int = 8,
        limit: int | None = None,
        seed: int = 0,
        max_new_tokens: int = 64,
        keep_bad: bool = False,
    ):
        for name, value in (("tokens", tokens), ("questions", questions), ("max_new_tokens", max_new_tokens)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be at least 1 question, got {limit}")
        metrics.require_rouge()
        path = Path(path)
        dialogues, bad = _read(path, self.name, keep_bad)
        asked = [dialogue for dialogue in dialogues if len(dialogue.messages) > 2]
        if not asked:
            raise ValueError(f"{path}: no dialogue has a message before its last question, so none can be asked")
        random.Random(f"{seed} questions").shuffle(asked)
        history = _History(path, dialogues, tokens, count_tokens)
        if keep_bad:
            asked, too_long = history.fitting(asked)
            bad += [dataclasses.replace(_item(one, self.name, 1), problem=problem) for one, problem in too_long]
            if not asked:
                raise ValueError(bad[-1].problem)
        sources = []
        for number, group in enumerate(history.groups(asked[:limit], questions), start=1):
            text = history.text(group, random.Random(f"{seed} history {number}"))
            items = (_item(dialogue, self.name, max_new_tokens) for dialogue in group)
            sources.append(Source(f"history-{number}", text, tuple(items)))
        self._sources = with_bad(sources, bad)
        settings = {"name": self.name, "questions": questions, "limit": limit, "max_new_tokens": max_new_tokens}
        self.fingerprint = fingerprint(settings, path, *(source.text for source in self._sources))

    def sources(self) -> Iterator[Source]:
        """Histories in the order in which they were drawn."""
        return iter(self._sources)

    def follow_up(self, item: Item, answers: Sequence[str]) -> FollowUp | None:
        """None: there is one turn."""
        return None

    def score(self, item: Item, answers: Sequence[str]) -> dict[str, float]:
        """Exact match and ROUGE-L with the last message of the dialogue."""
        answer = answers[-1]
        return {
            "score": metrics.exact_match(answer, item.reference),
            "rouge_l": metrics.rouge_l(answer, item.reference),
        }


def _item(dialogue: Dialogue, task: str, max_new_tokens: int) -> Item:
    question, reference = (message["content"] for message in dialogue.messages[-2:])
    return Item(dialogue.id, task, question, question, reference, max_new_tokens)


class _History:
    """Puts histories of one length together; counts the tokens of a text once."""

    def __init__(self, path: Path, dialogues: Sequence[Dialogue], tokens: int, count_tokens: Callable[[str], int]):
        self.path = path
        self.dialogues = dialogues
        self.tokens = tokens
        self.count_tokens = count_tokens
        self.costs: dict[str, int] = {}

    def cost(self, text: str) -> int:
        if text not in self.costs:
            self.costs[text] = self.count_tokens(text + _SEPARATOR)
        return self.costs[text]

    def too_long(self, dialogue: Dialogue) -> str:
        """Why a dialogue does not fit into a history; empty where it does."""
        cost = self.cost(dialogue.earlier)
        if cost <= self.tokens:
            return ""
        return (
            f"{self.path}: dialogue {dialogue.id!r} takes {cost} tokens and does not fit into a history of "
            f"{self.tokens}"
        )

    def fitting(self, asked: Iterable[Dialogue]) -> tuple[list[Dialogue], list[tuple[Dialogue, str]]]:
        """The dialogues that fit into a history, and the others with the reason."""
        reasons = [(dialogue, self.too_long(dialogue)) for dialogue in asked]
        return [one for one, reason in reasons if not reason], [(one, reason) for one, reason in reasons if reason]

    def groups(self, asked: Iterable[Dialogue], questions: int) -> Iterator[list[Dialogue]]:
        """Dialogues that share a history: in order, as many as may and fit, no two of which open in the same words."""
        group: list[Dialogue] = []
        used = 0
        for dialogue in asked:
            if reason := self.too_long(dialogue):
                raise ValueError(reason)
            cost = self.cost(dialogue.earlier)
            same = any(dialogue.opening == other.opening for other in group)
            if group and (len(group) == questions or used + cost > self.tokens or same):
                yield group
                group, used = [], 0
            group.append(dialogue)
            used += cost
        yield group

    def text(self, group: Sequence[Dialogue], rng: random.Random) -> str:
        """The history of a group: what came before its questions, among other dialogues, in an order that is drawn.

        A dialogue that opens as one of the group does is left out: it could tell the answer.
        """
        parts = [dialogue.earlier for dialogue in group]
        room = self.tokens - sum(map(self.cost, parts))
        openings = {dialogue.opening for dialogue in group}
        others = [dialogue.whole for dialogue in self.dialogues if dialogue.opening not in openings]
        rng.shuffle(others)
        for other in others:
            cost = self.cost(other)
            if cost > room:
                break
            parts.append(other)
            room -= cost
        else:
            raise ValueError(
                f"{self.path}: all dialogues together make {self.tokens - room} tokens and not the {self.tokens} of a "
                "history; name a longer file, or ask for fewer tokens"
            )
        rng.shuffle(parts)
        return _SEPARATOR.join(parts)


def _read(path: Path, task: str, keep_bad: bool) -> tuple[list[Dialogue], list[Item]]:
    """The dialogues of a file, and the bad records where they are kept."""
    dialogues: list[Dialogue] = []
    bad: list[Item] = []
    seen: set[str] = set()
    for number, record in enumerate(read_records(path, keep_bad=keep_bad), start=1):
        try:
            has_id = record.fields.get("id") is not None
            dialogue = Dialogue(record.key("id") if has_id else f"dialogue-{number}", tuple(_messages(record)))
            if dialogue.id in seen:
                raise record.error(f"id {dialogue.id!r} appears twice")
        except ValueError as error:
            if not keep_bad:
                raise
            bad.append(bad_item(record, str(error), task))
            continue
        seen.add(dialogue.id)
        dialogues.append(dialogue)
    if bad and not dialogues:
        raise ValueError(bad[0].problem)
    return dialogues, bad


def _messages(record: Record) -> Iterator[Message]:
    """The messages of a record, checked: strings that are not empty, and a user's before an assistant's at the end."""
    values = record.value("messages")
    if not isinstance(values, (list, tuple)) or len(values) < 2:
        raise record.error("field 'messages' must be a list of at least 2 messages")
    for number, value in enumerate(values, start=1):
        if not isinstance(value, dict):
            raise record.error(f"message {number} is not an object with role and content")
        message = Record(f"{record.where}, message {number}", value)
        yield {"role": message.one_of("role", tuple(_SPEAKERS)), "content": message.text("content")}
    if [value["role"] for value in values[-2:]] != ["user", "assistant"]:
        raise record.error("the last two messages must be of user and assistant")

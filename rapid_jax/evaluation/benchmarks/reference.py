"""Prompts of three kinds about real text that lies on every machine: the reference of the Python language.

Twelve documents of whole sections, and about one section of each: write it out, answer a question about it, summarise
it. Nothing is scored: what counts is tokens a step, speed and what is retrieved. An item's reference says where its
section lies in the document, so that passages can be compared with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rapid_jax.config import language_reference
from rapid_jax.evaluation.benchmarks.base import FollowUp, Item, Source
from rapid_jax.evaluation.benchmarks.files import fingerprint

QUOTE, ASK, SUMMARISE = KINDS = ("quote", "ask", "summarise")
MAX_NEW_TOKENS = 128

# Sections of 200 to 500 tokens, so that each fits the shortest document, with a question that it answers.
QUESTIONS = {
    "assert": "What does an assert statement do if its condition is false, and when is no code emitted for it?",
    "booleans": "Which values count as false, and what do the expressions 'x and y' and 'x or y' evaluate to?",
    "context-managers": "What do the methods __enter__ and __exit__ of a context manager do, and when are they called?",
    "del": "What does the del statement do with a name, and what with a list of targets?",
    "dict": "How does a dictionary display make a dictionary, and what happens if a key appears twice in it?",
    "exceptions": "What is the termination model of error handling, and what happens if an exception is not handled?",
    "for": "When does the else clause of a for statement run, and what do break and continue do in the loop?",
    "global": "What does the global statement declare, and what must not stand before it in the same block?",
    "in": "How do the operators 'in' and 'not in' test membership in strings and in user-defined classes?",
    "integers": "How are integer literals written in other bases, and what are underscores in them good for?",
    "power": "How strongly does the power operator bind, and what does it give for integers with a negative exponent?",
    "return": "What does a return statement leave, and what happens if it stands in a try statement with finally?",
}
MOST = len(QUESTIONS)
SHORTEST = 700  # tokens of a document: the longest of the sections, and what precedes a document


def documents(room: int, count: Callable[[str], int], number: int = MOST) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Documents of whole sections, each with what is asked about one of them.

    Document i holds section i of QUESTIONS and those that follow it in the reference's order of names. The section
    stands behind a share of the others that grows from the first document to the last, so that answers lie at all
    depths.

    Args:
      room: tokens of each document, at most and nearly.
      count: gives the tokens of a text.
      number: documents, at most MOST.

    Yields:
      The section's name, the document, and the prompts by their kind.

    Raises:
      ValueError: too little room for a section.
    """
    for index, (section, question) in enumerate(list(QUESTIONS.items())[:number]):
        text = language_reference.document_about(section, room, count, (index + 0.5) / number)
        title = language_reference.title(section)
        asked = {
            QUOTE: f'Write out the section "{title}" word for word.',
            ASK: question,
            SUMMARISE: f'Summarise the section "{title}" as a list of short points.',
        }
        yield section, text, asked


class ReferenceBenchmark:
    """Twelve documents of one length with three prompts each; see `base.Benchmark`.

    Args:
      tokens: of each document, at most and nearly.
      count_tokens: gives the tokens of a text.

    Raises:
      ValueError: too few tokens for a section.
    """

    name = "reference"
    template = "{document}\n\n{question}"
    metrics: tuple[str, ...] = ()
    sampling: Mapping[str, Any] = {"temperature": 0.0}

    def __init__(self, tokens: int, count_tokens: Callable[[str], int]):
        self._sources = [
            Source(section, text, tuple(_item(section, text, kind, question) for kind, question in asked.items()))
            for section, text, asked in documents(tokens, count_tokens)
        ]
        settings = {"name": self.name, "max_new_tokens": MAX_NEW_TOKENS}
        self.fingerprint = fingerprint(
            {**settings, "asked": [[item.id, item.question] for source in self._sources for item in source.items]},
            *(source.text for source in self._sources),
        )

    def sources(self) -> Iterator[Source]:
        """Documents in the order of QUESTIONS."""
        return iter(self._sources)

    def follow_up(self, item: Item, answers: Sequence[str]) -> FollowUp | None:
        """None: there is one turn."""
        return None

    def score(self, item: Item, answers: Sequence[str]) -> dict[str, float]:
        """Nothing: no answer is right or wrong."""
        return {}


def _item(section: str, text: str, kind: str, question: str) -> Item:
    start = text.index(language_reference.text(section))
    return Item(
        id=f"{section}/{kind}",
        task=kind,
        question=question,
        retrieval_query=question,
        reference={"start": start, "end": start + len(language_reference.text(section))},
        max_new_tokens=MAX_NEW_TOKENS,
    )

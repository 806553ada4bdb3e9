"""Prompts of three kinds about real text: the reference of the Python language, a document for each question."""

from __future__ import annotations

from collections.abc import Iterator

from rapid_jax.benchmarking.prompts import BenchmarkPrompts, head_tokens, prompts_about
from rapid_jax.config import language_reference
from rapid_jax.engine.engine import Engine

QUOTE, ASK, SUMMARISE = KINDS = ("quote", "ask", "summarise")

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


def reference_prompts(engine: Engine, tokens: int, questions: int) -> Iterator[BenchmarkPrompts]:
    """Documents of whole sections of the language reference, and three prompts about a section of each.

    Document i holds section i of QUESTIONS and those that follow it in the reference's order of names. The section
    stands behind a share of the others that grows from the first document to the last, so that answers lie at all
    depths. The prompts of a document follow each other: write the section out, answer its question, summarise it.

    Args:
      engine: with a `benchmark_config`.
      tokens: of each document and what precedes it, at most and nearly.
      questions: documents, at most MOST.

    Raises:
      ValueError: too few tokens for a section.
    """
    tokenizer = engine.target.tokenizer
    room = tokens - head_tokens(engine)
    for number, (section, question) in enumerate(list(QUESTIONS.items())[:questions]):
        depth = (number + 0.5) / questions
        text = language_reference.document_about(section, room, lambda part: len(tokenizer.encode(part)), depth)
        title = language_reference.title(section)
        asked = {
            QUOTE: f'Write out the section "{title}" word for word.',
            ASK: question,
            SUMMARISE: f'Summarise the section "{title}" as a list of short points.',
        }
        for kind, prompts in zip(asked, prompts_about(engine, text, list(asked.values())).each(), strict=True):
            yield prompts.of_kind(kind)

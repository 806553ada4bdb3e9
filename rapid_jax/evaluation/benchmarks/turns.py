"""Conversations whose user's messages are all known beforehand."""

from __future__ import annotations

from collections.abc import Sequence

from rapid_jax.evaluation.benchmarks.base import FollowUp, Message


def next_turn(turns: Sequence[str], answers: Sequence[str], max_new_tokens: int) -> FollowUp | None:
    """The next turn of a conversation, after all turns before it and their answers; None after the last.

    Args:
      turns: the user's messages.
      answers: the model's, to the first of them.
      max_new_tokens: of the next answer.
    """
    if len(answers) >= len(turns):
        return None
    messages: list[Message] = []
    for turn, answer in zip(turns, answers, strict=False):
        messages += [{"role": "user", "content": turn}, {"role": "assistant", "content": answer}]
    messages.append({"role": "user", "content": turns[len(answers)]})
    return FollowUp(tuple(messages), max_new_tokens)

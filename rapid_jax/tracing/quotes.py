"""The words of a passage that an answer quotes."""

from __future__ import annotations

import difflib
import re

LEAST = 4  # words in a row that count as a quote; shorter runs are in any two texts

_WORD = re.compile(r"\w+")


def quoted(passage: str, answer: str, least: int = LEAST) -> list[tuple[int, int]]:
    """The characters [start, end) of a passage whose words stand in the answer in the same order, in their order.

    Upper and lower case are the same; what stands between the words does not matter.

    >>> passage = "By the wall Mirel plays the oboe."
    >>> [passage[start:end] for start, end in quoted(passage, "Mirel plays the oboe, they say.")]
    ['Mirel plays the oboe']

    Args:
      passage, answer: texts.
      least: words of a run that counts.
    """
    words = list(_WORD.finditer(passage))
    said = [word.group().casefold() for word in _WORD.finditer(answer)]
    matcher = difflib.SequenceMatcher(None, [word.group().casefold() for word in words], said, autojunk=False)
    return [
        (words[block.a].start(), words[block.a + block.size - 1].end())
        for block in matcher.get_matching_blocks()
        if block.size >= least
    ]

"""Made-up dialogues in the words of the archives: a user tells about a person, then asks for something that was told.

assets/dialogues.jsonl was written by

    from rapid_jax.evaluation.dialogues import make_dialogues, write_dialogues
    write_dialogues(make_dialogues(200, seed=0), "assets/dialogues.jsonl")
"""

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rapid_jax.evaluation import archive_text as text
from rapid_jax.evaluation.archive import draw_value
from rapid_jax.evaluation.writing import write_text

# {name} is the person; every word is one of an archive's.
ACKNOWLEDGEMENTS = (
    "All of it was written down.",
    "That was noticed and written down.",
    "The records of {name} are kept.",
    "That is known of {name}.",
    "All was written down by the clerk.",
)
NUM_RECORDS = (1, 2)  # exchanges before the question
NUM_FACTS = (2, 4)  # in a record


@dataclass
class _Writer:
    """Draws dialogues; no two people have the same full name, teachers included."""

    rng: random.Random
    names: set[str]

    def new_name(self) -> str:
        while True:
            name = f"{self.rng.choice(text.FIRST_NAMES)} {self.rng.choice(text.SURNAMES)}"
            if name not in self.names:
                self.names.add(name)
                return name

    def dialogue(self, number: int) -> dict[str, Any]:
        """One dialogue: a record and an acknowledgement once or twice, then the question and its answer."""
        name = self.new_name()
        sizes = [self.rng.randint(*NUM_FACTS) for _ in range(self.rng.randint(*NUM_RECORDS))]
        attributes = self.rng.sample(text.PERSON_ATTRIBUTES, sum(sizes))
        facts = [(attribute, draw_value(self.rng, attribute, self.new_name)) for attribute in attributes]
        turns = []
        told = 0
        for ordinal, size in zip(text.ORDINALS, sizes, strict=False):
            header = text.RECORD_HEADER.format(name=name, number=text.NUMBERS[len(sizes) - 1], ordinal=ordinal)
            sentences = [
                self.rng.choice(attribute.statements).format(name=name, value=value)
                for attribute, value in facts[told : told + size]
            ]
            told += size
            turns.append(" ".join([header, *sentences]))
            turns.append(self.rng.choice(ACKNOWLEDGEMENTS).format(name=name))
        attribute, answer = self.rng.choice(facts)
        turns += [self.rng.choice(attribute.questions).format(name=name), answer]
        roles = ("user", "assistant")
        messages = [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)]
        return {"id": f"made-{number}", "messages": messages}


def make_dialogues(number: int, seed: int) -> list[dict[str, Any]]:
    """Records of a data file of `benchmarks.dialogue`, the same for the same seed.

    Raises ValueError for a number below 1 or one that would need most of the names that there are.
    """
    most = len(text.FIRST_NAMES) * len(text.SURNAMES) // 4
    if not 1 <= number <= most:
        raise ValueError(f"the number of dialogues must be in [1, {most}], got {number}")
    writer = _Writer(random.Random(seed), set())
    return [writer.dialogue(i) for i in range(number)]


def write_dialogues(dialogues: Iterable[dict[str, Any]], path: Path | str) -> None:
    """Write one JSON object a line; a file that is there is replaced. Raises OSError that names the file."""
    lines = (json.dumps(dialogue, ensure_ascii=False) + "\n" for dialogue in dialogues)
    write_text(Path(path), "".join(lines))

"""Training rows: a short archive followed by questions on it, with the loss on the answers alone."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np

from rapid_jax.evaluation.archive import CONCLUSION, TASKS, Archive, Question, make_archive, with_choices
from rapid_jax.evaluation.archive_text import (
    FIRST_NAMES,
    NOBODY,
    NUMBERS,
    ORDINALS,
    PERSON_ATTRIBUTES,
    SURNAMES,
    THINGS,
    TOWN_ATTRIBUTES,
    VESSELS,
)
from rapid_jax.training.tokenizer import ANSWER

DOSSIER_WEIGHT = 0.25  # of a dossier's token in the loss: they are many, and most are easy
END_WEIGHT = 4.0  # of the tokens from the end of a list on: few, and all depends on them


@dataclass(frozen=True)
class Phase:
    """A stretch of the curriculum: rows of one length until a total number of steps is reached.

    `document` is the document's share of a row; `weights` are the relative numbers of questions by task (see TASKS);
    `reach` is the farthest position that jumps at paragraph ends may lead to (tokens); `turn_weight` is the weight in
    the loss of a dossier's counts, ordinals and ends, where a wrong token spoils what follows.
    """

    until: int
    rows: int
    tokens: int
    document: float
    weights: tuple[float, float, float, float]
    reach: int
    learning_rate: float = 3e-4
    turn_weight: float = DOSSIER_WEIGHT


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batch:
    """Rows of one step: tokens and positions int32 [B,T], and the M scored positions of each row, all [B,M].

    index in the row, target token, weight in the loss, task (index into TASKS), number of the answer within the row.
    """

    tokens: np.ndarray
    positions: np.ndarray
    index: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    task: np.ndarray
    answer: np.ndarray


class RowMaker:
    """Writes training rows; the same seed and step give the same rows."""

    def __init__(self, tokenizer):
        self.backend = tokenizer.backend_tokenizer
        self.bos = tokenizer.bos_token_id
        self.eos = tokenizer.eos_token_id
        self.answer = tokenizer.convert_tokens_to_ids(ANSWER)
        words = [value for attribute in PERSON_ATTRIBUTES + TOWN_ATTRIBUTES for value in attribute.values]
        self.marked = (self.last_ids([*SURNAMES, *VESSELS]), self.last_ids([*words, *THINGS, *FIRST_NAMES]))
        self.nobody = self.encode(" " + NOBODY)[-1]
        self.turns = np.unique([*self.last_ids([*NUMBERS, *ORDINALS]), *self.encode("\n\n"), self.eos])

    def encode(self, part: str) -> list[int]:
        return self.backend.encode(part, add_special_tokens=False).ids

    def last_ids(self, words: Sequence[str]) -> np.ndarray:
        """Id of the last token of each word."""
        return np.asarray([self.encode(" " + word)[-1] for word in words])

    def count(self, part: str) -> int:
        return len(self.encode(part))

    def turn(self, question: Question) -> tuple[list[int], list[int]]:
        """Token ids of a question up to the answer mark, and of its answer with EOS, as the chat template has them."""
        asked = [*self.encode("\n\n" + with_choices(question)), self.answer]
        return asked, [*self.encode(" " + question.working + question.answer), self.eos]

    def batch(self, phase: Phase, seed: Sequence[int]) -> Batch:
        """The rows of one step, drawn from `seed`."""
        rng = random.Random(repr(tuple(seed)))
        shape = (phase.rows, phase.tokens)
        scored = (phase.rows, phase.tokens // 2)
        batch = Batch(
            tokens=np.zeros(shape, np.int32),
            positions=np.zeros(shape, np.int32),
            index=np.zeros(scored, np.int32),
            target=np.zeros(scored, np.int32),
            weight=np.zeros(scored, np.float32),
            task=np.zeros(scored, np.int32),
            answer=np.zeros(scored, np.int32),
        )
        for row in range(phase.rows):
            self._fill(batch, row, phase, rng)
        return batch

    def _fill(self, batch: Batch, row: int, phase: Phase, rng: random.Random) -> None:
        budget = int(phase.tokens * phase.document * rng.uniform(0.8, 1.0))
        archive = make_archive(max(budget, 64), rng.getrandbits(40), self.count)
        ids, positions = self._document(archive, phase, rng)
        next_position = positions[-1] + 1
        scored = 0
        for number, question in enumerate(self._questions(archive, phase, rng)):
            asked, answered = self.turn(question)
            size = len(asked) + len(answered)
            if len(ids) + size > phase.tokens or scored + len(answered) > batch.index.shape[1]:
                continue
            task = TASKS.index(question.task)
            start = len(ids) + len(asked) - 1
            span = slice(scored, scored + len(answered))
            batch.index[row, span] = np.arange(start, start + len(answered))
            batch.target[row, span] = answered
            batch.weight[row, span] = self._weights(question.task, answered, phase)
            batch.task[row, span] = task
            batch.answer[row, span] = number
            scored += len(answered)
            ids += asked + answered
            positions += range(next_position, next_position + size)
            next_position += size
        batch.tokens[row, : len(ids)] = ids
        batch.positions[row, : len(ids)] = positions

    def _weights(self, task: str, answered: list[int], phase: Phase) -> np.ndarray:
        """Weight in the loss of each token of an answer."""
        if task == "whole":
            end = answered.index(self.nobody)
            return np.where(np.arange(len(answered)) < end, 1.0, END_WEIGHT)
        if task != "dossier":
            return np.ones(len(answered))
        return np.where(np.isin(answered, self.turns), phase.turn_weight, DOSSIER_WEIGHT)

    def _document(self, archive: Archive, phase: Phase, rng: random.Random) -> tuple[list[int], list[int]]:
        """Token ids of the document, and positions that jump ahead at paragraph ends in two rows of three."""
        spare = max(phase.reach - phase.tokens, 0)
        spare = int(spare * rng.random() ** 2) if spare and rng.random() < 2 / 3 else 0
        cuts = sorted(rng.randint(0, spare) for _ in archive.paragraphs)
        ids, positions = [self.bos], [0]
        for i, (paragraph, jump) in enumerate(zip(archive.paragraphs, cuts, strict=True)):
            part = self.encode(("\n\n" if i else "") + paragraph)
            positions += range(len(ids) + jump, len(ids) + jump + len(part))
            ids += part
        return ids, positions

    def _questions(self, archive: Archive, phase: Phase, rng: random.Random) -> list[Question]:
        """Questions in a random order that follows the phase's task weights; a vessel's log is asked for once."""
        by_task: dict[str, list[Question]] = {task: [] for task in TASKS}
        logs = set()
        for question in rng.sample(archive.questions, len(archive.questions)):
            if question.task == "whole":
                log = question.working.removesuffix(CONCLUSION) or question.answer
                if log in logs:
                    continue
                logs.add(log)
            by_task[question.task].append(question)
        ordered: list[Question] = []
        room = phase.tokens // 10
        while len(ordered) < room:
            weights = [w if by_task[task] else 0.0 for task, w in zip(TASKS, phase.weights, strict=True)]
            if not any(weights):
                break
            ordered.append(by_task[rng.choices(TASKS, weights)[0]].pop())
        return ordered

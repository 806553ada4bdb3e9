"""Copies as drafts: no drafting model, exactly lossless, and none where they would cost more than they bring."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from models import hosts
from rapid_jax.copying import trust
from rapid_jax.copying.text import Copy, ReadText, append, make_text, propose
from rapid_jax.copying.trust import Speed, Trust
from rapid_jax.decoding.buckets import token_bucket
from rapid_jax.decoding.drafter import BlockLayout, CandidateDraft, Outcome, Pace
from rapid_jax.decoding.sampling import Warping

SOURCES = ("earlier answers", "prompt", "answer")


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class CopyMemory:
    """What each row has read, said and learned.

    Attributes:
      text: earlier answers, prompt and answer.
      trust: how far copies are trusted.
      speed: of the answer so far.
      parts: int32 [B,2], where the prompt and the answer begin.
      ended: bool [B], rows that emitted nothing in the last step.
    """

    text: ReadText
    trust: Trust
    speed: Speed
    parts: jax.Array
    ended: jax.Array

    def source(self, copy: Copy) -> jax.Array:
        """Where a copy comes from, int32 [B], an index into SOURCES."""
        return jnp.sum(copy.place[:, None] >= self.parts, axis=1, dtype=jnp.int32)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class CopyDraft:
    """What would be copied, and the cost of the step that was chosen, float32 []."""

    copy: Copy
    cost: jax.Array


@dataclasses.dataclass(frozen=True)
class CopyDrafter:
    """Copies what followed the longest match of the text's end, up to the length that is best for the batch.

    `model` is a Pace, `cache` a CopyMemory.

    Attributes:
      lengths: draft lengths that are compiled, growing.
      places: that are compared, see `text.propose`.
    """

    lengths: tuple[int, ...]
    places: int
    sources: tuple[str, ...] = SOURCES

    @property
    def gamma(self) -> int:
        return max(self.lengths)

    @property
    def layout(self) -> BlockLayout:
        return BlockLayout(np.arange(self.gamma + 1), np.tri(self.gamma + 1, dtype=bool))

    @property
    def paces(self) -> tuple[CopyDrafter, ...]:
        """The drafters of each length, from none on: a step verifies the rows of one of them."""
        return tuple(dataclasses.replace(self, lengths=(length,)) for length in (0, *self.lengths))

    def propose(self, cache: CopyMemory) -> tuple[Copy, jax.Array]:
        """What would be copied, and how many tokens of each length will be kept, float32 [B,L]."""
        copy = propose(cache.text, self.gamma, self.places).best
        return copy, trust.expected(cache.trust, copy.matched, self.gamma)[:, np.asarray(self.lengths) - 1]

    def draft(
        self, model: Pace, cache: CopyMemory, last_tokens: jax.Array, keys: jax.Array, warping: Warping
    ) -> tuple[CandidateDraft, CopyDraft]:
        copy, kept = self.propose(cache)
        pace = model.choose(trust.best_way(kept, ~cache.ended, model.costs, cache.speed, copies=len(self.lengths)))
        length = jnp.where(copy.matched > 0, jnp.asarray((0, *self.lengths))[pace], 0)
        batch = last_tokens.shape[0]
        draft = CandidateDraft(
            tokens=copy.tokens[:, None],
            lengths=length[:, None].astype(jnp.int32),
            sources=cache.source(copy)[:, None],
            extra=jnp.zeros((batch, 0), jnp.int32),
            forwards=jnp.zeros((batch,), jnp.int32),
            pace=pace,
        )
        return draft, CopyDraft(copy, model.costs[pace])

    def commit(self, cache: CopyMemory, drafted: CopyDraft, outcome: Outcome) -> CopyMemory:
        copy, count = drafted.copy, outcome.count
        seen = trust.observe(cache.trust, copy.tokens, copy.matched, outcome.tokens, count)
        text = append(cache.text, outcome.tokens, count)
        return CopyMemory(text, seen, cache.speed.after(count, drafted.cost), cache.parts, count == 0)


@dataclasses.dataclass(frozen=True)
class CopiedBefore:
    """What answers about one document leave for later ones.

    Attributes:
      tokens: of the answers, the latest last.
      shown: tokens by class of match, float [N] each: that were right, and that were compared; None before any.
    """

    tokens: tuple[int, ...] = ()
    shown: tuple[np.ndarray, np.ndarray] | None = None

    def after(
        self,
        answers: Sequence[Sequence[int]],
        memory: CopyMemory | None,
        kept: int,
        *,
        began: CopiedBefore,
        rows: Sequence[int] | None = None,
    ) -> CopiedBefore:
        """What is left once more answers are there.

        Args:
          answers: their tokens.
          memory: of the batch that gave them, behind its last step; None where nothing was copied.
          kept: tokens of answers that are kept at most; the oldest go.
          began: what these rows began with; other answers may have come since.
          rows: of the batch, one for each answer; None for its first ones.
        """
        tokens = [*self.tokens, *(token for answer in answers for token in answer)]
        shown = self.shown
        if memory is not None:
            before = trust.initial(began.shown)
            gave = list(range(len(answers)) if rows is None else rows)
            more = (hosts.fetch(x)[gave] for x in (memory.trust.right, memory.trust.seen))
            fresh = [np.maximum(end - start, 0).sum(axis=0) for end, start in zip(more, before, strict=True)]
            shown = (fresh[0], fresh[1]) if shown is None else (shown[0] + fresh[0], shown[1] + fresh[1])
        return CopiedBefore(tuple(tokens[max(0, len(tokens) - kept) :]), shown)


def empty_memory(rows: int, capacity: int) -> CopyMemory:
    """Of rows that have read nothing."""

    def tokens(*shape: int) -> jax.Array:
        return jnp.zeros((rows, *shape), jnp.int32)

    right, seen = (jnp.tile(x, (rows, 1)) for x in trust.initial())
    text = ReadText(tokens(capacity), tokens(), tokens(capacity))
    began = jnp.full((rows,), trust.initial_speed())
    return CopyMemory(text, Trust(right, seen), Speed(began, began), tokens(2), jnp.zeros((rows,), bool))


def make_memory(
    prompts: Sequence[Sequence[int]],
    *,
    new_tokens: int,
    longest: int,
    slots: int = 0,
    before: Sequence[CopiedBefore] = (),
    mesh: Mesh | None = None,
) -> CopyMemory:
    """What each row knows before its first step.

    Args:
      prompts: each row's token ids, the last committed token included.
      new_tokens: generated at most.
      longest: tokens of a draft at most.
      slots: tokens of a prompt, with earlier answers, that there is room for at least: those that share it share their
        programs.
      before: what earlier answers about each row's document have left; empty for nothing.
      mesh: rows are split over its data axis.
    """
    before = before or [CopiedBefore()] * len(prompts)
    texts = [[*one.tokens, *prompt] for one, prompt in zip(before, prompts, strict=True)]
    capacity = token_bucket(max(slots, *map(len, texts)) + new_tokens + longest + 1)

    def put(rows: Sequence[np.ndarray]) -> jax.Array:
        return hosts.put(np.stack(rows), None if mesh is None else NamedSharding(mesh, P("data")))

    right, seen = zip(*(trust.initial(one.shown) for one in before), strict=True)
    return CopyMemory(
        make_text(texts, capacity, put),
        Trust(put(right), put(seen)),
        Speed(*(put([np.asarray(trust.initial_speed()) for _ in texts]) for _ in range(2))),
        put([np.asarray([len(one.tokens), len(text)], np.int32) for one, text in zip(before, texts, strict=True)]),
        put([np.asarray(False) for _ in texts]),
    )

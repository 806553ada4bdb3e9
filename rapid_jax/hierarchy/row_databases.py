"""The databases of a hierarchy inside the step: what is only read, what a row learns, and the order of asking."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from rapid_jax.copying import text as copying
from rapid_jax.copying.text import ReadText
from rapid_jax.databases import ngram_table, suffix_array
from rapid_jax.databases.suffix_array import SuffixLookup
from rapid_jax.hierarchy import context_table, history, lookahead
from rapid_jax.hierarchy.history import History
from rapid_jax.verification.candidates import place


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class RowDatabases:
    """What each row has learned; a part that no database needs is None.

    Attributes:
      recent: int32 [B,M], the newest committed tokens; M is at least n - 1 and what the history is searched for.
      table: int32 [B,V,N,n-1], the context database.
      history: prompt and answer so far.
      grid: int32 [B,n-1,W], the lookahead window.
      text: earlier answers, prompt and answer so far, with the matches of their end.
      ended: bool [B], rows that emitted nothing in the last step; None without a text.
    """

    recent: jax.Array
    table: jax.Array | None = None
    history: History | None = None
    grid: jax.Array | None = None
    text: ReadText | None = None
    ended: jax.Array | None = None

    def read(self, tokens: jax.Array, count: jax.Array) -> RowDatabases:
        """The same behind the first count [B] of tokens [B,T]: what they are looked up for, without learning them."""
        sequence = jnp.concatenate([self.recent, tokens], axis=1)
        kept = count[:, None] + jnp.arange(self.recent.shape[1])[None, :]
        text = None if self.text is None else copying.append(self.text, tokens, count)
        return dataclasses.replace(self, recent=jnp.take_along_axis(sequence, kept, axis=1), text=text)


@dataclasses.dataclass(frozen=True)
class LearnedNgrams:
    """What the databases knew at the end of an answer, for the next turn of the conversation; of a single row.

    Attributes:
      memory: see there.
      tokens: all that it was made of: the prompt and the answer.
    """

    memory: RowDatabases
    tokens: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Hierarchy:
    """The static part: which databases, in which order.

    Attributes:
      databases: names, see HierarchyConfig.
      candidates: N, candidates of a draft.
      length: m, tokens of a candidate at most.
      rows: R, those of a verification that the candidates share.
      ngram: n of the context database and of the window.
      lookahead: W columns of the lookahead window, 0 for none.
      match, min_match: last tokens that the history is searched for, and of which so many must be found.
      statistics: how the statistics database is asked, where there is one.
    """

    databases: tuple[str, ...]
    candidates: int
    length: int
    rows: int
    ngram: int
    lookahead: int
    match: int
    min_match: int = 1
    statistics: SuffixLookup | None = None

    @property
    def recent(self) -> int:
        """Newest tokens that a memory keeps."""
        return max(self.ngram - 1, self.match, 2)

    def lookup(self, static: dict[str, Any], memory: RowDatabases) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Candidates for what follows `memory.recent`, from one database after another until there are enough.

        Args:
          static: the model and statistics databases' arrays, by name.
          memory: of the rows.

        Returns:
          (tokens int32 [B,N,m], lengths int32 [B,N], sources int32 [B,N]); no candidate comes twice, none is the
          beginning of an earlier one, and length 0 is no candidate.
        """
        found, recent = [], memory.recent
        for name in self.databases:
            if name == "copies":
                assert memory.text is not None
                copies = copying.propose(memory.text, self.length, self.candidates)
                found.append((copies.tokens, jnp.where(copies.matched > 0, self.length, 0)))
            elif name == "history":
                assert memory.history is not None
                past, last = memory.history, recent[:, -self.match :]
                found.append(history.lookup(past, last, self.candidates, self.length, min_match=self.min_match))
            elif name == "context":
                assert memory.table is not None
                found.append(context_table.lookup(memory.table, recent[:, -1], self.candidates))
            elif name == "model":
                found.append(ngram_table.lookup(static["model"], recent[:, -1], self.candidates))
            else:
                assert self.statistics is not None
                found.append(
                    suffix_array.lookup(self.statistics, static["statistics"], recent[:, -2:], self.candidates)
                )
        return first_distinct(found, self.candidates, self.length)

    def learn(
        self, memory: RowDatabases, tokens: jax.Array, count: jax.Array, outputs: jax.Array | None
    ) -> RowDatabases:
        """What the rows know once tokens are committed.

        Args:
          memory: before.
          tokens: int32 [B,T], of which the first count [B] are committed.
          count: int32 [B].
          outputs: int32 [B,W], what the model says behind the window's highest level; None without a window.
        """
        behind = memory.read(tokens, count)
        table, grid = memory.table, memory.grid
        if grid is not None and outputs is not None:
            grams, grid = lookahead.completed(grid, memory.recent[:, -1], outputs)
            if table is not None:
                table = context_table.insert(table, grams, jnp.ones(grams.shape[:2], bool))
        if table is not None:
            ends, size = jnp.arange(tokens.shape[1]), memory.recent.shape[1]
            sequence = jnp.concatenate([memory.recent, tokens], axis=1)
            index = size + ends[:, None] - self.ngram + 1 + jnp.arange(self.ngram)[None, :]
            table = context_table.insert(table, sequence[:, index], ends[None, :] < count[:, None])
        past = history.append(memory.history, tokens, count) if memory.history is not None else None
        ended = None if memory.ended is None else count == 0
        return dataclasses.replace(behind, table=table, history=past, grid=grid, ended=ended)


def first_distinct(
    found: list[tuple[jax.Array, jax.Array]], count: int, length: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The first `count` candidates that say something new, in the order of the databases.

    A candidate that equals an earlier one, or its beginning, is left out.

    Args:
      found: (tokens int32 [B,n,l], lengths int32 [B,n]) of each database; tokens beyond `length` are cut off.
      count: candidates that are wanted.
      length: tokens of a candidate.

    Returns:
      (tokens int32 [B,count,length], lengths int32 [B,count], sources int32 [B,count], indices into `found`).
    """

    def fitted(tokens: jax.Array) -> jax.Array:
        tokens = tokens[..., :length]
        return jnp.pad(tokens, ((0, 0), (0, 0), (0, length - tokens.shape[-1])))

    tokens = jnp.concatenate([fitted(t) for t, _ in found], axis=1)
    lengths = jnp.concatenate([jnp.minimum(n, length) for _, n in found], axis=1)
    sources = jnp.concatenate([jnp.full(n.shape, index, jnp.int32) for index, (_, n) in enumerate(found)], axis=1)
    # Which candidate says nothing new: all of its tokens stand at the beginning of an earlier one.
    within = jnp.arange(length)[None, None, :] < lengths[..., None]
    equal = jnp.all((tokens[:, :, None] == tokens[:, None]) | ~within[:, :, None], axis=-1)  # [B,one,other]
    covered = equal & (lengths[:, None, :] >= lengths[:, :, None])
    earlier = jnp.tril(jnp.ones(covered.shape[1:], bool), -1)
    kept = (lengths > 0) & ~jnp.any(covered & earlier[None], axis=2)
    # The kept ones move up into the first `count` places; the rest is written out of range, which drops it.
    rank = jnp.cumsum(kept, axis=1) - 1
    slots = jnp.where(kept & (rank < count), rank, count)
    return place(tokens, slots, count), place(lengths, slots, count), place(sources, slots, count)

"""The drafter contract: pure functions that run inside the jitted step, and the two shapes of a draft."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from models.cache import Block
from rapid_jax.decoding.sampling import Warping
from rapid_jax.verification.candidates import Tree


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Alternatives:
    """Other guesses at a chain's first token, drawn like it but without replacement: no two are the same token.

    Attributes:
      tokens: int32 [B,A], in the order in which they were drawn, after the chain's first token.
      count: int32 [B] in [0, A], how many are proposed; what lies beyond is ignored.
    """

    tokens: jax.Array
    count: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class ChainDraft:
    """Tokens one after another, and the distributions that they were drawn from.

    Attributes:
      tokens: int32 [B,gamma].
      probs: q, float32 [B,gamma,V], after the same warping as the target's.
      lengths: int32 [B] in [0, gamma], tokens that are proposed; what lies beyond is ignored.
      forwards: int32 [B], forwards of the drafter that the draft took.
      alternatives: to the first token; None where it has none.
    """

    tokens: jax.Array
    probs: jax.Array
    lengths: jax.Array
    forwards: jax.Array
    alternatives: Alternatives | None = None

    @property
    def in_flight(self) -> jax.Array:
        """int32 [B,T-1]: what the verify forward reads behind the last committed token."""
        if self.alternatives is None:
            return self.tokens
        return jnp.concatenate([self.tokens, self.alternatives.tokens], axis=1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class CandidateDraft:
    """C guesses at what follows, each certain of itself (a point mass): they are followed, not tested by ratio.

    Attributes:
      tokens: int32 [B,C,m].
      lengths: int32 [B,C], tokens of each candidate; 0 is no candidate. What lies beyond is never accepted.
      sources: int32 [B,C], where each candidate comes from, an index into the drafter's `sources`.
      extra: int32 [B,X], further tokens that ride on the verify forward; only the drafter looks at their outputs.
      forwards: int32 [B], forwards of a drafting model that the draft took.
      tree: the candidates as they lie in the verify block; None for a single one, which lies there as a chain.
      pace: int32 scalar, which of the drafter's `paces` holds all that is proposed; None for a drafter without paces.
    """

    tokens: jax.Array
    lengths: jax.Array
    sources: jax.Array
    extra: jax.Array
    forwards: jax.Array
    tree: Tree | None = None
    pace: jax.Array | None = None

    def narrowed(self, length: int) -> CandidateDraft:
        """The same chain with `length` tokens at most."""
        lengths = jnp.minimum(self.lengths, length)
        return dataclasses.replace(self, tokens=self.tokens[..., :length], lengths=lengths)

    @property
    def in_flight(self) -> jax.Array:
        """int32 [B,T-1]: what the verify forward reads behind the last committed token."""
        verified = self.tokens[:, 0] if self.tree is None else self.tree.tokens
        return jnp.concatenate([verified, self.extra], axis=1)

    @property
    def rows(self) -> jax.Array:
        """int32 [B,C,m]: the block row of each candidate's tokens."""
        chain = jnp.arange(1, self.tokens.shape[2] + 1, dtype=jnp.int32)
        return jnp.broadcast_to(chain, self.tokens.shape) if self.tree is None else self.tree.rows

    @property
    def depths(self) -> jax.Array:
        """int32 [B,1+R]: draws of a step before the one behind each row that is verified."""
        behind = self.rows[:, 0] if self.tree is None else self.tree.depths
        return jnp.pad(behind, ((0, 0), (1, 0)))


Draft = ChainDraft | CandidateDraft


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Pace:
    """By what a drafter with paces chooses among its ways to draft, of which the first is to draft nothing.

    Attributes:
      costs: float32 [N], seconds of a step in each way over those of the first, measured before decoding.
      pinned: int32 scalar, the way to take whatever it costs; -1 leaves the choice to the drafter.
    """

    costs: jax.Array
    pinned: jax.Array

    def choose(self, best: jax.Array) -> jax.Array:
        """The way to take, int32 scalar."""
        return jnp.where(self.pinned < 0, best, self.pinned)


@dataclasses.dataclass(frozen=True, eq=False)
class BlockLayout:
    """How the T tokens of a verify forward lie: the last committed token, then the draft's tokens in flight. Static.

    Attributes:
      offsets: int [T], positions behind the last committed token.
      mask: bool [T,T], what each token sees of the block; None is causal.
      logit_rows: int [Z], the tokens whose logits are needed; None is all.
    """

    offsets: np.ndarray
    mask: np.ndarray | None = None
    logit_rows: np.ndarray | None = None


def chain_layout(gamma: int) -> BlockLayout:
    """A chain: one token after another."""
    return BlockLayout(np.arange(gamma + 1))


def comb_layout(gamma: int, alternatives: int) -> BlockLayout:
    """A chain, then alternatives to its first token, each of which sees the last committed token and itself.

    A chain of two tokens and two alternatives, behind the last token:

        x . . . .
        x x . . .
        x x x . .
        x . . x .
        x . . . x
    """
    chain = gamma + 1
    mask = np.eye(chain + alternatives, dtype=bool)
    mask[:chain, :chain] = np.tri(chain, dtype=bool)
    mask[:, 0] = True
    return BlockLayout(np.concatenate([np.arange(chain), np.ones(alternatives, int)]), mask)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Outcome:
    """What became of a draft.

    Attributes:
      tokens: int32 [B,gamma+1], the tokens that the step emits; row b keeps the first count[b].
      count: int32 [B].
      extra_logits: float32 [B,E,V], logits of the extra tokens that `layout.logit_rows` names; E may be 0.
      block: the target's keys and values of the T tokens in flight; None for a drafter on devices of its own.
      rows: int32 [B,gamma+1], the block's tokens that are kept, in order, count[b] of them; None for the first ones.
    """

    tokens: jax.Array
    count: jax.Array
    extra_logits: jax.Array
    block: Block | None = None
    rows: jax.Array | None = None


class Drafter(Protocol):
    """Makes drafts. Implementations are frozen, hashable dataclasses: they are static arguments of the compiled step.

    `model` is whatever the drafter only reads (parameters, a frozen context); `cache` is what it keeps between steps.
    """

    @property
    def gamma(self) -> int:
        """Drafted tokens that a step can accept at most."""
        ...

    @property
    def sources(self) -> tuple[str, ...]:
        """Names that accepted tokens are counted under; empty where there is only one source."""
        ...

    @property
    def layout(self) -> BlockLayout:
        """The verify forward's block."""
        ...

    def draft(
        self, model: Any, cache: Any, last_tokens: jax.Array, keys: jax.Array, warping: Warping
    ) -> tuple[Draft, Any]:
        """Drafts for every row; returns the draft and what `commit` needs of the drafter's work.

        Args:
          model, cache: the drafter's own.
          last_tokens: int32 [B,2], the two newest committed tokens of each row.
          keys: one random key a row [B], new in every step.
          warping: of the drafter's logits, the target's own.
        """
        ...

    def commit(self, cache: Any, drafted: Any, outcome: Outcome) -> Any:
        """The cache once the outcome's tokens are committed, given the second result of `draft`."""
        ...


def paces(drafter: Drafter) -> tuple[Drafter, ...]:
    """The drafters that stand for shorter drafts of this one, from none on; () where all its drafts are as long.

    A drafter with paces is asked for a CandidateDraft without extra tokens; a step verifies only the rows of one pace.
    """
    return getattr(drafter, "paces", ())

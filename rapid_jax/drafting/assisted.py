"""A language model that drafts with drafts of its own: hierarchy drafting inside RAPID's drafter.

The drafter's tokens need not come one a forward. Candidates from databases of what the drafter reads are verified by
the drafter itself (verification.candidates), which keeps its distribution exactly: the drafted tokens are those that
it would have drawn one after another, with the same random keys, and q is taken from the logits that verified them.
The retrieved passages are what an answer quotes, so that a forward often yields several drafted tokens.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from models.cache import Block, ContextCache, TailCache, commit
from rapid_jax.copying.text import Copy, ReadText, propose
from rapid_jax.decoding.drafter import BlockLayout, ChainDraft, Outcome, chain_layout
from rapid_jax.decoding.forward import forward_block
from rapid_jax.decoding.prefill import next_positions
from rapid_jax.decoding.sampling import Warping, sample
from rapid_jax.drafting.language_model import LanguageModelDrafter
from rapid_jax.hierarchy.row_databases import Hierarchy, RowDatabases
from rapid_jax.verification.candidates import follow_candidates, share_beginnings, tree_layout

Model = tuple[dict, ContextCache, dict[str, Any]]  # parameters, context, static databases
Cache = tuple[TailCache, RowDatabases]


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class AssistedDraft:
    """Of one draft: the drafter's new keys and values, and the tokens so far.

    Attributes:
      drafted: behind the tail, gamma + 1 slots.
      tokens, probs: int32 [B,gamma], float32 [B,gamma,V].
      count: int32 [B], tokens so far.
      recent: int32 [B,M], the newest tokens, drafted ones included.
      text: what is copied from, drafted tokens included; None where nothing is.
      forwards: int32 scalar.
    """

    drafted: TailCache
    tokens: jax.Array
    probs: jax.Array
    count: jax.Array
    recent: jax.Array
    text: ReadText | None
    forwards: jax.Array


@dataclasses.dataclass(frozen=True)
class AssistedDrafter:
    """Draws what `LanguageModelDrafter` draws, in fewer forwards.

    Attributes:
      model: the drafting model and its warping.
      hierarchy: databases of what it reads; without a lookahead window.
      sure_match: where every row's end stood before with so many tokens, what followed is drafted without asking the
        model; 0 asks always. For targets that do not learn from the drafter, because a copy knows no distribution.
    """

    model: LanguageModelDrafter
    hierarchy: Hierarchy
    sure_match: int = 0
    sources: tuple[str, ...] = ()

    @property
    def gamma(self) -> int:
        return self.model.gamma

    @property
    def layout(self) -> BlockLayout:
        return chain_layout(self.gamma)

    def draft(
        self, model: Model, cache: Cache, last_tokens: jax.Array, keys: jax.Array, warping: Warping
    ) -> tuple[ChainDraft, Block]:
        def asked() -> tuple[ChainDraft, Block]:
            return self._asked(model, cache, last_tokens, keys, warping)

        text, ended = cache[1].text, cache[1].ended
        if not self.sure_match or text is None or ended is None:
            return asked()
        copy = propose(text, self.gamma, self.hierarchy.candidates).best
        sure = jnp.all((copy.matched >= self.sure_match) | ended)
        return jax.lax.cond(sure, lambda: self._copied(model, cache, last_tokens, copy), asked)

    def _copied(self, model: Model, cache: Cache, last_tokens: jax.Array, copy: Copy) -> tuple[ChainDraft, Block]:
        """A copy, certain of itself, that the model has read but not been asked for."""
        params, context, _ = model
        read = jnp.concatenate([last_tokens, copy.tokens[:, :-1]], axis=1)
        _, drafted = self.model.read((params, context), cache[0], self.model.no_drafts(cache[0]), read)
        probs = jax.nn.one_hot(copy.tokens, self.model.vocab_size)
        return self._chain(copy.tokens, probs, drafted, jnp.int32(1))

    def _asked(
        self, model: Model, cache: Cache, last_tokens: jax.Array, keys: jax.Array, warping: Warping
    ) -> tuple[ChainDraft, Block]:
        """What the model draws."""
        batch, gamma = last_tokens.shape[0], self.gamma
        start = AssistedDraft(
            drafted=self.model.no_drafts(cache[0]),
            tokens=jnp.zeros((batch, gamma), jnp.int32),
            probs=jnp.zeros((batch, gamma, self.model.vocab_size)),
            count=jnp.zeros((batch,), jnp.int32),
            recent=cache[1].recent,
            text=cache[1].text,
            forwards=jnp.int32(0),
        )
        done = jax.lax.while_loop(
            lambda progress: jnp.any(progress.count < gamma),
            lambda progress: self._forward(model, cache, keys, warping, progress, progress.recent[:, -1:]),
            self._forward(model, cache, keys, warping, start, last_tokens),
        )
        return self._chain(done.tokens, done.probs, done.drafted, done.forwards)

    def _chain(
        self, tokens: jax.Array, probs: jax.Array, drafted: TailCache, forwards: jax.Array
    ) -> tuple[ChainDraft, Block]:
        batch = tokens.shape[0]
        whole, forwards = jnp.full((batch,), self.gamma, jnp.int32), jnp.broadcast_to(forwards, (batch,))
        return ChainDraft(tokens, probs, whole, forwards), Block(drafted.k, drafted.v)

    def _forward(
        self, model: Model, cache: Cache, keys: jax.Array, warping: Warping, progress: AssistedDraft, head: jax.Array
    ) -> AssistedDraft:
        """One forward of the drafter over `head` [B,1 or 2], the newest tokens it has not read, and candidates."""
        params, context, static = model
        tail, memory = cache
        # Ask: what the databases know to follow the newest tokens, verified rows of one forward.
        known_so_far = dataclasses.replace(memory, recent=progress.recent, text=progress.text)
        candidates, lengths, _ = self.hierarchy.lookup(static, known_so_far)
        tree, lengths = share_beginnings(candidates, lengths, self.hierarchy.rows)
        batch, _, length = candidates.shape
        before = head.shape[1] - 1
        offsets, mask = tree.laid_into(*_behind(before, *tree_layout(self.hierarchy.rows)), before)
        tokens = jnp.concatenate([head, tree.tokens], axis=1)
        known = jnp.minimum(tokens, self.model.decoder.config.vocab_size - 1)
        positions = next_positions(1, context, tail, progress.drafted) + offsets
        logits, block = forward_block(
            self.model.decoder,
            params,
            known,
            positions,
            (context, tail, progress.drafted),
            lambda hidden: self.model.warped_logits(params, hidden, warping),
            mask=mask,
            proposed=jnp.any((lengths > 0) & (progress.count < self.gamma)[:, None]),
            head=before + 1,
        )
        logits = logits[:, before:]

        # Draw: at every row the token that the model alone would draw there, with the key of that place in the draft.
        if warping.greedy:
            drawn = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        else:
            depths = progress.count[:, None] + jnp.pad(tree.depths, ((0, 0), (1, 0)))
            own = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)))(keys, depths)
            drawn = jax.vmap(sample)(own, logits)
        # Follow: the candidate that the draws agree with, and no further than gamma tokens in all.
        followed = follow_candidates(candidates, lengths, tree.rows, drawn)
        new = jnp.minimum(followed.num_accepted + 1, self.gamma - progress.count)
        laws = jax.nn.softmax(jnp.take_along_axis(logits, followed.rows[:, :, None], axis=1))
        # Keep: tokens and their laws behind the draft so far, keys and values of the rows that were followed.
        offset = jnp.arange(length + 1)[None, :]
        slots = jnp.where(offset < new[:, None], progress.count[:, None] + offset, self.gamma)
        rows = jnp.arange(batch)[:, None]
        behind = known_so_far.read(followed.tokens, new)
        read = jnp.pad(followed.rows + before, ((0, 0), (before, 0)))  # a row that has drafted enough reads nothing
        return AssistedDraft(
            drafted=commit(progress.drafted, block, jnp.where(new > 0, new + before, 0), read),
            tokens=progress.tokens.at[rows, slots].set(followed.tokens, mode="drop"),
            probs=progress.probs.at[rows, slots].set(laws, mode="drop"),
            count=progress.count + new,
            recent=behind.recent,
            text=behind.text,
            forwards=progress.forwards + 1,
        )

    def commit(self, cache: Cache, drafted: Block, outcome: Outcome) -> Cache:
        tail, memory = cache
        learned = self.hierarchy.learn(memory, outcome.tokens, outcome.count, None)
        return self.model.commit(tail, drafted, outcome), learned


def _behind(before: int, offsets: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A layout with `before` committed tokens in front, which everything behind them sees."""
    size = before + len(offsets)
    whole = np.zeros((size, size), bool)
    whole[before:, before:] = mask
    whole[:, :before] = np.tri(size, before, dtype=bool)
    return np.concatenate([np.arange(before), before + offsets]), whole

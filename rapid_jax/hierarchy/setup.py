"""From a configuration to databases on the device: what is loaded once, and what is made for every batch of prompts."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from models import hosts
from models.language_model import LanguageModel
from rapid_jax.config import embedded
from rapid_jax.config.hierarchy import HierarchyConfig
from rapid_jax.copying.drafter import CopiedBefore
from rapid_jax.copying.text import make_text
from rapid_jax.databases.ngram_table import NgramTable
from rapid_jax.databases.suffix_array import StatisticsDatabase, SuffixLookup
from rapid_jax.decoding.buckets import token_bucket
from rapid_jax.hierarchy import context_table, lookahead
from rapid_jax.hierarchy.history import History
from rapid_jax.hierarchy.row_databases import Hierarchy, LearnedNgrams, RowDatabases

_PATHS = {"model": "model_database", "statistics": "statistics_database"}


@dataclasses.dataclass(frozen=True)
class StaticDatabases:
    """The databases that decoding only reads, opened when they are first asked for.

    Attributes:
      config: names their directories.
      target: its tokenizer must be the one that they were built with; random weights have none.
      mesh: they are on every device of it.
    """

    config: HierarchyConfig
    target: LanguageModel
    mesh: Mesh | None = None

    def has(self, name: str) -> bool:
        """Whether a database can be asked at all: those that are built need a directory."""
        return name not in _PATHS or bool(getattr(self.config, _PATHS[name]))

    @functools.cached_property
    def model(self) -> NgramTable:
        """The model database.

        Raises:
          FileNotFoundError, ValueError: none there, of another tokenizer, or larger than the configuration allows.
        """
        table = NgramTable.open(Path(embedded.located(self.config.model_database)), self.target.tokenizer)
        check_bytes("model", table.nbytes, self.config.device_bytes)
        return hosts.put(table, self._everywhere())

    @functools.cached_property
    def _statistics(self) -> tuple[SuffixLookup, Any]:
        database = StatisticsDatabase.open(
            Path(embedded.located(self.config.statistics_database)), self.target.tokenizer
        )
        return database.on_device(self.config.device_bytes, sharding=self._everywhere())

    def suffix_lookup(self, length: int) -> SuffixLookup:
        """How the statistics database is asked for continuations of so many tokens.

        Raises:
          FileNotFoundError, ValueError: none there, or of another tokenizer.
        """
        return dataclasses.replace(self._statistics[0], length=length)

    def arrays(self, hierarchy: Hierarchy) -> dict[str, Any]:
        """What a hierarchy reads, by database."""
        arrays: dict[str, Any] = {}
        if "model" in hierarchy.databases:
            arrays["model"] = self.model
        if "statistics" in hierarchy.databases:
            arrays["statistics"] = self._statistics[1]
        return arrays

    def _everywhere(self) -> NamedSharding | None:
        return None if self.mesh is None else NamedSharding(self.mesh, P())


def check_bytes(name: str, needed: int, allowed: int) -> None:
    """Raises ValueError where a database would take more of the device than the configuration allows."""
    if needed > allowed:
        raise ValueError(
            f"the {name} database takes {needed:,} bytes on the device, hierarchy.device_bytes allows {allowed:,}: "
            "raise it, or leave the database out of hierarchy.databases"
        )


def make_hierarchy(config: HierarchyConfig, static: StaticDatabases) -> Hierarchy:
    """The static part of a drafter's databases: those of the configuration that are there.

    Raises:
      ValueError: none of them is.
    """
    names = tuple(name for name in config.databases if static.has(name))
    if not names:
        fields = " or ".join(f"hierarchy.{_PATHS[name]}" for name in config.databases)
        raise ValueError(f"there is no database to ask: make one with launch.build_database and name it in {fields}")
    return Hierarchy(
        databases=names,
        candidates=config.candidates,
        length=config.length,
        rows=config.verified_rows,
        ngram=config.ngram,
        lookahead=config.window if "context" in names else 0,
        match=config.match,
        min_match=config.min_match,
        statistics=static.suffix_lookup(config.length) if "statistics" in names else None,
    )


def make_row_databases(
    hierarchy: Hierarchy,
    config: HierarchyConfig,
    prompts: Sequence[Sequence[int]],
    *,
    vocab_size: int,
    new_tokens: int,
    seed: int,
    slots: int = 0,
    before: Sequence[CopiedBefore] = (),
    earlier_answers: int = 0,
    earlier: LearnedNgrams | None = None,
    mesh: Mesh | None = None,
) -> RowDatabases:
    """What each row knows before its first step: its prompt.

    Args:
      hierarchy, config: which databases, and how much they keep.
      prompts: each row's token ids, the last committed token included; at least two.
      vocab_size: V.
      new_tokens: generated at most.
      seed: of the lookahead window's start.
      slots: tokens of a prompt that the history has room for at least: those that share it share their programs.
      before: what earlier answers about each row's document have left to be copied; empty for nothing.
      earlier_answers: tokens of them that there is room for.
      earlier: what an earlier turn of the one row's conversation has taught; the prompt adds what it goes on with.
      mesh: rows are split over its data axis.

    Raises:
      ValueError: the context database is larger than the configuration allows.
    """

    def put(rows: Sequence[np.ndarray]) -> jax.Array:
        stacked = np.stack(rows)
        return hosts.put(stacked, None if mesh is None else NamedSharding(mesh, P("data")))

    size = hierarchy.recent
    memory = RowDatabases(put([np.asarray([*[-1] * size, *prompt[-size:]], np.int32)[-size:] for prompt in prompts]))
    if "context" in hierarchy.databases:
        needed = len(prompts) * vocab_size * config.values * (hierarchy.ngram - 1) * 4
        check_bytes("context", needed, config.device_bytes)
        memory.table = put(_tables(hierarchy, config, prompts, vocab_size, earlier))
    if "history" in hierarchy.databases:
        capacity = token_bucket(max(slots, *map(len, prompts)) + new_tokens)
        rows = np.zeros((len(prompts), capacity), np.int32)
        for row, prompt in zip(rows, prompts, strict=True):
            row[: len(prompt)] = prompt
        memory.history = History(put(list(rows)), put([np.asarray(len(prompt), np.int32) for prompt in prompts]))
    if "copies" in hierarchy.databases:
        left = before or [CopiedBefore()] * len(prompts)
        texts = [[*one.tokens, *prompt] for one, prompt in zip(left, prompts, strict=True)]
        memory.text = make_text(texts, token_bucket(max(slots + earlier_answers, *map(len, texts)) + new_tokens), put)
        memory.ended = put([np.asarray(False) for _ in prompts])
    if hierarchy.lookahead:
        rng = np.random.default_rng(seed)
        shape = dict(levels=hierarchy.ngram - 1, columns=hierarchy.lookahead)
        memory.grid = put([lookahead.seed_grid(prompt, **shape, rng=rng) for prompt in prompts])
        if earlier is not None and earlier.memory.grid is not None:
            memory.grid = earlier.memory.grid
    return memory


def _tables(
    hierarchy: Hierarchy,
    config: HierarchyConfig,
    prompts: Sequence[Sequence[int]],
    vocab_size: int,
    earlier: LearnedNgrams | None,
) -> list[np.ndarray]:
    """Each row's context database."""
    if earlier is not None and earlier.memory.table is not None:
        (prompt,) = prompts
        shared = next(
            (i for i, (new, old) in enumerate(zip(prompt, earlier.tokens, strict=False)) if new != old),
            min(len(prompt), len(earlier.tokens)),
        )
        news = prompt[max(shared - hierarchy.ngram + 1, 0) :]
        return [context_table.extend_table(hosts.fetch(earlier.memory.table)[0], news)]
    made = {
        key: context_table.build_table(key, vocab_size=vocab_size, values=config.values, ngram=hierarchy.ngram)
        for key in {tuple(prompt) for prompt in prompts}
    }
    return [made[tuple(prompt)] for prompt in prompts]


def database_bytes(memory: RowDatabases, arrays: dict[str, Any]) -> dict[str, int]:
    """Bytes of each database on the devices."""
    parts = {"copies": memory.text, "context": memory.table, "history": memory.history, **arrays}
    return {name: sum(x.nbytes for x in jax.tree.leaves(part)) for name, part in parts.items() if part is not None}

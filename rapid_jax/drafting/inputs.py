"""What a maker of drafts is given, what it gives, and the contract between."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from models.cache import ContextCache, TailCache
from models.language_model import LanguageModel
from rapid_jax.config import CopyingConfig, EngineConfig, HierarchyConfig, Method, SpeculationConfig
from rapid_jax.copying.drafter import CopiedBefore, CopyMemory, make_memory
from rapid_jax.decoding.buckets import context_bucket
from rapid_jax.decoding.drafter import Drafter, Pace
from rapid_jax.decoding.pacing import without_costs
from rapid_jax.decoding.programs import Programs
from rapid_jax.hierarchy.row_databases import Hierarchy, LearnedNgrams, RowDatabases
from rapid_jax.hierarchy.setup import StaticDatabases, make_hierarchy, make_row_databases


@dataclasses.dataclass(frozen=True)
class ModelCaches:
    """A model with what it has read of a batch.

    Attributes:
      model: see there.
      context: the document, the passages or, where the target drafts from its own cache, the sinks.
      tail: the questions behind it, without the tokens that the first step takes; or the window of its own cache.
    """

    model: LanguageModel
    context: ContextCache | TailCache
    tail: TailCache


@dataclasses.dataclass(frozen=True)
class DraftingInputs:
    """All that a drafter may be made of.

    Attributes:
      speculation: how drafts are made.
      hierarchy: the databases that the method asks.
      copying: how text is copied.
      databases: those that are only read.
      programs: compile what is copied.
      chunk: tokens of a prefill chunk.
      target: with the questions read but for their last token.
      drafter: with the questions read but for their last two tokens; None where no model reads passages.
      context_tokens: tokens of each context that the target has read, one for all rows or one a row.
      prompts: each row's token ids, of the drafting model where there is one, else of the target; empty where the
        method searches nothing.
      own: the model that drafts over the target's own cache; the target, or its copy with weights of fewer bits.
      earlier: what an earlier turn has taught the databases; of a batch of one row.
      copied_before: what earlier answers about each row's document have left to be copied; empty for nothing.
      new_tokens: tokens of an answer at most.
      prompt_tokens: of a prompt that there is room for at least.
      seed: of the lookahead window's start.
      mesh: rows are split over its data axis.
    """

    speculation: SpeculationConfig
    hierarchy: HierarchyConfig
    copying: CopyingConfig
    databases: StaticDatabases
    programs: Programs
    chunk: int
    target: ModelCaches
    drafter: ModelCaches | None
    own: LanguageModel
    context_tokens: Sequence[int]
    prompts: Sequence[Sequence[int]] = ()
    earlier: LearnedNgrams | None = None
    copied_before: Sequence[CopiedBefore] = ()
    new_tokens: int = 0
    prompt_tokens: int = 0
    seed: int = 0
    mesh: Mesh | None = None

    @property
    def vocab_size(self) -> int:
        """V of the target."""
        return self.target.model.config.vocab_size

    @property
    def prompt_slots(self) -> int:
        """Tokens of a prompt that what is searched has room for."""
        return context_bucket(max(self.prompt_tokens, *map(len, self.prompts)), self.chunk)

    def ask_databases(self) -> tuple[Hierarchy, RowDatabases, dict[str, Any]]:
        """The databases of the batch: how they are asked, what the rows learn, what is only read."""
        hierarchy = make_hierarchy(self.hierarchy, self.databases)
        rows = make_row_databases(
            hierarchy,
            self.hierarchy,
            self.prompts,
            vocab_size=self.vocab_size,
            new_tokens=self.new_tokens + self.speculation.gamma,
            seed=self.seed,
            slots=self.prompt_slots,
            before=self.copied_before,
            earlier_answers=self.copying.earlier_answers,
            earlier=self.earlier,
            mesh=self.mesh,
        )
        return hierarchy, rows, self.databases.arrays(hierarchy)

    def copied_text(self, longest: int) -> CopyMemory:
        """What copies of so many tokens at most are taken from."""
        slots = self.prompt_slots + self.copying.earlier_answers
        return make_memory(
            self.prompts,
            new_tokens=self.new_tokens,
            longest=longest,
            slots=slots,
            before=self.copied_before,
            mesh=self.mesh,
        )

    def pace(self, ways: int) -> Pace:
        """For a drafter with so many ways to draft, before their costs are measured."""
        return without_costs(ways, None if self.mesh is None else NamedSharding(self.mesh, P()))


@dataclasses.dataclass(frozen=True)
class Drafting:
    """What the step needs of a drafter.

    Attributes:
      drafter: static.
      model: what it only reads.
      cache: what it keeps.
      databases: names of those that it asks, in this order.
      database_bytes: of those on the devices, by name.
    """

    drafter: Drafter
    model: Any = ()
    cache: Any = ()
    databases: tuple[str, ...] = ()
    database_bytes: dict[str, int] = dataclasses.field(default_factory=dict)


class Maker(Protocol):
    """Makes the drafters of one kind."""

    def check(self, method: Method, config: EngineConfig, speculation: SpeculationConfig) -> None:
        """Raises ValueError for what this kind cannot do, with an engine's settings and those of the questions."""
        ...

    def draft_length(self, speculation: SpeculationConfig, hierarchy: HierarchyConfig, copying: CopyingConfig) -> int:
        """Drafted tokens that a step can accept at most."""
        ...

    def tokens_read(self, speculation: SpeculationConfig, prompt: int) -> int:
        """Tokens whose keys and values a forward of the drafting model reads, of a prompt of so many; 0 without one."""
        ...

    def make(self, inputs: DraftingInputs) -> Drafting:
        """The drafter.

        Raises:
          ValueError, FileNotFoundError: a database that is not there or does not fit.
        """
        ...

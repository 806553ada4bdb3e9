"""A method's drafter together with what it reads and what it keeps: for answers and for benchmarks alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from jax.sharding import Mesh

from models.cache import ContextCache, TailCache
from models.language_model import LanguageModel
from rapid_jax.config import HierarchyConfig, SamplingConfig, SpeculationConfig
from rapid_jax.config.methods import Method
from rapid_jax.decoding.drafter import Drafter
from rapid_jax.decoding.programs import Programs
from rapid_jax.drafting.assisted import AssistedDrafter
from rapid_jax.drafting.early_stop import EarlyStopDrafter
from rapid_jax.drafting.language_model import LanguageModelDrafter
from rapid_jax.drafting.magicdec import MagicDecDrafter, take_window
from rapid_jax.drafting.null import NullDrafter
from rapid_jax.hierarchy.drafter import HierarchyDrafter
from rapid_jax.hierarchy.memory import Memory, Remembered
from rapid_jax.hierarchy.setup import StaticDatabases, make_hierarchy, make_memory, memory_bytes


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a drafting model has read.

    Attributes:
      model: see there.
      context: the retrieved passages; the sinks where the target drafts for itself.
      tail: the questions behind them, without their last two tokens; the window where the target drafts for itself.
    """

    model: LanguageModel
    context: ContextCache | TailCache
    tail: TailCache


@dataclasses.dataclass(frozen=True)
class Drafting:
    """What the step needs of a drafter.

    Attributes:
      drafter: static.
      model: what it only reads.
      cache: what it keeps.
      databases: that it asks, in this order.
      database_bytes: of those on the devices, by name.
    """

    drafter: Drafter
    model: Any = ()
    cache: Any = ()
    databases: tuple[str, ...] = ()
    database_bytes: dict[str, int] = dataclasses.field(default_factory=dict)


def read_window(
    programs: Programs,
    model: LanguageModel,
    context: ContextCache,
    tail: TailCache,
    speculation: SpeculationConfig,
    *,
    tokens: int,
    chunk: int,
) -> Reading:
    """What the target reads as its own drafter; arguments as `drafting.magicdec.take_window`."""
    sizes = dict(tokens=tokens, chunk=chunk, sinks=speculation.sinks, window=speculation.window)
    return Reading(model, *take_window(programs, context, tail, **sizes, mesh=model.decoder.mesh))


def check_options(method: Method, speculation: SpeculationConfig, *, apart: bool = False) -> None:
    """Raises ValueError where a drafter that looks its own drafts up is asked for what it cannot do.

    Args:
      method, speculation: who drafts, and how.
      apart: whether the drafter has devices of its own.
    """
    if method.drafts and method.looks_up and apart:
        raise ValueError(
            f"{method.name} does not take a drafter_mesh: its databases are on the target's devices; "
            f"ask {method.name.removesuffix('+hd')} or leave drafter_mesh empty"
        )
    for name, off in (("early_stop", False), ("first_candidates", 1)):
        if method.drafts and method.looks_up and getattr(speculation, name) != off:
            raise ValueError(
                f"{method.name} does not take {name}: ask {method.name.removesuffix('+hd')} or set it to {off}"
            )


def draft_length(method: Method, speculation: SpeculationConfig, hierarchy: HierarchyConfig) -> int:
    """Drafted tokens that a step of the method can accept at most."""
    if method.draws:
        return speculation.gamma
    return method.hierarchy(hierarchy).length if method.looks_up else 0


def set_up(
    method: Method,
    speculation: SpeculationConfig,
    sampling: SamplingConfig,
    hierarchy: HierarchyConfig,
    static: StaticDatabases,
    *,
    vocab_size: int,
    prompts: Sequence[Sequence[int]],
    reading: Reading | None,
    earlier: Remembered | None = None,
    mesh: Mesh | None = None,
) -> Drafting:
    """Makes the drafter of a method.

    Args:
      method, speculation, sampling, hierarchy: who drafts, and how.
      static: databases that are only read.
      vocab_size: V of the target.
      prompts: what the databases learn first, a row's token ids: of the drafting model where there is one, else of the
        target. Not read where the method looks nothing up.
      reading: of the drafting model; None where the method has none.
      earlier: what an earlier turn has taught the databases; of a batch of one row.
      mesh: rows are split over its data axis.

    Raises:
      ValueError, FileNotFoundError: a database that is not there or does not fit.
    """
    check_options(method, speculation)
    model: Any = ()
    cache: Any = ()
    chain: LanguageModelDrafter | None = None
    if reading is not None:
        warping = (sampling.temperature, sampling.top_k, sampling.top_p)
        chain = (MagicDecDrafter if method.windowed else LanguageModelDrafter)(
            reading.model.decoder, speculation.gamma, vocab_size, *warping, speculation.first_candidates
        )
        model, cache = (reading.model.params, reading.context), reading.tail
    if not method.looks_up:
        if chain is not None and speculation.early_stop:
            stopping = EarlyStopDrafter(chain, speculation.stop_threshold)
            return Drafting(stopping, model, stopping.initial_cache(cache))
        return Drafting(chain or NullDrafter(vocab_size), model, cache)
    config = method.hierarchy(hierarchy)
    databases = make_hierarchy(config, static)
    memory: Memory = make_memory(
        databases,
        config,
        prompts,
        vocab_size=vocab_size,
        new_tokens=sampling.max_new_tokens,
        seed=sampling.seed,
        earlier=earlier,
        mesh=mesh,
    )
    arrays = static.arrays(databases)
    asked = (databases.databases, memory_bytes(memory, arrays))
    if chain is None:
        return Drafting(HierarchyDrafter(databases), arrays, memory, *asked)
    return Drafting(AssistedDrafter(chain, databases), (*model, arrays), (cache, memory), *asked)

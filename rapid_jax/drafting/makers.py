"""A method's drafter together with what it reads and what it keeps; answers, benchmarks and planner make it here.

There is one maker for each kind of draft. What a kind needs, cannot do and reads is decided in its maker alone.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax

from models.cache import ContextCache, TailCache
from models.decoder import Decoder
from models.pages import Pages
from rapid_jax.config import CopyingConfig, EngineConfig, HierarchyConfig, Method, SpeculationConfig
from rapid_jax.config.methods import NO_MODEL, OWN_CACHE, OWN_PAGES, OWN_PLANES, PASSAGES
from rapid_jax.copying.drafter import CopyDrafter, CopyMemory
from rapid_jax.decoding.programs import copied
from rapid_jax.drafting.assisted import AssistedDrafter
from rapid_jax.drafting.auto import AutoDrafter
from rapid_jax.drafting.early_stop import EarlyStopDrafter
from rapid_jax.drafting.inputs import Drafting, DraftingInputs, Maker, ModelCaches
from rapid_jax.drafting.language_model import LanguageModelDrafter
from rapid_jax.drafting.magicdec import MagicDecDrafter, take_window
from rapid_jax.drafting.null import NullDrafter
from rapid_jax.drafting.pages import PagesCache, PagesDrafter, begin_pages
from rapid_jax.drafting.planes import PlanesDrafter
from rapid_jax.hierarchy.drafter import HierarchyDrafter
from rapid_jax.hierarchy.setup import database_bytes


@dataclasses.dataclass(frozen=True)
class NothingMaker:
    """Plain decoding."""

    def check(self, method: Method, config: EngineConfig, speculation: SpeculationConfig) -> None:
        pass

    def draft_length(self, speculation: SpeculationConfig, hierarchy: HierarchyConfig, copying: CopyingConfig) -> int:
        return 0

    def tokens_read(self, speculation: SpeculationConfig, prompt: int) -> int:
        return 0

    def make(self, inputs: DraftingInputs) -> Drafting:
        return Drafting(NullDrafter(inputs.vocab_size))


@dataclasses.dataclass(frozen=True)
class PassagesMaker(NothingMaker):
    """A language model that has read the retrieved passages (RAPID)."""

    def draft_length(self, speculation: SpeculationConfig, hierarchy: HierarchyConfig, copying: CopyingConfig) -> int:
        return speculation.gamma

    def tokens_read(self, speculation: SpeculationConfig, prompt: int) -> int:
        return prompt

    def caches(self, inputs: DraftingInputs) -> ModelCaches:
        """What the drafting model has read."""
        assert inputs.drafter is not None
        return inputs.drafter

    def chain(self, decoder: Decoder, speculation: SpeculationConfig, vocab_size: int) -> LanguageModelDrafter:
        """The static part, before it may stop early."""
        return LanguageModelDrafter(decoder, speculation.gamma, vocab_size, speculation.first_candidates)

    def make(self, inputs: DraftingInputs) -> Drafting:
        held, speculation = self.caches(inputs), inputs.speculation
        chain = self.chain(held.model.decoder, speculation, inputs.vocab_size)
        return stopping_early(chain, (held.model.params, held.context), held.tail, speculation)


def stopping_early(chain: LanguageModelDrafter, model: Any, cache: TailCache, config: SpeculationConfig) -> Drafting:
    """The chain, which may end its drafts early where the configuration says so."""
    if not (config.early_stop or config.stop_confidence):
        return Drafting(chain, model, cache)
    stopping = EarlyStopDrafter(
        chain, config.stop_threshold if config.early_stop else -math.inf, config.stop_confidence
    )
    return Drafting(stopping, model, stopping.initial_cache(cache))


@dataclasses.dataclass(frozen=True)
class OwnCacheMaker(PassagesMaker):
    """The target itself, over the first and the last tokens of its own cache (MagicDec)."""

    def tokens_read(self, speculation: SpeculationConfig, prompt: int) -> int:
        return min(prompt, speculation.sinks + speculation.window)

    def caches(self, inputs: DraftingInputs) -> ModelCaches:
        target, speculation = inputs.target, inputs.speculation
        assert isinstance(target.context, ContextCache)
        sinks, window = take_window(
            inputs.programs,
            target.context,
            target.tail,
            tokens=inputs.context_tokens,
            chunk=inputs.chunk,
            sinks=speculation.sinks,
            window=speculation.window,
            mesh=target.model.decoder.mesh,
        )
        return ModelCaches(inputs.own, sinks, window)

    def chain(self, decoder: Decoder, speculation: SpeculationConfig, vocab_size: int) -> LanguageModelDrafter:
        return MagicDecDrafter(decoder, speculation.gamma, vocab_size, speculation.first_candidates)


@dataclasses.dataclass(frozen=True)
class OwnPagesMaker(PassagesMaker):
    """The target itself, over those pages of its own cache that get most attention."""

    def tokens_read(self, speculation: SpeculationConfig, prompt: int) -> int:
        return min(prompt, speculation.page_budget)

    def drafts(self, inputs: DraftingInputs, gamma: int) -> tuple[PagesDrafter, Any, PagesCache]:
        """The drafter of so many tokens, what it reads and what it keeps."""
        target, speculation = inputs.target, inputs.speculation
        assert isinstance(target.context, ContextCache)
        pages = Pages.of(target.context, speculation.page_size, speculation.page_budget)
        drafter = PagesDrafter(
            inputs.own.decoder,
            gamma,
            inputs.vocab_size,
            speculation.first_candidates,
            pages=pages,
            renewal=speculation.page_renewal,
        )
        cache = begin_pages(target.context, target.tail, pages, target.model.decoder.mesh)
        return drafter, (inputs.own.params, target.context), cache

    def make(self, inputs: DraftingInputs) -> Drafting:
        return stopping_early(*self.drafts(inputs, inputs.speculation.gamma), inputs.speculation)


@dataclasses.dataclass(frozen=True)
class OwnPlanesMaker(PassagesMaker):
    """The target itself, over the upper plane of its own cache."""

    def check(self, method: Method, config: EngineConfig, speculation: SpeculationConfig) -> None:
        if config.kv != "planes":
            raise ValueError(
                f'{method.name} drafts over the upper plane of keys and values: set kv="planes", got "{config.kv}"'
            )

    def make(self, inputs: DraftingInputs) -> Drafting:
        speculation = inputs.speculation
        chain = PlanesDrafter(inputs.own.decoder, speculation.gamma, inputs.vocab_size, speculation.first_candidates)
        return stopping_early(
            chain, (inputs.own.params, inputs.target.context), copied(inputs.target.tail), speculation
        )


@dataclasses.dataclass(frozen=True)
class DatabasesMaker(NothingMaker):
    """Candidates from n-gram databases (HD)."""

    def draft_length(self, speculation: SpeculationConfig, hierarchy: HierarchyConfig, copying: CopyingConfig) -> int:
        return hierarchy.length

    def make(self, inputs: DraftingInputs) -> Drafting:
        hierarchy, rows, static = inputs.ask_databases()
        return Drafting(HierarchyDrafter(hierarchy), static, rows, hierarchy.databases, database_bytes(rows, static))


@dataclasses.dataclass(frozen=True)
class CopyMaker(NothingMaker):
    """Copies of what was read and said."""

    def draft_length(self, speculation: SpeculationConfig, hierarchy: HierarchyConfig, copying: CopyingConfig) -> int:
        return max(copying.lengths)

    def make(self, inputs: DraftingInputs) -> Drafting:
        drafter = CopyDrafter(inputs.copying.lengths, inputs.copying.places)
        memory = inputs.copied_text(drafter.gamma)
        return Drafting(drafter, inputs.pace(len(drafter.paces)), memory, database_bytes=copied_bytes(memory))


@dataclasses.dataclass(frozen=True)
class AutoMaker(OwnPagesMaker):
    """Copies, own drafts or none, chosen in every step."""

    def check(self, method: Method, config: EngineConfig, speculation: SpeculationConfig) -> None:
        for name, off in (("early_stop", False), ("stop_confidence", 0), ("first_candidates", 1)):
            if getattr(speculation, name) != off:
                raise ValueError(f"{method.name} does not take {name}: ask pages or set it to {off}")

    def draft_length(self, speculation: SpeculationConfig, hierarchy: HierarchyConfig, copying: CopyingConfig) -> int:
        return max(copying.lengths)

    def make(self, inputs: DraftingInputs) -> Drafting:
        copying, speculation = inputs.copying, inputs.speculation
        lengths = tuple(n for n in copying.lengths if n <= max(speculation.gamma, copying.lengths[0]))
        copies = CopyDrafter(copying.lengths, copying.places)
        own, read, pages = self.drafts(inputs, max(lengths))
        drafter = AutoDrafter(copies, own, lengths)
        memory = inputs.copied_text(copies.gamma)
        cache = drafter.initial_cache(memory, pages, speculation.expected_acceptance)
        return Drafting(drafter, (inputs.pace(drafter.ways), *read), cache, database_bytes=copied_bytes(memory))


def copied_bytes(memory: CopyMemory) -> dict[str, int]:
    """Bytes of what copies are taken from, by the name that answers give it."""
    return {"copied text": sum(x.nbytes for x in jax.tree.leaves(memory.text))}


@dataclasses.dataclass(frozen=True)
class AssistedMaker(PassagesMaker):
    """As `PassagesMaker`, the drafting model itself sped up by databases of what it reads."""

    def check(self, method: Method, config: EngineConfig, speculation: SpeculationConfig) -> None:
        plain = method.name.removesuffix("+hd")
        if config.drafter_mesh:
            raise ValueError(
                f"{method.name} does not take a drafter_mesh: its databases are on the target's devices; "
                f"ask {plain} or leave drafter_mesh empty"
            )
        for name, off in (("early_stop", False), ("stop_confidence", 0), ("first_candidates", 1)):
            if getattr(speculation, name) != off:
                raise ValueError(f"{method.name} does not take {name}: ask {plain} or set it to {off}")

    def make(self, inputs: DraftingInputs) -> Drafting:
        held = self.caches(inputs)
        hierarchy, rows, static = inputs.ask_databases()
        return Drafting(
            AssistedDrafter(
                self.chain(held.model.decoder, inputs.speculation, inputs.vocab_size),
                hierarchy,
                inputs.hierarchy.sure_match if rows.text is not None else 0,
            ),
            (held.model.params, held.context, static),
            (held.tail, rows),
            hierarchy.databases,
            database_bytes(rows, static),
        )


_MAKERS: dict[tuple[str, bool, bool], Maker] = {  # by what draws, whether databases are asked, whether text is copied
    (NO_MODEL, False, False): NothingMaker(),
    (NO_MODEL, True, False): DatabasesMaker(),
    (NO_MODEL, False, True): CopyMaker(),
    (PASSAGES, False, False): PassagesMaker(),
    (PASSAGES, True, False): AssistedMaker(),
    (OWN_CACHE, False, False): OwnCacheMaker(),
    (OWN_PAGES, False, False): OwnPagesMaker(),
    (OWN_PAGES, False, True): AutoMaker(),
    (OWN_PLANES, False, False): OwnPlanesMaker(),
}


def maker_of(method: Method) -> Maker:
    """The maker of a method's drafter."""
    return _MAKERS[method.drafting_model, method.looks_up, method.copies]

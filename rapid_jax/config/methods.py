"""The named ways to answer: the same loop, with another context, drafter and acceptance rule."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from models.fields import shown
from rapid_jax.config.hierarchy import HierarchyConfig

NO_MODEL, PASSAGES, OWN_CACHE, OWN_PAGES, OWN_PLANES = "", "passages", "own cache", "own pages", "own planes"
# Fields of SpeculationConfig that say how much of its own cache the target drafts from; all other methods ignore them.
OWN_SETTINGS = {OWN_CACHE: ("sinks", "window"), OWN_PAGES: ("page_size", "page_budget", "page_renewal")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """What distinguishes one way to answer from the others.

    Attributes:
      name: as in flags and reports.
      summary: one line for help texts.
      reads_document: the target reads the whole document; otherwise only what was retrieved.
      drafting_model: what the model reads that draws drafts: PASSAGES (the retrieved context), OWN_CACHE (the target
        itself, over the first and last tokens of its own cache), OWN_PAGES (the target itself, over those pages of its
        own cache that get most attention), OWN_PLANES (the target itself, over the upper half of the bits of its own
        cache) or NO_MODEL.
      transfers: the drafter's knowledge moves the target (eta > 0).
      looks_up: n-gram databases propose tokens, to the drafting model where there is one, else to the target.
      copies: what was read and said before proposes tokens, as long as that pays (rapid_jax.copying).
      fixed: fields of HierarchyConfig that the method sets whatever the configuration says.
    """

    name: str
    summary: str
    reads_document: bool = True
    drafting_model: str = NO_MODEL
    transfers: bool = False
    looks_up: bool = False
    copies: bool = False
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)

    @property
    def drafts_from_passages(self) -> bool:
        """Whether a drafting model reads the retrieved context."""
        return self.drafting_model == PASSAGES

    @property
    def retrieves(self) -> bool:
        """Whether the retrieved context is read by anyone."""
        return self.drafts_from_passages or not self.reads_document

    @property
    def draws(self) -> bool:
        """Whether a language model draws what is drafted: gamma tokens, each tested against its probability."""
        return self.drafting_model != NO_MODEL

    @property
    def own_settings(self) -> tuple[str, ...]:
        """Fields of SpeculationConfig that say what part of its own cache the target drafts from."""
        return OWN_SETTINGS.get(self.drafting_model, ())

    @property
    def speculates(self) -> bool:
        """Whether anything is drafted."""
        return self.draws or self.searches

    @property
    def searches(self) -> bool:
        """Whether what was read and said is searched for drafts."""
        return self.looks_up or self.copies

    @property
    def without_drafts(self) -> Method:
        """The same context without a drafting model: what the length rule falls back to."""
        return dataclasses.replace(self, drafting_model=NO_MODEL, transfers=False)

    def hierarchy(self, config: HierarchyConfig) -> HierarchyConfig:
        """The configuration of the databases that this method asks."""
        return dataclasses.replace(config, **self.fixed)


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(name="lc", summary="the target alone over the whole document, one token a step"),
        Method(name="rag", summary="the target alone over the retrieved passages", reads_document=False),
        Method(
            name="sd",
            summary="drafts from the retrieved passages, verified losslessly (eta = 0)",
            drafting_model=PASSAGES,
        ),
        Method(
            name="rapid",
            summary="drafts from the retrieved passages that also teach the target",
            drafting_model=PASSAGES,
            transfers=True,
        ),
        Method(name="magicdec", summary="lossless drafts over a window of its own cache", drafting_model=OWN_CACHE),
        Method(
            name="pages",
            summary="lossless drafts over the pages of its own cache that its attention chose",
            drafting_model=OWN_PAGES,
        ),
        Method(
            name="planes",
            summary="lossless drafts over the upper half of the bits of its own cache",
            drafting_model=OWN_PLANES,
        ),
        Method(
            name="copy",
            summary="lossless drafts copied from what was read and said, as long as measured costs say that they pay",
            copies=True,
        ),
        Method(
            name="auto",
            summary="lossless drafts from the source that pays just now: copies, pages of its own cache, or none",
            drafting_model=OWN_PAGES,
            copies=True,
        ),
        Method(name="hd", summary="lossless drafts from n-gram databases, ordered by locality", looks_up=True),
        Method(
            name="pld",
            summary="lossless drafts from prompt lookup alone",
            looks_up=True,
            fixed=dict(databases=("history",), candidates=1, length=10, match=3, min_match=1, window=0),
        ),
        Method(
            name="lookahead",
            summary="lossless drafts from the context database alone",
            looks_up=True,
            fixed=dict(databases=("context",)),
        ),
        Method(
            name="rest",
            summary="lossless drafts from the statistics database alone",
            looks_up=True,
            fixed=dict(databases=("statistics",), window=0),
        ),
        Method(
            name="rapid+hd",
            summary="rapid, whose drafter is sped up by n-gram databases",
            drafting_model=PASSAGES,
            transfers=True,
            looks_up=True,
            fixed=dict(window=0, sure_match=0),
        ),
        Method(
            name="sd+hd",
            summary="sd, whose drafter is sped up by n-gram databases",
            drafting_model=PASSAGES,
            looks_up=True,
            fixed=dict(window=0),
        ),
    )
}


def get_method(name: str) -> Method:
    """The method of this name.

    Raises:
      ValueError: there is none.
    """
    if not isinstance(name, str) or name not in METHODS:
        raise ValueError(f"unknown method {shown(name)}; known: {', '.join(METHODS)}")
    return METHODS[name]

"""The named ways to answer: the same loop, with another context, drafter and acceptance rule."""

from __future__ import annotations

import dataclasses
from typing import Any

from rapid_jax.config.hierarchy import HierarchyConfig


@dataclasses.dataclass(frozen=True)
class Method:
    """What distinguishes one way to answer from the others.

    Attributes:
      name: as in flags and reports.
      reads_document: the target reads the whole document; otherwise only what was retrieved.
      drafts: a drafting model that reads the retrieved context proposes tokens.
      transfers: the drafter's knowledge moves the target (eta > 0).
      looks_up: n-gram databases propose tokens, to the drafting model where there is one, else to the target.
      summary: one line for help texts.
      fixed: fields of HierarchyConfig that the method sets whatever the configuration says.
      windowed: the target proposes tokens to itself, drafted over the first and the last tokens of its own cache.
    """

    name: str
    reads_document: bool
    drafts: bool
    transfers: bool
    looks_up: bool
    summary: str
    fixed: tuple[tuple[str, Any], ...] = ()
    windowed: bool = False

    @property
    def retrieves(self) -> bool:
        """Whether the retrieved context is read by anyone."""
        return self.drafts or not self.reads_document

    @property
    def speculates(self) -> bool:
        """Whether anything is drafted."""
        return self.draws or self.looks_up

    @property
    def draws(self) -> bool:
        """Whether a language model draws what is drafted: gamma tokens, each tested against its probability."""
        return self.drafts or self.windowed

    def hierarchy(self, config: HierarchyConfig) -> HierarchyConfig:
        """The configuration of the databases that this method asks."""
        fixed: dict[str, Any] = dict(self.fixed)
        return dataclasses.replace(config, **fixed)


_PLD = (("databases", ("history",)), ("candidates", 1), ("length", 10), ("match", 3), ("min_match", 1), ("window", 0))
_LOOKAHEAD = (("databases", ("context",)),)
_REST = (("databases", ("statistics",)), ("window", 0))
_ON_DRAFTER = (("window", 0),)

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("lc", True, False, False, False, "the target alone over the whole document, one token a step"),
        Method("rag", False, False, False, False, "the target alone over the retrieved passages"),
        Method("sd", True, True, False, False, "drafts from the retrieved passages, verified losslessly (eta = 0)"),
        Method("rapid", True, True, True, False, "drafts from the retrieved passages that also teach the target"),
        Method("magicdec", True, False, False, False, "lossless drafts over a window of its own cache", windowed=True),
        Method("hd", True, False, False, True, "lossless drafts from n-gram databases, ordered by locality"),
        Method("pld", True, False, False, True, "lossless drafts from prompt lookup alone", _PLD),
        Method("lookahead", True, False, False, True, "lossless drafts from the context database alone", _LOOKAHEAD),
        Method("rest", True, False, False, True, "lossless drafts from the statistics database alone", _REST),
        Method("rapid+hd", True, True, True, True, "rapid, whose drafter is sped up by n-gram databases", _ON_DRAFTER),
        Method("sd+hd", True, True, False, True, "sd, whose drafter is sped up by n-gram databases", _ON_DRAFTER),
    )
}


def get_method(name: str) -> Method:
    """The method of this name.

    Raises:
      ValueError: there is none.
    """
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; known: {', '.join(METHODS)}")
    return METHODS[name]

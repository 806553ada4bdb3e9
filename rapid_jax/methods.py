"""The named ways to answer: the same loop, with another context, drafter and acceptance rule."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Method:
    """What distinguishes one way to answer from the others.

    Attributes:
      name: as in flags and reports.
      reads_document: the target reads the whole document; otherwise only what was retrieved.
      drafts: a drafter that reads the retrieved context proposes tokens.
      transfers: the drafter's knowledge moves the target (eta > 0).
      summary: one line for help texts.
    """

    name: str
    reads_document: bool
    drafts: bool
    transfers: bool
    summary: str

    @property
    def retrieves(self) -> bool:
        """Whether the retrieved context is read by anyone."""
        return self.drafts or not self.reads_document


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("lc", True, False, False, "the target alone over the whole document, one token a step"),
        Method("rag", False, False, False, "the target alone over the retrieved passages"),
        Method("sd", True, True, False, "drafts from the retrieved passages, verified losslessly (eta = 0)"),
        Method("rapid", True, True, True, "drafts from the retrieved passages that also teach the target (eta > 0)"),
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

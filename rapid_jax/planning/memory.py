"""What a method holds on a chip."""

from __future__ import annotations

import dataclasses

from rapid_jax.config.methods import OWN_CACHE, OWN_PAGES, Method
from rapid_jax.planning import formulas
from rapid_jax.planning.drafters import copied_shape, databases, pages_drafter, window_drafter
from rapid_jax.planning.shapes import Plan, Workload, context_shape, tail_shape


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on a chip, the shapes' own.

    Attributes:
      weights: of the target, and of the drafter where it is another model; self-speculation holds them once.
      document, passages: while decoding.
      tails: of questions and answers, with what is searched for drafts.
      pages: of the document, copied for drafts, or a window of it with what is said behind it.
      unread: what the document takes beyond that while it is read, in the model's dtype.
      temporaries: of the decoding program that needs the most.
      reading: temporaries of a prefill chunk.
    """

    weights: int
    document: int
    passages: int
    tails: int
    unread: int = 0
    pages: int = 0
    temporaries: int = 0
    reading: int = 0

    @property
    def prefill(self) -> int:
        """While the document is read."""
        return self.weights + self.document + self.unread + self.reading

    @property
    def decoding(self) -> int:
        """While answers are decoded."""
        return self.weights + self.document + self.passages + self.pages + self.tails + self.temporaries

    @property
    def peak(self) -> int:
        """The larger of both."""
        return max(self.prefill, self.decoding)


def memory(plan: Plan, workload: Workload, method: Method) -> Memory:
    """Without temporaries, which only compiling tells."""
    document = passages = pages = unread = 0
    weights = formulas.chip_bytes(plan.params)
    if method.draws and plan.drafter is not plan:
        weights += formulas.chip_bytes(plan.drafter.params)
    if method.reads_document:
        size = (workload.context, workload.chunk)
        document = formulas.chip_bytes(context_shape(plan, *size))
        unread = formulas.chip_bytes(context_shape(plan, *size, read=False)) - document
    if method.retrieves:
        passages = formulas.chip_bytes(context_shape(plan, workload.retrieved, workload.chunk, workload.batch))
    if method.drafting_model == OWN_PAGES:
        pages = formulas.chip_bytes(
            pages_drafter(plan, workload, context_shape(plan, workload.context, workload.chunk))[1].chosen
        )
    window = method.drafting_model == OWN_CACHE
    if window:
        pages = formulas.chip_bytes(window_drafter(plan, workload)[1:])
    tails = (2 if method.draws and not window else 1) * formulas.chip_bytes(tail_shape(plan, workload))
    tails += formulas.chip_bytes(copied_shape(plan, workload)) if method.copies else 0
    tails += formulas.chip_bytes(databases(plan, workload, method)[1]) if method.looks_up else 0
    return Memory(weights, document, passages, tails, unread, pages)

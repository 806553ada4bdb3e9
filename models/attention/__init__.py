"""Attention over a frozen context, a growing tail and the block in flight; see `attend`."""

from models.attention.api import Segment, attend

__all__ = ["Segment", "attend"]

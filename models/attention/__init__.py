"""Attention over a frozen context, a growing tail and the block in flight; see `attend`."""

from models.attention.api import Segment, attend
from models.attention.pages import page_mass

__all__ = ["Segment", "attend", "page_mass"]

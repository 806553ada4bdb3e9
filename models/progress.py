"""The callback that long work reports its progress to."""

from collections.abc import Callable

ProgressCallback = Callable[[int, int], None]
"""Called with (done, all), in bytes, tokens or whatever the caller says."""

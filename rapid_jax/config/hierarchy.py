"""Settings of hierarchy drafting, checked without JAX."""

from __future__ import annotations

import dataclasses

DATABASES = ("history", "context", "model", "statistics")


@dataclasses.dataclass(frozen=True)
class HierarchyConfig:
    """Which databases are asked for candidates, in which order, and how much they keep (HD, arXiv 2502.05609).

    Attributes:
      databases: asked one after another until there are enough candidates:
        "history": what was read and said so far, searched for its own last tokens (prompt lookup);
        "context": n-grams of the prompt, of accepted text and of the lookahead window, the latest first (Dc);
        "model": n-grams of text that the model wrote before, the most common first (Dm);
        "statistics": a suffix array over a corpus (Ds; REST, arXiv 2311.08252).
      candidates: N, candidates that one verification tests at most.
      length: m, tokens of a candidate at most.
      ngram: tokens of an n-gram in the context database, its key included; also the levels of the lookahead window.
      values: continuations that the context database keeps for a key.
      window: columns of the lookahead window (arXiv 2402.02057), which adds (ngram - 1) * window - 1 rows to a
        verification; 0 is none. It is there only where the context database is.
      match: last tokens that the history is searched for, the longest match first.
      min_match: of them must be found; where fewer are, the history has no candidate.
      model_database, statistics_database: directories that launch.build_database made; "" is none.
      device_bytes: a context or model database may take so many bytes of the device; a larger statistics database
        stays on the host.
    """

    databases: tuple[str, ...] = ("context", "model", "statistics")
    candidates: int = 7
    length: int = 4
    ngram: int = 5
    values: int = 7
    window: int = 7
    match: int = 3
    min_match: int = 1
    model_database: str = ""
    statistics_database: str = ""
    device_bytes: int = 2**30

    def __post_init__(self) -> None:
        known = ", ".join(DATABASES)
        names = self.databases
        if not isinstance(names, tuple) or not names or not set(names) <= set(DATABASES) or len({*names}) < len(names):
            raise ValueError(f"databases must be different names of {known}, at least one, got {names!r}")
        for name, least in (("candidates", 1), ("length", 1), ("ngram", 2), ("values", 1), ("min_match", 1)):
            self._check(name, least)
        self._check("match", self.min_match)
        self._check("window", 0)
        self._check("device_bytes", 0)
        for name in ("model_database", "statistics_database"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} must be a directory, got {getattr(self, name)!r}")

    def _check(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")

"""Settings of hierarchy drafting, checked without JAX."""

from __future__ import annotations

import dataclasses

from models.fields import shown
from rapid_jax.config.checks import MOST_LOOPS, MOST_ROWS, MOST_TOKENS, check_most, is_integer

_MOST_NGRAM, _MOST_VALUES, _MOST_BYTES = 64, 1024, 2**50
DATABASES = ("copies", "history", "context", "model", "statistics")


@dataclasses.dataclass(frozen=True)
class HierarchyConfig:
    """Which databases are asked for candidates, in which order, and how much they keep (HD, arXiv 2502.05609).

    Attributes:
      databases: asked one after another until there are enough candidates:
        "copies": earlier answers about the document, and what was read and said so far, where the longest match of
          its end stood before, however long (rapid_jax.copying);
        "history": what was read and said so far, searched for its own last tokens, `match` at most (prompt lookup);
        "context": n-grams of the prompt, of accepted text and of the lookahead window, the latest first (Dc);
        "model": n-grams of text that the model wrote before, the most common first (Dm);
        "statistics": a suffix array over a corpus (Ds; REST, arXiv 2311.08252).
      candidates: N, candidates that one verification tests at most.
      length: m, tokens of a candidate at most.
      rows: of a verification that the candidates take at most. Candidates that begin alike share rows there, and the
        last ones are cut where the rows do not suffice. 0 is candidates x length: nothing is cut.
      sure_match: with "copies" and a drafting model, a match of so many tokens is believed: what followed it is drafted
        without asking the model, which reads it in one forward; 0 asks always.
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
    rows: int = 0
    sure_match: int = 16
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
        named = isinstance(names, tuple) and all(isinstance(name, str) for name in names)
        if not named or not names or not set(names) <= set(DATABASES) or len({*names}) < len(names):
            raise ValueError(f"databases must be different names of {known}, at least one, got {shown(names)}")
        for name, least, most, why in (
            ("candidates", 1, MOST_LOOPS, "each is compiled into the step"),
            ("length", 1, MOST_ROWS, "a verification reads all of them"),
            ("rows", 0, MOST_ROWS, "a verification reads all of them"),
            ("sure_match", 0, MOST_TOKENS, "no model has more positions"),
            ("ngram", 2, _MOST_NGRAM, "the context database keeps so many for each value"),
            ("values", 1, _MOST_VALUES, "the context database keeps so many for each token"),
            ("min_match", 1, _MOST_NGRAM, "each is compiled into the step"),
            ("match", 1, _MOST_NGRAM, "each is compiled into the step"),
            ("window", 0, MOST_ROWS, "a verification reads every column at every level"),
            ("device_bytes", 0, _MOST_BYTES, "no device has a pebibyte"),
        ):
            self._check(name, least, most, why)
        self._check("match", self.min_match, _MOST_NGRAM, "each is compiled into the step")
        rows = self.verified_rows + (self.ngram - 1) * self.window
        name = "rows" if self.rows else "candidates x length"
        check_most(f"{name} + (ngram - 1) x window", rows, MOST_ROWS, "rows of a verification")
        for name in ("model_database", "statistics_database"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} must be a directory, got {shown(getattr(self, name))}")

    @property
    def verified_rows(self) -> int:
        """Rows of a verification that hold candidates."""
        return min(self.rows or self.candidates * self.length, self.candidates * self.length)

    def _check(self, name: str, least: int, most: int, why: str) -> None:
        value = getattr(self, name)
        if not is_integer(value) or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, got {shown(value)}")
        check_most(name, value, most, f"({why})")

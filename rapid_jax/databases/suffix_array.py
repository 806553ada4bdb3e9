"""The statistics-dependent database Ds: suffix arrays over a large corpus (REST, arXiv 2311.08252).

What followed a row's last tokens anywhere in the corpus is counted when it is asked for. The arrays lie on the device
where they fit, else on disk, and the jitted step asks the host; both give the same candidates.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp

from models import hosts
from models.tokenizer import Tokenizer
from rapid_jax.databases import device_lookup, host_lookup
from rapid_jax.databases.limits import LENGTH, MAX_MATCHES, MOST_MATCHES
from rapid_jax.databases.manifest import Manifest, check_manifest
from rapid_jax.databases.shards import Shard, map_shards


@dataclasses.dataclass(frozen=True, eq=False)
class HostShards:
    """Shards that stay on disk; hashed by identity, so that it can be part of a static argument."""

    shards: tuple[Shard, ...]


@dataclasses.dataclass(frozen=True)
class SuffixLookup:
    """How the database is asked: the static, hashable part of it.

    Attributes:
      length: m, tokens of a continuation at most.
      max_matches: matches looked at in each shard.
      host: the shards where they are not on the device.
    """

    length: int = LENGTH
    max_matches: int = MAX_MATCHES
    host: HostShards | None = None

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"length must be at least 1 token, got {self.length}")
        if not 1 <= self.max_matches <= MOST_MATCHES:
            raise ValueError(f"max_matches must be in [1, {MOST_MATCHES}], got {self.max_matches}")


@dataclasses.dataclass(frozen=True, eq=False)
class StatisticsDatabase:
    """A finished database of kind "corpus". Make it with `StatisticsDatabase.open`.

    Attributes:
      manifest: what it holds.
      shards: its arrays, mapped to their files.
    """

    manifest: Manifest
    shards: tuple[Shard, ...]

    @classmethod
    def open(cls, directory: Path | str, tokenizer: Tokenizer) -> StatisticsDatabase:
        """Opens a database that `launch.build_database` made; its arrays are not read yet.

        Raises:
          FileNotFoundError: there is no such database, or one of its files is missing.
          ValueError: another kind, another tokenizer, or a damaged file.
        """
        manifest = check_manifest(Path(directory), "corpus", tokenizer)
        return cls(manifest, map_shards(Path(directory), manifest.shards))

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays, on the device or on disk."""
        return sum(shard.nbytes for shard in self.shards)

    @functools.cached_property
    def _on_host(self) -> HostShards:
        return HostShards(self.shards)

    def on_device(
        self,
        budget_bytes: int,
        *,
        length: int = LENGTH,
        max_matches: int = MAX_MATCHES,
        sharding: jax.sharding.Sharding | None = None,
    ) -> tuple[SuffixLookup, tuple[Shard, ...]]:
        """What `lookup` takes: its static part and its arrays, which are none where they stay on the host.

        Args:
          budget_bytes: the arrays go to the device if they have at most so many bytes.
          length: m, tokens of a continuation at most.
          max_matches: matches looked at in each shard.
          sharding: where the arrays are put, such as replicated over a mesh; None takes the default device.

        Raises:
          ValueError: a length or max_matches out of range.
        """
        if self.nbytes > budget_bytes:
            return SuffixLookup(length, max_matches, self._on_host), ()
        return SuffixLookup(length, max_matches), hosts.put(self.shards, sharding)


def lookup(
    static: SuffixLookup, arrays: tuple[Shard, ...], last_tokens: jax.Array, count: int
) -> tuple[jax.Array, jax.Array]:
    """What most often followed a row's last tokens in the corpus; a pure function, `static` and `count` are static.

    The last two tokens are looked for, and the last one where no shard has both with anything behind them. Of a shard's
    n matches k = min(n, max_matches) are looked at, those at i * n // k in their order. Their continuations of m tokens
    are counted; a document's end cuts one short, and what is cut short is counted apart from whatever continues it.
    Candidates are ranked by count, equally frequent ones by their token ids, where a text comes before its
    continuations. Each shard gives its first `count`; counts of the same candidate from several shards are added.

    Args:
      static, arrays: from `StatisticsDatabase.on_device`.
      last_tokens: int32 [B,2], the two newest committed tokens of each row; an id below 0 is found nowhere.
      count: candidates a row.

    Returns:
      (tokens int32 [B,count,m], lengths int32 [B,count]), the most frequent first; a length of 0 is no candidate.
      Tokens behind a length are 0.
    """
    length, most = static.length, static.max_matches
    if static.host is None:
        return device_lookup.candidates(arrays, last_tokens, count, length=length, max_matches=most)
    rows = last_tokens.shape[0]
    shapes = (
        jax.ShapeDtypeStruct((rows, count, length), jnp.int32),
        jax.ShapeDtypeStruct((rows, count), jnp.int32),
    )
    ask = functools.partial(host_lookup.candidates, static.host.shards, count=count, length=length, max_matches=most)
    return jax.pure_callback(ask, shapes, last_tokens, vmap_method="sequential")

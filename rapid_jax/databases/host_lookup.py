"""Looking up suffix arrays on the host: the same as on the device, in numpy, over files that stay on disk."""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from rapid_jax.databases.shards import ABOVE, SENTINEL, Shard


def candidates(
    shards: Sequence[Shard], last_tokens: ArrayLike, count: int, *, length: int, max_matches: int
) -> tuple[np.ndarray, np.ndarray]:
    """See `suffix_array.lookup`; the shards' arrays are numpy's."""
    queries = [tuple(row) for row in np.asarray(last_tokens).tolist()]
    tokens = np.zeros((len(queries), count, length), np.int32)
    lengths = np.zeros((len(queries), count), np.int32)
    for row, query in enumerate(queries):
        ranges = [_range(shard, query) for shard in shards]
        if not any(ranges):
            query = query[1:]
            ranges = [_range(shard, query) for shard in shards]
        total: Counter[tuple[int, ...]] = Counter()
        for shard, found in zip(shards, ranges, strict=True):
            if found:
                total.update(_most_frequent(shard, found, len(query), count, length, max_matches))
        ranked = sorted(total, key=lambda candidate: (-total[candidate], candidate))
        for place, candidate in enumerate(ranked[:count]):
            known = [token for token in candidate if token != SENTINEL]
            tokens[row, place, : len(known)] = known
            lengths[row, place] = len(known)
    return tokens, lengths


def _range(shard: Shard, query: tuple[int, ...]) -> range:
    """Places of the suffixes that begin with the query and go on behind it."""
    if min(query) < 0:  # the sentinel is nobody's last token
        return range(0)

    def beginning(position: int) -> tuple[int, ...]:
        return tuple(shard.tokens[position : position + len(query) + 1].tolist())

    low = bisect.bisect_left(shard.suffixes, (*query, 0), key=beginning)
    return range(low, bisect.bisect_left(shard.suffixes, (*query, ABOVE), low, key=beginning))


def _most_frequent(
    shard: Shard, found: range, matched: int, count: int, length: int, max_matches: int
) -> dict[tuple[int, ...], int]:
    """The continuations that come most often in a range of suffixes and their counts, behind them the sentinel."""
    size = len(found)
    looked_at = min(size, max_matches)
    places = found.start + np.arange(looked_at) * size // looked_at
    start = shard.suffixes[places] + matched
    columns: list[np.ndarray] = []
    changed, ended = np.zeros(looked_at, bool), np.zeros(looked_at, bool)
    changed[0] = True
    for step in range(length):
        column = np.take(shard.tokens, start + step, mode="clip")  # behind the end is the last sentinel
        ended |= column < 0
        column[ended] = SENTINEL
        changed[1:] |= column[1:] != column[:-1]
        columns.append(column)
    begins = np.flatnonzero(changed)  # of runs of equal continuations
    counts = np.diff(begins, append=looked_at)
    best = np.argsort(-counts, kind="stable")[:count]  # of equal ones the earlier
    tokens = np.stack([column[begins[best]] for column in columns], axis=1)
    return dict(zip(map(tuple, tokens.tolist()), counts[best].tolist(), strict=True))

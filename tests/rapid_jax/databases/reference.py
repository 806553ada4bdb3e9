"""What a lookup in suffix arrays must give, in plain Python over the documents themselves."""

from collections import Counter

import numpy as np

from rapid_jax.database_building.suffix_arrays import sort_suffixes
from rapid_jax.databases.shards import SENTINEL, Shard


def make_shard(documents):
    """The shard of some documents, as the builder lays it out."""
    tokens = np.array([token for document in documents for token in (*document, SENTINEL)], np.int32)
    return Shard(tokens, sort_suffixes(tokens))


def continuations(documents, query, length):
    """What follows the query, at least one token, in the order of a suffix array; the sentinel behind an early end."""
    found = []
    for document in documents:
        for start in range(len(document) - len(query)):
            if tuple(document[start : start + len(query)]) == tuple(query):
                behind = document[start + len(query) :][:length]
                found.append((*behind, *[SENTINEL] * (length - len(behind))))
    return sorted(found)


def plain_lookup(shards, last_tokens, count, *, length, max_matches):
    """Candidates of one row as lists.

    Args:
      shards: each a list of documents.
      last_tokens: the row's last two.
    """
    for query in (last_tokens, last_tokens[1:]):
        found = [continuations(documents, query, length) for documents in shards]
        if any(found):
            break
    total = Counter()
    for matches in found:
        looked_at = min(len(matches), max_matches)
        counts = Counter(matches[i * len(matches) // looked_at] for i in range(looked_at))
        total.update(dict(ranked(counts)[:count]))
    return [[token for token in candidate if token != SENTINEL] for candidate, _ in ranked(total)[:count]]


def ranked(counts):
    """Candidates with their counts, the most frequent first, then in the order of token ids."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))

"""How much the databases hold and how they are asked: the numbers of HD (arXiv 2502.05609), without importing JAX."""

NGRAM = 5  # tokens of an n-gram in the model database, its key included
KEPT = 100_000  # n-grams in it
MOST_NGRAMS = 2**30  # the table's offsets are int32
VALUES = 7  # of them, those of one key

LENGTH = 4  # tokens of a continuation in the statistics database
MAX_MATCHES = 5_000  # matches looked at
MOST_MATCHES = 2**15  # its square must fit in int32

SHARD_TOKENS = 2**26  # tokens of a suffix array
MAX_SHARD_TOKENS = 2**31 - 2**16  # positions, and those of a continuation behind them, are int32

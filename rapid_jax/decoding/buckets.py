"""One rule for every static size, so that prefill, decoding and warm-up meet the same compiled programs."""

from __future__ import annotations

_LEAST = 64  # tokens of the shortest forward of a prefill, where a chunk has as many
# Slots of the smallest context, where a chunk has as many: reading free ones costs less than compiling one more program
# of each method for the shortest prompts.
_LEAST_CONTEXT = 256


def forward_bucket(tokens: int, chunk: int) -> int:
    """The size of a forward that reads the rest of a prompt: 64 times a power of four, at most a chunk.

    Prompts of every length then need few programs. The rows that are computed for nothing cost less than a compilation.
    """
    size = _LEAST
    while size < tokens:
        size *= 4
    return min(size, chunk)


def token_bucket(tokens: int, *, minimum: int = 16) -> int:
    """The smallest power of two that holds `tokens`: sizes of a forward, of tails and of output buffers.

    >>> [token_bucket(tokens) for tokens in (3, 64, 65)]
    [16, 64, 128]
    """
    return max(minimum, 1 << max(tokens - 1, 0).bit_length())


def context_bucket(tokens: int, chunk: int) -> int:
    """Slots for a context of `tokens`, whole prefill chunks: at most an eighth of it or one chunk stays free.

    >>> [context_bucket(tokens, 2048) for tokens in (100, 3000, 100_000)]
    [256, 4096, 106496]

    Args:
      tokens: length of the longest context of the batch.
      chunk: tokens of a prefill chunk, a power of two.
    """
    if tokens <= chunk:
        return forward_bucket(max(tokens, _LEAST_CONTEXT), chunk)
    step = max(chunk, token_bucket(tokens) // 16)
    return -(-tokens // step) * step


def chunk_sizes(tokens: int, chunk: int) -> list[int]:
    """Sizes of the forwards that prefill `tokens`: whole chunks, then one that holds the rest."""
    whole, rest = divmod(tokens, chunk)
    return [chunk] * whole + ([forward_bucket(rest, chunk)] if rest else [])

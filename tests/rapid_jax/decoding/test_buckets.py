"""The one rule of static sizes: everything fits, few sizes exist, little stays free."""

from hypothesis import given
from hypothesis import strategies as st

from rapid_jax.decoding.buckets import chunk_sizes, context_bucket, token_bucket

TOKENS = st.integers(1, 300_000)
CHUNKS = st.sampled_from([32, 128, 512, 1024, 4096])


@given(TOKENS)
def test_a_token_bucket_is_the_smallest_power_of_two_that_holds(tokens):
    """A bucket too small loses tokens, one too large computes them for nothing."""
    bucket = token_bucket(tokens)
    assert bucket & (bucket - 1) == 0 and bucket >= max(tokens, 16)
    assert bucket == 16 or bucket // 2 < tokens


@given(TOKENS, CHUNKS)
def test_every_prefill_forward_fits_the_context(tokens, chunk):
    """append_chunk writes a slice that would clamp past the end and overwrite good rows."""
    sizes = chunk_sizes(tokens, chunk)
    assert tokens <= sum(sizes) <= context_bucket(tokens, chunk)
    assert sum(sizes[:-1]) < tokens
    assert set(sizes[:-1]) <= {chunk} and sizes[-1] <= chunk


@given(TOKENS, CHUNKS)
def test_at_most_an_eighth_or_a_chunk_of_a_context_stays_free(tokens, chunk):
    """Free slots are memory that is paid for and, without a length mask, read."""
    assert context_bucket(tokens, chunk) - tokens < max(tokens / 8 + 1, chunk)


@given(CHUNKS)
def test_few_programs_cover_all_lengths(chunk):
    """Each size is a compilation."""
    sizes = {size for tokens in range(1, 5 * chunk, max(chunk // 64, 1)) for size in chunk_sizes(tokens, chunk)}
    assert len(sizes) <= max((chunk // 32).bit_length() // 2 + 1, 1)
    assert len({context_bucket(tokens, chunk) for tokens in range(64 * chunk, 128 * chunk, chunk)}) <= 18


def test_short_prompts_of_every_length_need_six_prefill_programs():
    """A benchmark of short questions would compile at every second one."""
    programs = set()
    for tokens in range(20, 1600):
        programs |= {(size, context_bucket(tokens, 1024)) for size in chunk_sizes(tokens, 1024)}
    assert {context for _, context in programs} == {256, 1024, 2048}, "each is a decoding program of every method"
    assert programs == {(64, 256), (256, 256), (1024, 1024), (1024, 2048), (64, 2048), (256, 2048)}


def test_nothing_to_read_needs_no_forward():
    """A question of two tokens leaves the drafter's tail empty."""
    assert chunk_sizes(0, 512) == []


def test_sizes_by_hand():
    """Examples a reader can check."""
    assert [token_bucket(n) for n in (0, 1, 16, 17, 64, 65)] == [16, 16, 16, 32, 64, 128]
    assert chunk_sizes(1393, 512) == [512, 512, 512]
    assert chunk_sizes(1030, 512) == [512, 512, 64]
    assert [context_bucket(n, 512) for n in (5, 33, 512, 513, 100_000)] == [256, 256, 512, 1024, 106_496]

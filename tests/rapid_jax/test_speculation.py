"""Where speed-up crosses 1, by numbers computed by hand."""

import pytest

from rapid_jax.speculation import crossing_point, describe_crossing


@pytest.mark.parametrize(
    "speed_ups, crossing",
    [
        ([(4096, 0.5), (16_384, 1.5)], 8192),  # half of the way, in the logarithm
        ([(16_384, 1.5), (4096, 0.5)], 8192),  # in any order
        ([(1024, 0.75), (16_384, 1.75)], 2048),  # a quarter of four doublings
        ([(1024, 0.9), (2048, 1.0)], 2048),
        ([(1024, 0.2), (2048, 0.5), (8192, 1.5), (16_384, 3.0)], 4096),
        ([(1024, 1.2), (2048, 0.5), (8192, 1.5)], 4096),  # from which on it stays above
        ([(1024, 0.5), (4096, 1.5), (8192, 0.9)], None),  # falls below again
        ([(1024, 1.2), (4096, 1.5)], None),
        ([(1024, 0.2), (4096, 0.5)], None),
        ([(1024, 0.2)], None),
        ([(1024, 1.2)], None),
        ([], None),
    ],
)
def test_crossing_point(speed_ups, crossing):
    assert crossing_point(speed_ups) == (None if crossing is None else pytest.approx(crossing))


@pytest.mark.parametrize(
    "speed_ups, sentence",
    [
        ([(4096, 0.5), (16_384, 1.5)], "sd overtakes lc at about 8,190 tokens of context."),
        ([(4096, 0.5), (16_384, 0.9)], "sd is slower than lc at 16,384 tokens of context, the longest measured."),
        (
            [(4096, 1.5), (16_384, 2)],
            "sd is at least as fast as lc at every length measured, from 4,096 tokens of context on.",
        ),
    ],
)
def test_the_sentence_says_what_was_measured(speed_ups, sentence):
    assert describe_crossing("sd", speed_ups) == sentence

"""The tests' own speed: what one test has compiled, another one reads; and counters of compilations still count."""

import os

import jax
import jax.numpy as jnp
import pytest


@pytest.fixture(scope="module")
def events():
    """Names of what JAX's compiler and its cache report, as they come."""
    names = []
    jax.monitoring.register_event_listener(lambda name, **_: names.append(name))
    jax.monitoring.register_event_duration_secs_listener(lambda name, _, **__: names.append(name))
    return names


def test_a_program_that_another_test_has_compiled_is_read_and_still_counts_as_compiled(events):
    """Otherwise each file compiles the programs of the tiny models again, or "compiles nothing" could not fail."""
    hit, counted = "/jax/compilation_cache/cache_hits", "/jax/core/compile/backend_compile_duration"
    seen = []
    for _ in range(2):
        events.clear()
        function = jax.jit(lambda x: jnp.tanh(x) * 3 + os.getpid())  # no other run has compiled it
        assert function(jnp.ones(5)).shape == (5,)
        seen.append((events.count(hit), events.count(counted)))
        jax.clear_caches()
    (first, _), (second, compiled) = seen
    assert second > first and compiled >= 1


def test_the_shared_programs_are_those_of_this_run_whatever_a_launcher_has_set():
    """Programs of an earlier run would hide a compilation that fails; a launcher's own directory must be given back."""
    assert jax.config.jax_compilation_cache_dir == os.environ["RAPID_JAX_TEST_PROGRAMS"]

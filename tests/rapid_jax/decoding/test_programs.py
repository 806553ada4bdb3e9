"""Executables by function, static arguments and shapes: compiled once, timed apart."""

import concurrent.futures
import threading

import jax
import jax.numpy as jnp
import pytest

from rapid_jax.decoding.programs import Programs, shardings_of


def scaled(factor, x, y):
    return x * factor + y


@pytest.fixture
def xy():
    return jnp.arange(4.0), jnp.ones(4)


def test_one_executable_a_shape(xy):
    """The same shapes meet the same program, others do not."""
    programs = Programs()
    first = programs.get(scaled, (3,), xy)
    assert first(*xy).tolist() == [1.0, 4.0, 7.0, 10.0]
    assert programs.get(scaled, (3,), (xy[1], xy[0])) is first
    assert programs.get(scaled, (4,), xy) is not first
    assert programs.get(scaled, (3,), (jnp.ones(5), jnp.ones(5))) is not first
    assert programs.get(scaled, (3,), tuple(x.astype(jnp.int32) for x in xy)) is not first
    assert len(programs.compiled) == 4


def test_another_placement_is_another_program(xy):
    """An executable for one device would refuse, or move, arrays of another."""
    programs = Programs()
    programs.get(scaled, (3,), xy)
    moved = jax.device_put(xy, jax.devices()[1])
    assert programs.get(scaled, (3,), moved)(*moved).devices() == {jax.devices()[1]}
    assert len(programs.compiled) == 2


def test_compile_time_is_counted_once_and_left_out_of_timings(xy):
    """Reported seconds exclude compilation."""
    programs = Programs()
    _, seconds = programs.timed(lambda: programs.get(scaled, (3,), xy)(*xy))
    spent = programs.compile_seconds
    assert spent > 0 and 0 <= seconds < spent
    programs.get(scaled, (3,), xy)
    assert programs.compile_seconds == spent


def test_donated_arguments_are_taken_over(xy):
    """What donate names is gone, the rest stays."""
    programs = Programs()
    x, y = xy
    programs.get(scaled, (3,), xy, donate=(0,))(x, y)
    assert x.is_deleted() and not y.is_deleted()


def test_shardings_are_kept_so_that_a_result_can_be_passed_again():
    """On a mesh the compiler would else place results as it likes, and the next call would refuse them."""
    from jax.sharding import NamedSharding, PartitionSpec

    from models.sharding import make_mesh

    rows = NamedSharding(make_mesh((2, 1, 1)), PartitionSpec("data"))
    x, y = jax.device_put((jnp.arange(4.0), jnp.ones(4)), rows)
    run = Programs().get(scaled, (3,), (x, y), out_shardings=shardings_of(x))
    assert run(run(x, y), y).sharding == rows


def test_an_array_in_two_arguments_is_passed_once(xy):
    """Self-speculation passes one set of weights twice; on a full device XLA refuses to count them twice."""
    programs, (x, y) = Programs(), xy
    shared = programs.get(scaled, (3,), (x, x))
    assert shared(x, x).tolist() == [0.0, 4.0, 8.0, 12.0]
    assert shared.executable.memory_analysis().argument_size_in_bytes == x.nbytes
    assert programs.get(scaled, (3,), (x, y)) is not shared
    with pytest.raises(ValueError, match="one array when the program was compiled have become two"):
        shared(x, y)


def test_a_donated_array_is_never_shared(xy):
    """Its buffer is overwritten, and the other argument would change with it."""
    programs, (x, y) = Programs(), xy
    program = programs.get(scaled, (3,), (x, y), donate=(1,))
    assert program(x, y).tolist() == [1.0, 4.0, 7.0, 10.0] and y.is_deleted() and not x.is_deleted()


def test_the_least_recently_used_program_goes_first(xy):
    """A server that meets ever new lengths must not run out of memory, nor lose what every question needs."""
    programs = Programs(most=2)
    often = programs.get(scaled, (1,), xy)
    programs.get(scaled, (2,), xy)
    assert programs.get(scaled, (1,), xy) is often
    programs.get(scaled, (3,), xy)
    assert [key[1] for key in programs.compiled] == [(1,), (3,)] and programs.count == 3
    assert programs.get(scaled, (1,), xy) is often and programs.count == 3


def test_a_program_that_went_is_compiled_again_and_counted(xy):
    """Its seconds are compilation, not decoding."""
    programs = Programs(most=1)
    for count, factor in enumerate((1, 2, 1), start=1):
        before = programs.compile_seconds
        assert programs.get(scaled, (factor,), xy)(*xy)[3] == 3.0 * factor + 1.0
        assert (programs.count, len(programs.compiled)) == (count, 1) and programs.compile_seconds > before


def test_threads_compile_different_programs_at_the_same_time_and_the_same_one_once(xy):
    """Compiling takes one core; the second thread must not wait for the first one's program, nor compile it again."""
    programs, under_way, most = Programs(), 0, []
    both = threading.Barrier(2, timeout=60)

    def meets(factor, x, y):
        both.wait()  # while it is traced: two threads that took turns would wait here for ever
        return scaled(factor, x, y)

    def seen(begins):
        nonlocal under_way
        under_way += 1 if begins else -1
        most.append(under_way)

    programs.on_compile = seen
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        different = [pool.submit(programs.get, meets, (factor,), xy) for factor in (3, 4)]
        assert len({one.result() for one in different}) == 2
        same = [pool.submit(programs.get, scaled, (5,), xy) for _ in range(4)]
        assert len({id(one.result()) for one in same}) == 1
    assert programs.count == 3 and max(most) == 2 and most[-1] == 0


def test_a_program_is_kept_before_anyone_may_compile_it_again(xy):
    """Between the two another thread would find neither the program nor the one who compiles it."""
    programs, kept = Programs(), []
    programs.on_compile = lambda begins: kept.append((begins, len(programs.compiled)))
    programs.get(scaled, (3,), xy)
    assert kept == [(True, 0), (False, 1)]


def test_a_program_that_cannot_be_compiled_leaves_nothing_behind(xy):
    """The next one who asks must not wait for a thread that has failed."""
    programs = Programs()

    def fails(x, y):
        raise TypeError("no")

    for _ in range(2):
        with pytest.raises(TypeError, match="no"):
            programs.get(fails, (), xy)
    assert programs.count == 0 and not programs.compiled

"""Two hosts with four devices each: arrays that span them, what the main one does for both, and weights."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from models import checkpoint, hosts, init_params, sharding

ROOT = Path(__file__).resolve().parents[2]


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("hosts")


@pytest.fixture(scope="module")
def seen(tiny_checkpoint, directory):
    """What each of two processes saw, by its number."""
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=4")
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(Path(__file__).with_name("host_worker.py")), f"localhost:{free_port()}"]
    processes = [
        subprocess.Popen(
            [*command, str(number), str(tiny_checkpoint), str(directory)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    outcomes = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "".join(err[-2000:] for _, err in outcomes)
    return [json.loads(out.splitlines()[-1]) for out, _ in outcomes]


def checksum(params):
    return [float(np.abs(np.asarray(leaf, np.float64)).sum()) for leaf in jax.tree.leaves(params)]


@pytest.mark.slow
def test_they_meet(seen):
    """Both see all devices; one of them, and only one, is to print and write."""
    assert [one["hosts"] for one in seen] == [[2, True, 8], [2, False, 8]]


@pytest.mark.parametrize(
    "name, expected",
    [("rows", list(range(8))), ("again", list(range(8))), ("local", list(range(4))), ("scalar", 2.5)],
)
def test_what_is_put_is_what_is_fetched(seen, name, expected):
    """On each host, whatever part of the array it holds."""
    assert [one[name] for one in seen] == [expected] * 2


def test_random_keys_span_hosts(seen):
    """Sampling must not depend on the number of hosts."""
    keys = jax.random.split(jax.random.key(3), 4)
    assert [one["keys"] for one in seen] == [jax.vmap(jax.random.bits)(keys).tolist()] * 2


def test_what_the_main_host_knows_or_fails_at_reaches_the_other(seen):
    """Otherwise one would go on, and wait for the other for ever."""
    assert [one["from_main"] for one in seen] == [{"index": 0}] * 2
    assert [one["refused"] for one in seen] == [
        "ValueError: it is closed",
        "OtherHostFailed: host 0 has failed and says why",
    ]


def test_what_fails_on_one_host_ends_the_other(seen):
    """A checkpoint that one host lacks: the other would wait for minutes, and die of a lost connection."""
    assert [one["went"] for one in seen] == ["well"] * 2
    assert [one["failed"] for one in seen] == [
        "OtherHostFailed: host 1 has failed and says why",
        "FileNotFoundError: no such file",
    ]


def test_unequal_commands_are_named_on_both(seen):
    assert [one["same"] for one in seen] == [None, None]
    assert {one["other"] for one in seen} == {
        "ValueError: the seed of host 1 is not that of host 0; start the same command on all"
    }


def test_a_mesh_must_not_leave_a_host_out(seen):
    """It could not run the program that the others wait for."""
    for name, shape in (("idle", "(1, 1, 4)"), ("alone", "(1, 1, 1)")):
        expected = f"ValueError: mesh {shape} uses no device of host 1 of 2: give one of all 8 devices"
        assert [one[name] for one in seen] == [expected] * 2


def test_each_reads_its_part_of_the_weights(seen, tiny_checkpoint):
    """A 70B checkpoint would not fit a host's memory, and takes long enough to read once."""
    config = checkpoint.read_config(tiny_checkpoint)
    params = checkpoint.load_params(tiny_checkpoint, config, dtype="float32")
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    for one in seen:
        assert one["loaded"] == pytest.approx(checksum(params))
        assert one["read"] < 0.55 * whole  # the norms are on both
    assert sum(one["read"] for one in seen) >= whole


def test_weights_return_from_orbax_and_from_an_export(seen, tiny_checkpoint, directory):
    """Each writes its part of the one, the main host the other."""
    config = checkpoint.read_config(tiny_checkpoint)
    expected = checkpoint.load_params(tiny_checkpoint, config, dtype="float32")
    assert [one["restored"] for one in seen] == [pytest.approx(checksum(expected))] * 2
    assert checkpoint.read_config(directory / "orbax") == config
    exported = checkpoint.load_params(directory / "exported" / "0", config, dtype="float32")
    jax.tree.map(np.testing.assert_array_equal, exported, expected)
    assert not (directory / "exported" / "1").exists()


def test_random_weights_do_not_depend_on_the_hosts(seen, tiny_checkpoint):
    config = checkpoint.read_config(tiny_checkpoint)
    expected = checksum(init_params(config, seed=5, dtype="float32"))
    assert [one["random"] for one in seen] == [pytest.approx(expected)] * 2


def test_one_host_needs_nothing_of_it():
    """Without `initialise` all of it is plain, and no collective is run."""
    array = hosts.put(np.arange(4), None)
    assert hosts.count() == 1 and hosts.is_main()
    assert hosts.fetch({"a": array})["a"].tolist() == [0, 1, 2, 3]
    assert hosts.from_main(lambda: "anything") == "anything"
    hosts.check_same("the seed", 1)
    assert sharding.mesh_of((1, 1, 1)) is None and sharding.mesh_of((1, 1, 2)).size == 2

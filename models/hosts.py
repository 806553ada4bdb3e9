"""Several hosts that run one program: how they meet, what the main one does for all, and arrays that span them.

Every host runs the same calls in the same order on the same values (JAX's multi-controller model). On one host, without
`initialise`, each function here is its plain counterpart.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Sharding

T = TypeVar("T")

_LONGER = 60  # seconds, of JAX's time limit than of ours


class NotMet(RuntimeError):
    """The processes that should run together have not found each other."""


class OtherHostFailed(RuntimeError):
    """This host cannot go on because another one failed, which says why."""


def initialise(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout: float = 300,
) -> None:
    """Joins this process to the others; before any device is touched.

    Args:
      coordinator: host:port of process 0; None takes all three from the environment (a TPU pod slice, Slurm, MPI).
      num_processes: how many there are.
      process_id: this one's number, from 0.
      timeout: seconds to wait for the others.

    Raises:
      ValueError: the environment does not tell.
      NotMet: the others were not there in time; a thread that waits for them is left behind.
    """
    raised: list[Exception] = []

    def join() -> None:
        try:
            jax.distributed.initialize(
                coordinator, num_processes, process_id, initialization_timeout=int(timeout) + _LONGER
            )
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=join, daemon=True)  # what ends JAX's own wait is a crash with a dump
    thread.start()
    thread.join(timeout)
    where = f" at {coordinator}" if coordinator else ""
    if thread.is_alive():
        raise NotMet(
            f"the hosts have not met{where} within {timeout:g} s: the command must run on each, and process 0 there"
        )
    if raised and isinstance(raised[0], (ValueError, RuntimeError)):
        reason = (str(raised[0]).splitlines() or [""])[0][:200].rstrip(".")
        if coordinator is None:
            raise ValueError(f"the environment names no hosts that could be joined ({reason}); name the coordinator")
        raise NotMet(f"the hosts have not met{where}: {reason}")
    if raised:
        raise raised[0]


def count() -> int:
    """Processes that run this program together, one a host."""
    return jax.process_count() if jax.distributed.is_initialized() else 1


def is_main() -> bool:
    """Whether this process prints and writes; one of them does."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def check_devices(shape: Sequence[int], devices: Sequence[jax.Device]) -> None:
    """Checks that no host is left without a part of the mesh: it could not run the program.

    Args:
      shape: of the mesh.
      devices: that it is made of.

    Raises:
      ValueError: a host holds none of them; it is named.
    """
    idle = sorted(set(range(count())) - {device.process_index for device in devices})
    if count() > 1 and idle:
        raise ValueError(
            f"mesh {tuple(shape)} uses no device of host {', '.join(map(str, idle))} of {count()}: "
            f"give one of all {jax.device_count()} devices"
        )


def put(tree: Any, sharding: Sharding | None) -> Any:
    """Arrays that are the same on every host, as arrays of this sharding; each host copies its own part.

    Args:
      tree: of arrays on this host (numpy's or JAX's) or of arrays that span the hosts already.
      sharding: None puts them on the default device.
    """
    if sharding is None or sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def one(x: Any) -> jax.Array:
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            return jax.device_put(x, sharding)
        whole = x if isinstance(x, jax.Array) else np.asarray(x)
        # device_put would compare it over all hosts first, a collective an array
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    return jax.tree.map(one, tree)


def fetch(tree: Any) -> Any:
    """Arrays as whole numpy arrays on every host; all hosts call it together."""

    def whole(x: Any) -> Any:
        if not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated:
            return x
        return multihost_utils.process_allgather(x, tiled=True)

    return jax.device_get(jax.tree.map(whole, tree))


def from_main(function: Callable[[], T]) -> T:
    """What a function gives on the main host, on every host; it is called there alone, and all wait for it.

    Args:
      function: gives JSON.

    Raises:
      OtherHostFailed: on the others where it raised on the main host.
      Exception: what it raised, on the main host.
    """
    if count() == 1:
        return function()
    answer: list[Any] = []
    failure: Exception | None = None
    if is_main():
        try:
            answer = [function()]
        except Exception as error:
            failure = error
    answer = json.loads(_broadcast(json.dumps(answer).encode()))
    if failure is not None:
        raise failure
    if not answer:
        raise OtherHostFailed("host 0 has failed and says why")
    return answer[0]


def on_all(function: Callable[[], T]) -> T:
    """What a function gives on this host, once it has ended on all.

    If it fails on one, such as for a file that is not there, the others do not wait for that one in vain.

    Args:
      function: does nothing that all hosts do together.

    Raises:
      OtherHostFailed: where it raised on another host, but not on this one.
      Exception: what it raised.
    """
    if count() == 1:
        return function()
    done: list[T] = []
    failure: Exception | None = None
    try:
        done.append(function())
    except Exception as error:
        failure = error
    failed = multihost_utils.process_allgather(np.array(failure is not None))
    if failure is not None:
        raise failure
    if failed.any():
        raise OtherHostFailed(f"host {', '.join(map(str, np.flatnonzero(failed)))} has failed and says why")
    return done[0]


def _broadcast(data: bytes) -> bytes:
    """The main host's bytes; shapes must agree, so the length goes first."""
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
    padded = np.zeros(length, np.uint8)
    if is_main():
        padded[:] = np.frombuffer(data, np.uint8)
    return bytes(multihost_utils.broadcast_one_to_all(padded).tobytes())


def check_same(what: str, value: Any) -> None:
    """Checks that every host was given the same: with unequal programs they would wait for each other for ever.

    Args:
      what: the value's name, for the message.
      value: JSON.

    Raises:
      ValueError: on all hosts alike, where one has another value than the main host; it is named.
    """
    if count() == 1:
        return
    digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()
    digests = multihost_utils.process_allgather(np.frombuffer(digest, np.uint8))
    others = [str(host) for host, row in enumerate(digests) if not np.array_equal(row, digests[0])]
    if others:
        raise ValueError(f"{what} of host {', '.join(others)} is not that of host 0; start the same command on all")

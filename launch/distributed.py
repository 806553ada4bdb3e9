"""Flags of a run on several hosts, and what differs there: the first host alone prints and writes.

On a TPU pod slice, under Slurm or under MPI: --distributed. Elsewhere: --coordinator, --num_processes and --process_id.
Without any of these flags nothing is started.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from absl import flags
from absl import logging as absl_logging

from launch import cli

T = TypeVar("T")

_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Run on all hosts of a TPU pod slice, a Slurm or an MPI job; start the command on each."
)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, for several hosts without these.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes there are, one a host.", lower_bound=1)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "This process's number, from 0.", lower_bound=0)
_TIMEOUT = flags.DEFINE_integer("start_timeout", 300, "Seconds to wait for the other hosts.", lower_bound=1)


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Joins the other hosts, if the flags say so; as a decorator of main. All but the first are silent.

    Raises:
      UsageError: flags that do not fit each other.
      NotMet: the others were not there in time.
      ValueError: they were given other flags.
    """
    if not several():
        yield
        return

    from models import hosts

    hosts.initialise(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value, timeout=_TIMEOUT.value)
    with contextlib.ExitStack() as stack:
        nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
        shown = stack.enter_context(open(os.dup(sys.stdout.fileno()), "w", encoding=sys.stdout.encoding))
        os.dup2(nowhere.fileno(), sys.stdout.fileno())  # on CPU the library of collectives writes there
        stack.enter_context(contextlib.redirect_stdout(shown))
        hosts.check_same("the command", _given())
        if not hosts.is_main():
            absl_logging.set_verbosity(absl_logging.ERROR)
            stack.enter_context(contextlib.redirect_stdout(nowhere))
            stack.enter_context(contextlib.redirect_stderr(nowhere))  # until an error leaves this block
        try:
            yield
        except Exception:  # cli ends the process, but after a traceback JAX would wait for hosts that wait for this one
            atexit.register(cli.leave, cli.FAILURE, at_once=True)
            raise


def is_main() -> bool:
    """Whether this host prints and writes."""
    if not several():
        return True

    from models import hosts

    return hosts.is_main()


def open_output(flag: str, path: str | None) -> contextlib.AbstractContextManager[cli.OutputFile | None]:
    """As `cli.OutputFile`; None on the other hosts, or without a path."""
    return cli.OutputFile(flag, path) if path and is_main() else contextlib.nullcontext()


def from_main(function: Callable[[], T]) -> T:
    """As `models.hosts.from_main`: what a function (a file, standard input) gives on the first host, on all of them."""
    if not several():
        return function()

    from models import hosts

    return hosts.from_main(function)


def on_all(function: Callable[[], T]) -> T:
    """As `models.hosts.on_all`: what a function gives on this host, unless it fails on any."""
    if not several():
        return function()

    from models import hosts

    return hosts.on_all(function)


def check_same(what: str, value: Any) -> None:
    """As `models.hosts.check_same`: ValueError where a host was given another value."""
    if several():
        from models import hosts

        hosts.check_same(what, value)


def check_writable(flag: str, path: str) -> None:
    """As `cli.check_writable`, on the first host."""
    from_main(lambda: cli.check_writable(flag, path))


def _given() -> dict[str, str]:
    """The flags that must be the same on all hosts, and the config with what its file says."""
    values = flags.FLAGS.flag_values_dict()
    given = [name for name in values if flags.FLAGS[name].present or name == "config"]
    return {name: str(values[name]) for name in given if name not in ("process_id", "compilation_cache_dir")}


def several() -> bool:
    """Whether the flags ask for several hosts.

    Raises:
      UsageError: flags that do not fit each other.
    """
    coordinator, number, processes = _COORDINATOR.value, _PROCESS_ID.value, _NUM_PROCESSES.value
    missing = [flag.name for flag in (_COORDINATOR, _NUM_PROCESSES, _PROCESS_ID) if flag.value is None]
    if len(missing) == 3:
        return _DISTRIBUTED.value
    if coordinator is None or number is None or processes is None:
        raise cli.UsageError(f"--coordinator, --num_processes and --process_id go together: --{missing[0]} is missing")
    if _DISTRIBUTED.value:
        raise cli.UsageError("--distributed asks the environment for the hosts: leave it out beside --coordinator")
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise cli.UsageError(f"--coordinator must be HOST:PORT, got {coordinator!r}")
    if number >= processes:
        raise cli.UsageError(f"--process_id={number} of {processes} processes; they are numbered from 0")
    return True

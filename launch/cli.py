"""What every launcher shares: flag parsing, one-line errors, exit statuses, compilation cache, progress."""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from absl import app, flags
from absl import logging as absl_logging

from rapid_jax.evaluation.writing import encoded, naming

if TYPE_CHECKING:
    from rapid_jax.decoding.programs import Programs

USAGE, FAILURE, INTERRUPTED = 2, 1, 130

_LONGEST_LINE = 2000  # characters of an error
_CANNOT_WRITE = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

_SECONDS_BETWEEN_LINES = 10  # of progress, where standard error is no terminal
_SECONDS_BEFORE_THE_OTHERS = 2  # that the first host gives the others to say what is wrong with them

_CACHE = flags.DEFINE_string(
    "compilation_cache_dir",
    os.path.join(os.path.expanduser("~"), ".cache", "rapid_jax", "compiled"),
    "Directory of compiled programs, so that a later start compiles nothing; empty for none.",
)


class UsageError(Exception):
    """A bad flag or flag value; ends the program with status 2."""


def check_finite(*names: str) -> None:
    """Refuses what is no finite number as these flags' value: nan lies within every range that absl checks."""
    for name in names:
        flags.register_validator(name, math.isfinite, "must be a finite number")


def fail(message: object, status: int) -> NoReturn:
    """Prints one line on standard error and exits; of several hosts all but the first give their number."""
    host = _host()
    sys.stderr.write((f"host {host}: " if host else "") + "error: " + _line(message) + "\n")
    if host == 0:  # its end takes the others along, before they have said what is wrong with them
        time.sleep(_SECONDS_BEFORE_THE_OTHERS)
    leave(status, at_once=host is not None)


def _line(message: object) -> str:
    """A message in one line, without the middle of what would fill the screen."""
    line = " ".join(str(message).split())
    return line if len(line) <= _LONGEST_LINE else f"{line[: _LONGEST_LINE - 300]} ... {line[-200:]}"


def of_standard_output(error: Exception) -> bool:
    """Whether an error is one of writing to standard output: all other files that are written name themselves."""
    return isinstance(error, OSError) and error.filename is None and error.errno in _CANNOT_WRITE


def _end_with(error: OSError) -> NoReturn:
    """Ends with an error that may be one of standard output, which then takes nothing more, at the exit either."""
    if not of_standard_output(error):
        fail(error, FAILURE)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):  # the reader of our output, such as head, has seen enough
        leave(0, at_once=_host() is not None)
    fail(f"standard output cannot be written: {error.strerror}", FAILURE)


def leave(status: int, *, at_once: bool) -> NoReturn:
    """Exits; at once where JAX would wait for other hosts, which may wait for this one."""
    if not at_once:
        sys.exit(status)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _host() -> int | None:
    """This host's number among several; None where there is one, or before they have met."""
    if "jax" not in sys.modules:
        return None

    import jax

    return jax.process_index() if jax.distributed.is_initialized() else None


def start(
    main: Callable[..., None],
    parse: Callable[[list[str]], list[str]] = flags.FLAGS,
    *,
    arguments: tuple[str, ...] = (),
) -> None:
    """Parses the flags and runs main; expected errors become one line and an exit status.

    Status 2 is a usage error (a flag or its value), 1 any other: a file, a checkpoint, a document, a mesh.

    Args:
      main: does the work; the flags are parsed when it is called.
      parse: takes argv and returns what is no flag.
      arguments: names of what follows the flags, given to main in this order; a last one that ends in "..." may come
        several times.
    """

    def parse_or_exit(argv: list[str]) -> list[str]:
        absl_logging.set_verbosity(absl_logging.ERROR)
        try:
            return parse(argv)
        except SystemExit:
            try:
                sys.stdout.flush()
            except OSError as e:
                _end_with(e)
            sys.exit(0)  # --help has been printed
        except (flags.Error, UsageError) as e:
            fail(str(e).removeprefix("FATAL Flags parsing error:"), USAGE)
        except OSError as e:
            _end_with(e)
        except ValueError as e:
            fail(e, FAILURE)

    def run(argv: list[str]) -> None:
        given = argv[1:]
        if len(given) > len(arguments) and not (arguments and arguments[-1].endswith("...")):
            fail(f"unexpected argument {given[len(arguments)]!r}: every setting is a flag, --name=value", USAGE)
        if len(given) < len(arguments):
            fail(f"{arguments[len(given)].removesuffix('...')} is missing; --help shows how it is used", USAGE)
        absl_logging.set_verbosity(absl_logging.WARNING)
        absl_logging.get_absl_handler().setFormatter(_OneLine())
        try:
            main(*given)
            sys.stdout.flush()
        except UsageError as e:
            fail(e, USAGE)
        except OSError as e:
            _end_with(e)
        except (ValueError, NotImplementedError) as e:
            fail(e, FAILURE)
        except (RuntimeError, MemoryError) as e:
            fail(_explain(e), FAILURE)
        except KeyboardInterrupt:
            fail("interrupted", INTERRUPTED)

    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it would advise to install PyTorch
    app.run(run, flags_parser=parse_or_exit)


def _explain(error: RuntimeError | MemoryError) -> str:
    """What a user can do about an error of JAX; any other is a fault of ours and keeps its traceback."""
    from models import hosts

    message = str(error)
    if isinstance(error, hosts.OtherHostFailed):
        if hosts.is_main():
            return message
        leave(FAILURE, at_once=True)
    if isinstance(error, hosts.NotMet):
        sys.stderr.write(f"error: {message}\n")
        leave(FAILURE, at_once=True)
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in message:
        return (
            "too little memory: keep fewer document tokens (--config.max_context_tokens), use bfloat16 "
            f"(--config.dtype) or more devices (--config.mesh); {message[:200]}"
        )
    if "Unable to initialize backend" in message:
        return message
    raise error


class _OneLine(logging.Formatter):
    """Writes "warning: ..." where absl would write its date, time and file."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{record.levelname.lower()}: {' '.join(record.getMessage().split())}"


def use_compilation_cache() -> None:
    """Points JAX's persistent compilation cache to --compilation_cache_dir.

    Raises:
      UsageError: a name that no directory can have; JAX would fail at the first program.
    """
    import jax

    if _CACHE.value:
        if any(c == "\0" or "\ud800" <= c <= "\udfff" for c in _CACHE.value):
            raise UsageError(f"--compilation_cache_dir={ascii(_CACHE.value)} is no name of a directory; give another")
        jax.config.update("jax_compilation_cache_dir", _CACHE.value)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


class OutputFile:
    """A file that a flag names, replaced and written through after every call; an error of the disk names the flag.

    Args:
      flag: its name.
      path: its value.

    Raises:
      OSError: the file cannot be written; in `write` too.
    """

    def __init__(self, flag: str, path: str):
        self._place = f"--{flag}={path}"
        with naming(self._place):
            self._file = open(path, "wb", buffering=0)  # what a full disk has refused is not tried again at the end

    def write(self, text: str) -> None:
        """Writes a text as UTF-8."""
        data = memoryview(encoded(text))
        with naming(self._place):
            while data:
                data = data[self._file.write(data) :]

    def __enter__(self) -> OutputFile:
        return self

    def __exit__(self, *_: object) -> None:
        with naming(self._place):
            self._file.close()


def check_writable(flag: str, path: str) -> None:
    """Checks, before anything slow, that a file can be written; leaves an existing one as it is.

    Raises:
      OSError: it is a directory, its directory does not exist, or writing is not allowed.
    """
    file = Path(path)
    if file.is_dir():
        raise IsADirectoryError(f"--{flag}={path} is a directory; name a file")
    if not file.absolute().parent.is_dir():
        raise FileNotFoundError(f"--{flag}={path}: there is no directory {file.absolute().parent}")
    existed = file.exists()
    try:
        file.open("ab").close()
    except OSError as e:
        raise OSError(f"--{flag}={path} cannot be written: {e.strerror}") from None
    if not existed:
        file.unlink()


@contextlib.contextmanager
def progress(what: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Shows progress on standard error: a bar on a terminal, elsewhere a line now and then.

    Gives a callback (done, all). The bar disappears when all is done, or when the block is left.
    """
    show: _Bar | _Lines = _Bar(what, unit) if sys.stderr.isatty() else _Lines(what, unit)
    try:
        yield show.update
    finally:
        show.close()


@contextlib.contextmanager
def showing_compilation(programs: Programs) -> Iterator[None]:
    """Says on standard error that a program is compiled while it is: on a terminal at once, elsewhere now and then."""
    show = _Line("compiling") if sys.stderr.isatty() else _Compilations()
    programs.on_compile = show
    try:
        yield
    finally:
        programs.on_compile = lambda begins: None


class _Line:
    """A line on a terminal that is there for a while."""

    def __init__(self, text: str):
        self._text, self._under_way = text, 0
        self._bar: Any = None

    def __call__(self, begins: bool) -> None:
        from tqdm import tqdm

        self._under_way += 1 if begins else -1
        if begins and self._under_way == 1:
            self._bar = tqdm(desc=self._text, bar_format="{desc} ...", leave=False)
        elif not self._under_way and self._bar is not None:
            self._bar.close()


class _Compilations:
    """A line now and then where there is no terminal."""

    def __init__(self) -> None:
        self._last, self._count = time.monotonic(), 0

    def __call__(self, begins: bool) -> None:
        self._count += begins
        if begins and time.monotonic() - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            sys.stderr.write(f"compiling: program {self._count}\n")


class _Bar:
    def __init__(self, what: str, unit: str):
        self._what, self._unit = what, unit
        self._bar: Any = None

    def update(self, done: int, total: int) -> None:
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(
                total=total, desc=self._what, unit=self._unit, unit_scale=True, leave=False, dynamic_ncols=True
            )
        self._bar.update(done - self._bar.n)
        if done >= total:
            self.close()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class _Lines:
    def __init__(self, what: str, unit: str):
        self._what, self._unit, self._last = what, unit, time.monotonic()
        self._begun: tuple[float, int] | None = None

    def update(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._begun is None:
            self._begun = now, done
        if now - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = now
            left = self._seconds_left(now, done, total)
            sys.stderr.write(f"{self._what}: {done:,} of {total:,} {self._unit} ({done / total:.0%}){left}\n")

    def _seconds_left(self, now: float, done: int, total: int) -> str:
        begun, already = self._begun or (now, done)
        if done == already:
            return ""
        return f", about {(total - done) * (now - begun) / (done - already):,.0f} s left"

    def close(self) -> None:
        pass

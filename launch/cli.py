"""What every launcher shares: flag parsing, one-line errors, exit statuses, compilation cache, progress bars."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging

USAGE, FAILURE = 2, 1

_CACHE = flags.DEFINE_string(
    "compilation_cache_dir",
    os.path.join(os.path.expanduser("~"), ".cache", "rapid_jax", "compiled"),
    "Directory of compiled programs, so that a later start compiles nothing; empty for none.",
)


class UsageError(Exception):
    """A bad flag or flag value; ends the program with status 2."""


def fail(message: object, status: int) -> NoReturn:
    """Prints one line on standard error and exits."""
    sys.stderr.write("error: " + " ".join(str(message).split()) + "\n")
    sys.exit(status)


def start(main: Callable[[], None]) -> None:
    """Parses the flags and runs main; expected errors become one line and an exit status.

    Status 2 is a usage error (flags), 1 any other: a file, a checkpoint, a document.
    """

    def parse(argv: list[str]) -> list[str]:
        try:
            return flags.FLAGS(argv)
        except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError, ImportError, SyntaxError) as e:
            fail(e, USAGE)

    def run(argv: list[str]) -> None:
        if len(argv) > 1:
            fail(f"unexpected argument {argv[1]!r}: every setting is a flag, --name=value", USAGE)
        logging.set_verbosity(logging.WARNING)
        try:
            main()
        except UsageError as e:
            fail(e, USAGE)
        except (ValueError, OSError, NotImplementedError) as e:
            fail(e, FAILURE)
        except KeyboardInterrupt:
            fail("interrupted", 130)

    app.run(run, flags_parser=parse)


def use_compilation_cache() -> None:
    """Points JAX's persistent compilation cache to --compilation_cache_dir."""
    import jax

    if _CACHE.value:
        jax.config.update("jax_compilation_cache_dir", _CACHE.value)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def check_writable(path: str) -> None:
    """Checks before anything slow that a file can be written.

    Raises:
      UsageError: its directory does not exist, or it is a directory.
    """
    target = Path(path)
    if target.is_dir():
        raise UsageError(f"--output={path} is a directory; name a file")
    if not target.absolute().parent.is_dir():
        raise UsageError(f"--output={path}: there is no directory {target.absolute().parent}")


def progress_bar(what: str, unit: str) -> Callable[[int, int], None]:
    """A callback (done, all) that draws a bar on standard error and closes it at the end."""
    from tqdm import tqdm

    bar: Any = None

    def update(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(total=total, desc=what, unit=unit, unit_scale=True, leave=False, file=sys.stderr)
        bar.update(done - bar.n)
        if done >= total:
            bar.close()
            bar = None

    return update

"""How many programs the runs of an evaluation compiled: a line a run, beside its results."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rapid_jax.evaluation.benchmarks.files import parse_record
from rapid_jax.evaluation.writing import naming

if TYPE_CHECKING:
    from rapid_jax.decoding.programs import Programs  # with JAX, which reading results does without

COMPILATION = "compilation.jsonl"
_MOST, _LONGEST = 2**31, 1e9  # programs, seconds: more is damage


@contextlib.contextmanager
def recording_compilation(directory: Path, programs: Programs, *, write: bool = True) -> Iterator[None]:
    """Adds what is compiled inside of the block to a directory of results; also where the block is left early.

    Args:
      directory: of the results, made inside of the block.
      programs: of the engine that answers.
      write: false on all hosts but the first.

    Raises:
      OSError: the file cannot be written; names it.
    """
    count, seconds = programs.count, programs.compile_seconds

    def record() -> None:
        new = programs.count - count, round(programs.compile_seconds - seconds, 3)
        if write and new[0] and directory.is_dir():
            path = directory / COMPILATION
            with naming(path), path.open("ab", buffering=0) as file:
                file.write(compilation_lines([new]).encode())

    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # of a disk that is full already: the first error is the one to show
            record()
        raise
    record()


def read_compilation(directory: Path) -> list[tuple[int, float]]:
    """Programs and seconds of each run that compiled any; a last line without its end is left out.

    Raises:
      ValueError: a line that is none; names the file and the line.
    """
    path = directory / COMPILATION
    if not path.is_file():
        return []
    found = []
    data = path.read_bytes()
    for number, line in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), start=1):
        record = parse_record(line, f"{path}, line {number}")
        found.append((record.count("programs", 0, _MOST), record.number("seconds", 0, _LONGEST)))
    return found


def compilation_lines(runs: Iterable[tuple[int, float]]) -> str:
    """Programs and seconds of runs as the lines that `read_compilation` reads."""
    return "".join(json.dumps({"programs": programs, "seconds": seconds}) + "\n" for programs, seconds in runs)


def compiled_line(programs: int, seconds: float, runs: int = 1) -> str:
    """How many programs were compiled in how many seconds (reading them from a cache counts), as one sentence."""
    if not programs:
        return "No program was compiled."
    what = "program was" if programs == 1 else "programs were"
    several = f", in {runs} runs" if runs > 1 else ""
    return f"{programs:,} {what} compiled in {seconds:.1f} s{several}."

"""Draws a report of an evaluation: Markdown, and one page of HTML that needs no other file.

    python -m launch.report DIR
    python -m launch.report DIR DIR DIR DIR --output=MERGED
    python -m launch.report FILE.jsonl FILE.jsonl

DIR is the --output of launch.evaluate. It gets report.md, report.html and plots/; nothing is measured here, so a report
can be drawn while its evaluation still runs. The directories of all shards of an evaluation (launch.evaluate --shard)
are merged into --output, which is then what an unsharded run would have written, and gets the report. A shard that is
missing or has not come to its end is an error; with --partial it is a warning, and the report says what is missing.

FILE.jsonl is the --output of launch.benchmark. Its speed-ups are printed as Markdown, with intervals over prompts, by
context length and by kind of prompt.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from launch import cli

_TIMINGS = flags.DEFINE_bool("timings", True, "With what a clock measured; without, two equal runs give equal reports.")
_OUTPUT = flags.DEFINE_string(
    "output", None, "Directory for the results of all shards together; what it holds already is never lost."
)
_PARTIAL = flags.DEFINE_bool("partial", False, "Merge also where a shard is missing or has not come to its end.")


def main(*directories: str) -> None:
    """Reads the results, of several shards after merging them, and writes the report beside them."""
    if all(name.endswith(".jsonl") for name in directories):
        _print_speeds([Path(name) for name in directories])
        return
    from rapid_jax.evaluation.merging import merge
    from rapid_jax.evaluation.report import Report

    directory = Path(directories[0])
    if _OUTPUT.value is not None:
        directory = Path(_OUTPUT.value)
        merge([Path(each) for each in directories], directory, partial=_PARTIAL.value)
    elif len(directories) > 1:
        raise cli.UsageError(f"{len(directories)} directories are merged into one: name it with --output=DIR")
    elif _PARTIAL.value:
        raise cli.UsageError("--partial is for merging shards: name the merged directory with --output=DIR")
    for path in Report(directory, timings=_TIMINGS.value).write():
        print(path)


def _print_speeds(files: list[Path]) -> None:
    from rapid_jax.benchmarking.summary import read_measurements, speed_tables
    from rapid_jax.evaluation.report import markdown_table

    for table in speed_tables(read_measurements(files)):
        print(f"## {table.title}\n\n{markdown_table(table)}\n\n{table.note}\n")


if __name__ == "__main__":
    cli.start(main, arguments=("DIR or FILE.jsonl...",))

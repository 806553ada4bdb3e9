"""Draws a report of an evaluation: Markdown, and one page of HTML that needs no other file.

    python -m launch.report DIR

DIR is the --output of launch.evaluate. It gets report.md, report.html and plots/; nothing is measured here, so a report
can be drawn while its evaluation still runs.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from launch import cli

_TIMINGS = flags.DEFINE_bool("timings", True, "With what a clock measured; without, two equal runs give equal reports.")


def main(directory: str) -> None:
    """Reads the results and writes the report beside them."""
    from rapid_jax.evaluation.report import Report

    report = Report(Path(directory), timings=_TIMINGS.value)
    for path in report.write():
        print(path)


if __name__ == "__main__":
    cli.start(main, arguments=("DIR",))

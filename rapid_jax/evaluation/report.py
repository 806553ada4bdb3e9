"""A directory of results as Markdown and as one self-contained HTML page."""

from __future__ import annotations

import html as html_escapes
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from rapid_jax.config.mapping import flatten
from rapid_jax.evaluation import tables, task_tables
from rapid_jax.evaluation.benchmarks.spec_bench import TASKS as SPEC_BENCH_TASKS
from rapid_jax.evaluation.compilation import compiled_line, read_compilation
from rapid_jax.evaluation.distribution_shift_table import read_shifts, shift_table
from rapid_jax.evaluation.packages import require_package
from rapid_jax.evaluation.plots import Plot, plots
from rapid_jax.evaluation.results import FAILED, PARTIAL, SHARD, check_manifest, check_result
from rapid_jax.evaluation.series import read_series, scored
from rapid_jax.evaluation.store import MANIFEST, read_manifest, read_results
from rapid_jax.evaluation.tables import Table
from rapid_jax.evaluation.writing import naming, write_text

_STYLE = """\
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { border-bottom: 2px solid #888; }
svg { max-width: 100%; height: auto; }
"""


class Report:
    """What a directory's results say.

    Args:
      directory: from launch.evaluate.
      timings: with everything that a clock has measured; two runs of the same evaluation agree in all but that.

    Raises:
      FileNotFoundError, ValueError: no results there, or a manifest or a line that is none; names the file and line.
    """

    def __init__(self, directory: Path, *, timings: bool = True):
        self.manifest = read_manifest(directory)
        check_manifest(self.manifest, directory / MANIFEST)
        records = read_results(directory, check_result)
        if not records:
            raise ValueError(f"{directory} holds no results yet: the evaluation has not finished an answer")
        self.failures = [record for record in records if FAILED in record]
        records = [record for record in records if FAILED not in record]
        self.series = read_series(records)
        self.timings = timings
        self._directory = directory
        self.metrics = tuple(dict.fromkeys(name for record in records for name in record["scores"]))

    def tables(self) -> Iterator[tuple[str, list[Table]]]:
        """Heading and tables of every context length."""
        is_spec_bench = self.manifest["benchmark"]["name"] == "specbench"
        headings = SPEC_BENCH_TASKS if is_spec_bench else {}
        for length, group in itertools.groupby(self.series, key=lambda one: one.key.context_length):
            series = list(group)
            graded = {metric: part for metric in self.metrics if (part := scored(series, metric))}
            found: list[Table | None] = [tables.quality(part, metric) for metric, part in graded.items()]
            for metric in list(graded)[:1]:
                found += [tables.differences(graded[metric], metric), tables.against_target(graded[metric], metric)]
            if not graded:
                found.append(tables.equality(series))
            found.append(task_tables.tokens_per_step(series, headings))
            if self.timings:
                found.append(task_tables.speed_by_task(series, headings))
                found += [task_tables.question_speed(series, headings)] if is_spec_bench else []
                found.append(tables.speed(series))
            found.append(tables.drafts(series))
            heading = f"{length:,} tokens" if length else "Results"
            yield heading, [table for table in found if table is not None]
        if self.failures:
            yield "Not answered", [tables.failures(self.failures, self.series)]

    def plots(self) -> list[Plot]:
        """Pictures of what was swept."""
        return plots(self.series, self.metrics[0] if self.metrics else None, timings=self.timings)

    def markdown(self, plots_directory: str = "plots", pictures: Sequence[Plot] | None = None) -> str:
        """The report as Markdown, whose pictures lie in a directory beside it; None draws them for their names."""
        parts = [f"# {self.manifest['benchmark']['name']}", *self._header()]
        for heading, found in self.tables():
            parts.append(f"## {heading}")
            for table in found:
                parts += [f"### {table.title}", markdown_table(table)]
                parts += [table.note] if table.note else []
        measured = read_shifts(self._directory)
        if measured:
            table = shift_table(measured)
            parts += [f"## {table.title}", markdown_table(table), table.note]
        pictures = self.plots() if pictures is None else pictures
        if pictures:
            parts += ["## Plots", *(f"![{plot.title}]({plots_directory}/{plot.name}.svg)" for plot in pictures)]
        return "\n\n".join(parts) + "\n"

    def _header(self) -> list[str]:
        benchmark = self.manifest["benchmark"]
        answers = sum(len(one.records) for one in self.series)
        items = len({record["item"] for one in self.series for record in one.records})
        sources = len({record["source"] for one in self.series for record in one.records})
        failed = f"; failed: {len(self.failures):,}" if self.failures else ""
        documents = "" if benchmark["name"] == "specbench" else f"; documents: {sources:,}"
        lines = [
            f"{answers:,} answers{failed}; items: {items:,}{documents}; methods: "
            + ", ".join(dict.fromkeys(one.key.method for one in self.series))
            + "."
        ]
        if SHARD in self.manifest:
            lines.append(f"Shard {self.manifest[SHARD]['part']} of the benchmark alone.")
        if PARTIAL in self.manifest:
            lines.append(f"A part of the benchmark: {self.manifest[PARTIAL]}.")
        if self.timings and (compiled := read_compilation(self._directory)):
            programs, seconds = (sum(figures) for figures in zip(*compiled, strict=True))
            lines.append(compiled_line(int(programs), seconds, len(compiled)))
        rows = [(name, str(value)) for name, value in benchmark.items() if name != "name"]
        rows += [
            (name, str(value)) for name, value in flatten(self.manifest["config"]).items() if value not in ("", None)
        ]
        versions = [(name, str(value)) for name, value in self.manifest["versions"].items()]
        settings = markdown_table(Table("", ("setting", "value"), tuple(rows)))
        return [*lines, "## Made with", markdown_table(Table("", ("", "version"), tuple(versions))), settings]

    def write(self) -> tuple[Path, Path]:
        """Writes report.md with its plots, and report.html; returns both paths.

        Raises:
          ValueError: a package that draws them is not installed.
          OSError: a file cannot be written; names it.
        """
        folder = self._directory / "plots"
        pictures = self.plots()
        text = self.markdown(pictures=pictures)
        source = html(text, pictures)
        if pictures:
            with naming(folder):
                folder.mkdir(exist_ok=True)
        for plot in pictures:
            write_text(folder / f"{plot.name}.svg", plot.svg)
        markdown, page = self._directory / "report.md", self._directory / "report.html"
        write_text(markdown, text)
        write_text(page, source)
        return markdown, page


def markdown_table(table: Table) -> str:
    """A table in Markdown, numbers to the right."""
    lines = [table.columns, ("---", *["---:"] * (len(table.columns) - 1)), *table.rows]
    return "\n".join("| " + " | ".join(_cell(text) for text in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\r", "\\r").replace("\n", "\\n")


def html(text: str, pictures: Sequence[Plot]) -> str:
    """A Markdown report as one page that needs no other file."""
    require_package("markdown_it", "a report as a page of HTML")
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    for plot in pictures:
        image = f'<img src="plots/{plot.name}.svg" alt="{plot.title}" />'
        svg = plot.svg[plot.svg.index("<svg") :]
        body = body.replace(image, f"<figure>{svg}<figcaption>{plot.title}</figcaption></figure>")
    title = html_escapes.escape(text.partition("\n")[0].removeprefix("# "))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        f"<style>\n{_STYLE}</style></head>\n<body>\n{body}</body></html>\n"
    )

"""Prints answers and what they cost, as a person wants to read them in a terminal of 80 columns."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rapid_jax.engine import Document, Engine, Stream
from rapid_jax.engine.answer import Answer
from rapid_jax.evaluation.tables import Table as ReportTable

_LEGEND = """\
First token: retrieval, prefill and the first steps. A method is charged for all
that it reads, also where another has read it before. Speed-up: decoding alone.
Acceptance: drafted tokens kept, of those tested (up to the first rejection in
a step) and of all drafted."""
_WIDE = 240  # columns of a report's tables where nobody's terminal would break them
_REFERENCE = "reference"
_SPEED = "decoding, tokens/s"
_SHORT = 24  # characters of an answer that is shown in the table too


def print_line(text: str = "", style: str = "") -> None:
    """Wraps at words on a terminal; elsewhere lines stay whole, so that an answer can be cut out of a file."""
    console = Console(highlight=False)
    console.print(Text(text, style=style), soft_wrap=not console.is_terminal)


def print_header(
    engine: Engine, document: Document, question: str, reference: str | None = None, name: str = ""
) -> None:
    """What is about to be read, the question, and the reference answer where one is known.

    Args:
      engine, document, question, reference: of the run.
      name: as `print_document`.
    """
    print_document(engine, document, name)
    print_line(f"question  {question}")
    if reference is not None:
        print_line(f"\n{_REFERENCE} answer:", style="bold")
        print_line(reference)


def print_document(engine: Engine, document: Document, name: str = "") -> None:
    """The models and the document.

    Args:
      engine, document: of the run.
      name: of a document that nobody named; "" for one that a user knows.
    """
    print_line(f"target    {engine.config.target or 'the embedded model'}{_kind(engine.config.weights)}")
    if engine.drafter is not engine.target:
        weights = engine.config.drafter_weights or engine.config.weights
        print_line(f"drafter   {engine.config.drafter or 'the target'}{_kind(weights)}")
    cut = document.tokenized.truncated_tokens
    left_out = f", {cut:,} more left out of its middle" if cut else ""
    opened = ""
    if document.reading_seconds is not None:
        opened = f", opened in {document.prefill_seconds:.1f} s (reading it took {document.reading_seconds:.1f} s)"
    print_line(f"document  {name and name + ', '}{document.num_tokens:,} tokens{left_out}{opened}")


def _kind(weights: str) -> str:
    return f", {weights} weights" if weights else ""


def print_method(name: str) -> None:
    """The heading of an answer."""
    print_line(f"\n{name}:", style="bold")


def print_text(answer: Answer, earlier: Sequence[Answer], reference: str | None = None) -> None:
    """An answer's text, or the earlier answer that it equals."""
    same = _same(answer, earlier, reference)
    if same == _REFERENCE:
        print_line("(the reference answer, word for word)", style="dim")
    elif same is not None:
        print_line(f"(the same as {same})", style="dim")
    elif not answer.text:
        print_line(f"(no text: {answer.finish_reason} after {len(answer.token_ids)} tokens)", style="dim")
    else:
        print_line(answer.text)


def print_stream(stream: Stream) -> Answer:
    """An answer's text as it comes; returns the answer."""
    started = False
    for piece in stream:
        shown = piece if started else piece.lstrip()
        started = started or bool(shown)
        sys.stdout.write(shown)
        sys.stdout.flush()
    sys.stdout.write("\n")
    return stream.answer


def print_passages(answers: Sequence[Answer], file_at: Callable[[int], str] | None = None) -> None:
    """The passages that were retrieved, with their place in the document and their score.

    Args:
      answers: of which the first with passages counts.
      file_at: gives the name of the file that a character of the document is from, "" where there is only one.
    """
    answer = next((a for a in answers if a.passages or a.below_threshold), None)
    if answer is None:
        print_line("\nNo passages: no method that was asked for retrieves.")
        return
    if answer.below_threshold:
        kept = "the best one was kept" if answer.passages else "nothing was retrieved"
        print_line(f"\nNo passage reached the threshold; {kept}.")
    for number, passage in enumerate(answer.passages, 1):
        file = "" if file_at is None else file_at(passage.start)
        place = f"passage {number}: {file and file + ', '}characters {passage.start:,}-{passage.end:,}"
        print_line(f"\n{place}, {passage.num_tokens:,} tokens, score {passage.score:.3f}", style="bold")
        print_line(passage.text.strip())


def print_table(answers: Sequence[Answer], reference: str | None = None, compiled: float = 0.0) -> None:
    """What the answers cost, one column a method; `compiled` is the seconds of compiling before the first of them."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("")
    for answer in answers:
        table.add_column(answer.method, justify="right")
    if len(answers) > 1:
        table.add_row("answer", *(Text(_brief(a, answers[:i], reference)) for i, a in enumerate(answers)))
    baseline = next((a for a in answers if a.method == "lc"), None)
    for name, value in {**_ROWS, **_database_rows(answers)}.items():
        table.add_row(name, *(value(a) for a in answers))
        if name == _SPEED and baseline is not None and len(answers) > 1:
            table.add_row("speed-up over lc", *(_speed_up(a, baseline) for a in answers))
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDE)
    console.print()
    console.print(table)
    sizes: dict[str, int] = {}
    for answer in answers:
        sizes.update(answer.database_bytes)
    if sizes:
        shown = ", ".join(f"{name} {size / 1e6:,.2f} MB" for name, size in sizes.items())
        print_line(f"\nDatabases on the device: {shown}.")
    compilation, loading = compiled + sum(a.seconds.compile for a in answers), answers[0].seconds.load
    print_line(f"\nTimings exclude compilation ({compilation:.1f} s) and loading ({loading:.1f} s).\n{_LEGEND}")


def _database_rows(answers: Sequence[Answer]) -> dict[str, Callable[[Answer], str]]:
    """Where accepted tokens come from, if any method looks drafts up."""
    if not any(a.database_bytes for a in answers):
        return {}

    def from_source(name: str) -> Callable[[Answer], str]:
        return lambda a: _number(a.acceptance.tokens_per_step_from(name))

    sources = dict.fromkeys(name for answer in answers for name in answer.acceptance.by_source)
    rows = {f"  from {name}": from_source(name) for name in sources}
    if any(a.acceptance.drafter_forwards for a in answers):
        rows["drafter forwards/drafted"] = lambda a: _number(a.acceptance.to_dict()["forwards_per_drafted_token"])
    return rows


def print_tables(heading: str, tables: Sequence[ReportTable]) -> None:
    """Tables of a report under a heading, each with its note."""
    print_line(f"\n{heading}", style="bold")
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDE)
    for table in tables:
        if not table.rows:  # a title over no column would be broken at every letter
            print_line(f"\n{table.title}")
            print_line(table.note, style="dim")
            continue
        shown = Table(title=table.title, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, title_justify="left")
        for index, column in enumerate(table.columns):
            shown.add_column(column, justify="right" if index else "left")
        for row in table.rows:
            shown.add_row(*row)
        console.print()
        console.print(shown)
        if table.note:
            print_line(table.note, style="dim")


def _same(answer: Answer, earlier: Sequence[Answer], reference: str | None) -> str | None:
    if reference is not None and answer.text.split() == reference.split():
        return _REFERENCE
    return next((a.method for a in earlier if a.text and a.text == answer.text), None)


def _brief(answer: Answer, earlier: Sequence[Answer], reference: str | None) -> str:
    same = _same(answer, earlier, reference)
    if len(answer.text) <= _SHORT:
        return answer.text or "-"
    return f"as {same}" if same else "above"


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _speed_up(answer: Answer, baseline: Answer) -> str:
    own, base = answer.tokens_per_second, baseline.tokens_per_second
    return _number(own / base if own and base else None)


_ROWS: dict[str, Callable[[Answer], str]] = {
    "first token, s": lambda a: _number(a.seconds.first_token),
    "all, s": lambda a: _number(a.seconds.to_dict()["total"]),
    "decoding, s": lambda a: _number(a.seconds.decode),
    _SPEED: lambda a: _number(a.tokens_per_second, 1),
    "tokens": lambda a: f"{len(a.token_ids):,}",
    "finish": lambda a: a.finish_reason,
    "target context, tokens": lambda a: f"{a.target_tokens:,}",
    "drafter context, tokens": lambda a: f"{a.drafter_tokens:,}" if a.drafter_tokens else "-",
    "tokens/step": lambda a: _number(a.acceptance.to_dict()["tokens_per_step"]),
    "acceptance, of tested": lambda a: _number(a.acceptance.to_dict()["kept_over_tested"]),
    "acceptance, of drafted": lambda a: _number(a.acceptance.to_dict()["kept_over_proposed"]),
}

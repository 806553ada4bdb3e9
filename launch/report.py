"""Prints answers: the four methods side by side, as a person wants to read them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rapid_jax.answer import Answer
from rapid_jax.engine import Document, Engine

_MIN_WIDTH = 100


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(width=max(console.width, _MIN_WIDTH), highlight=False)


def print_header(engine: Engine, document: Document, question: str) -> None:
    """What is about to be read, and the question."""
    console = _console()
    lines = [f"target   {engine.config.target or 'archivist (embedded)'}"]
    if engine.drafter is not engine.target:
        lines.append(f"drafter  {engine.config.drafter}")
    cut = document.tokenized.truncated_tokens
    lines.append(
        f"document {document.num_tokens:,} tokens" + (f", {cut:,} more left out of its middle" if cut else "")
    )
    lines.append(f"question {question}")
    console.print(Text("\n".join(lines)))


def print_passages(answers: Sequence[Answer]) -> None:
    """The passages that were retrieved, with their place in the document and their score."""
    console = _console()
    with_passages = next((a for a in answers if a.passages), None)
    if with_passages is None:
        console.print("\nNo passages: no method that was asked for retrieves.")
        return
    if with_passages.below_threshold:
        console.print("\nNo passage reached the threshold; the best one was kept.")
    for number, passage in enumerate(with_passages.passages, 1):
        place = f"passage {number}: characters {passage.start:,}-{passage.end:,}"
        console.print(Text(f"\n{place}, {passage.num_tokens} tokens, score {passage.score:.3f}", style="bold"))
        console.print(Text(passage.text.strip()))


def print_answers(answers: Sequence[Answer], *, with_text: bool) -> None:
    """A table of the answers, one column a method."""
    console = _console()
    table = Table(show_lines=False, pad_edge=False)
    table.add_column("")
    for answer in answers:
        table.add_column(answer.method, overflow="fold")
    if with_text:
        table.add_row("answer", *(Text(a.text) for a in answers), end_section=True)
    baseline = next((a for a in answers if a.method == "lc"), None)
    for name, value in _ROWS.items():
        table.add_row(name, *(value(a) for a in answers))
    if baseline is not None and baseline.tokens_per_second:
        table.add_row("speed-up over lc", *(_speed_up(a, baseline) for a in answers))
    console.print()
    console.print(table)
    compiled = sum(a.seconds.compile for a in answers)
    console.print(
        Text(
            f"Speed-ups are of decoding alone. Seconds leave out loading ({answers[0].seconds.load:.1f} s) and "
            f"compilation ({compiled:.1f} s); prefill holds the document's own, which is computed once for all questions."
        )
    )


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _speed_up(answer: Answer, baseline: Answer) -> str:
    own, base = answer.tokens_per_second, baseline.tokens_per_second
    return _number(own / base if own and base else None)


_ROWS: dict[str, Callable[[Answer], str]] = {
    "tokens": lambda a: f"{len(a.token_ids)} ({a.finish_reason})",
    "target reads": lambda a: f"{a.target_tokens:,} tokens",
    "drafter reads": lambda a: f"{a.drafter_tokens:,} tokens" if a.drafter_tokens else "-",
    "retrieval s": lambda a: _number(a.seconds.retrieval),
    "prefill s": lambda a: _number(a.seconds.prefill),
    "decode s": lambda a: _number(a.seconds.decode),
    "tokens/s": lambda a: _number(a.tokens_per_second, 1),
    "tokens/step": lambda a: _number(a.acceptance.to_dict()["tokens_per_step"]),
    "kept/proposed": lambda a: _number(a.acceptance.to_dict()["kept_over_proposed"]),
    "kept/tested": lambda a: _number(a.acceptance.to_dict()["kept_over_tested"]),
}

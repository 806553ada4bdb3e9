"""Traces as a page: one HTML file without anything that is loaded from elsewhere."""

from __future__ import annotations

import functools
import html
import importlib.resources
from collections.abc import Sequence
from typing import Any

import jinja2
from markupsafe import Markup, escape

from rapid_jax.retrieval import Passage
from rapid_jax.tracing.quotes import quoted
from rapid_jax.tracing.trace import TARGET_WRITERS, Trace, TracedToken

FRAME_HEIGHT = 520  # pixels in a notebook
_SOURCES = 6  # colours of sources; further ones share the last
_CLASSES = dict(zip(TARGET_WRITERS.values(), ("alone", "instead", "bonus"), strict=True))


def page(traces: Sequence[Trace]) -> str:
    """The page of one answer, or of several answers one below the other.

    Args:
      traces: of answers.

    Raises:
      ValueError: no trace.
    """
    if not traces:
        raise ValueError("a page needs at least one trace, got none")
    return _template().render(answers=[_answer(trace) for trace in traces])


def frame(traces: Sequence[Trace]) -> str:
    """The page in a frame of its own, for notebooks: its styles reach nothing else, nor theirs it."""
    source = html.escape(page(traces), quote=True)
    return f'<iframe srcdoc="{source}" style="width:100%;height:{FRAME_HEIGHT}px;border:0"></iframe>'


@functools.cache
def _template() -> jinja2.Template:
    source = importlib.resources.files("rapid_jax.tracing").joinpath("page.html").read_text(encoding="utf-8")
    return jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(source)


def _answer(trace: Trace) -> dict[str, Any]:
    """What the template shows of a trace."""
    classes = dict(_CLASSES)
    for writer in (writer for writer in trace.writers if writer not in _CLASSES):
        classes[writer] = f"source{min(len(classes) - len(_CLASSES), _SOURCES - 1)}"
    text = "".join(token.text for token in trace.tokens)
    numbers = {step: number for number, step in enumerate(sorted({token.step for token in trace.tokens}))}
    tallest = max((step.emitted for step in trace.steps), default=1)
    return dict(
        method=trace.method,
        question=trace.question,
        tokens=[
            dict(text=t.text, step=numbers[t.step], kind=classes[t.writer], title=_title(trace, t, numbers))
            for t in trace.tokens
            if t.text
        ],
        legend=[dict(kind=classes[writer], writer=writer, tokens=count) for writer, count in trace.writers.items()],
        steps=[
            dict(
                accepted=step.accepted,
                own=step.emitted - step.accepted,
                title=f"step {number + 1}: {step.drafted} drafted, {step.accepted} accepted, {step.emitted} emitted",
            )
            for number, step in enumerate(trace.steps)
        ],
        tallest=tallest,
        tokens_per_step=len(trace.tokens) / max(len(trace.steps), 1),
        passages=[
            dict(score=passage.score, start=passage.start, end=passage.end, text=_marked(passage, text))
            for passage in trace.passages
        ],
    )


def _title(trace: Trace, token: TracedToken, numbers: dict[int, int]) -> str:
    """What is said of a token under the pointer."""
    number = numbers[token.step]
    step = trace.steps[number]
    said = f"step {number + 1} of {len(trace.steps)}: {step.drafted} drafted, {step.accepted} accepted\n{token.writer}"
    return said if token.refused is None else f"{said}: {token.refused!r}"


def _marked(passage: Passage, answer: str) -> Markup:
    """A passage with what the answer quotes of it marked."""
    parts, done = Markup(), 0
    for start, end in quoted(passage.text, answer):
        parts += escape(passage.text[done:start]) + Markup("<mark>{}</mark>").format(passage.text[start:end])
        done = end
    return parts + escape(passage.text[done:])

"""Answers out of what a batch has decoded: text, counts, seconds, and the settings that were in force."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rapid_jax.config.methods import OWN_SETTINGS, get_method
from rapid_jax.decoding.state import BurstReport
from rapid_jax.engine.answer import Acceptance, Answer, Seconds
from rapid_jax.engine.batch import Batch, Started
from rapid_jax.engine.length_rule import record_key
from rapid_jax.engine.request import Request
from rapid_jax.engine.session import Session
from rapid_jax.engine.text import TextRow
from rapid_jax.speculation import AcceptanceRecord
from rapid_jax.tracing import trace_of

if TYPE_CHECKING:
    from rapid_jax.engine.document import Document

_COUNTERS = ("steps", "proposed", "tested", "accepted", "drafter_forwards")
_KEPT_AS = ("weights", "drafter_weights", "kv")
_OF_ITS_KIND = {name for names in OWN_SETTINGS.values() for name in names}  # settings that other methods ignore


@dataclasses.dataclass(frozen=True)
class Clock:
    """Seconds of a run.

    Attributes:
      compiled_before: that the session had spent in compiling before it.
      first: from the first decoding step to the first tokens on the host.
      last: from the first decoding step to the last tokens on the host.
    """

    compiled_before: float
    first: float
    last: float


def make_answers(
    session: Session,
    request: Request,
    batch: Batch,
    started: Started,
    report: BurstReport,
    rows: Sequence[TextRow],
    clock: Clock,
) -> list[Answer]:
    """The answers of a batch that is done; the session learns how many drafted tokens were kept."""
    counters = report.counters
    tested, accepted = (int(x[: len(rows)].sum()) for x in (counters.tested, counters.accepted))
    if batch.decision is not None or (tested and batch.method.draws):
        key = record_key(get_method(batch.method.name), batch.speculation)
        with session.lock:
            seen = session.acceptance_seen.get(key, AcceptanceRecord())
            session.acceptance_seen[key] = seen.after(accepted, tested)
    prefill = batch.prefill_seconds + started.prefill_seconds
    seconds = Seconds(
        load=session.load_seconds,
        compile=session.programs.compile_seconds - clock.compiled_before,
        retrieval=batch.retrieval_seconds,
        prefill=prefill,
        decode=clock.last,
        first_token=batch.retrieval_seconds + prefill + clock.first,
    )
    settings, tokenizer = _settings(session, request, batch, started), session.target.tokenizer
    answers = []
    for index, (row, document) in enumerate(zip(rows, request.documents, strict=True)):
        retrieved = batch.retrieved[index] if batch.retrieved else None
        passages = tuple(map(document.in_source, retrieved.passages)) if retrieved else ()
        trace = trace_of(
            batch.method.name,
            request.questions[index],
            row.token_ids,
            row.pieces,
            row.text,
            np.asarray(report.origins[index]),
            sources=started.drafting.drafter.sources,
            text_of=lambda token: tokenizer.special_ids.get(token) or tokenizer.decode([token]),
            passages=passages,
        )
        answers.append(
            Answer(
                method=batch.method.name,
                question=request.questions[index],
                text=row.text.strip(),
                token_ids=tuple(row.token_ids),
                finish_reason=_finish_reason(row, batch.stop_ids),
                target_tokens=batch.target.prompt_tokens[index],
                drafter_tokens=batch.drafter_tokens[index],
                truncated_tokens=document.tokenized.truncated_tokens,
                passages=passages,
                below_threshold=bool(retrieved and retrieved.below_threshold),
                batch_size=len(rows),
                seconds=seconds,
                acceptance=_acceptance(started, report, index),
                database_bytes=started.drafting.database_bytes,
                settings=settings | _retrieval(request, batch, document),
                versions=session.versions,
                trace=trace,
            )
        )
    return answers


def _finish_reason(row: TextRow, stop_ids: tuple[int, ...]) -> str:
    if row.stopped:
        return "stopped" if row.interrupted else "stop_string"
    return "stop" if row.token_ids and row.token_ids[-1] in stop_ids else "length"


def _acceptance(started: Started, report: BurstReport, index: int) -> Acceptance:
    counters = {name: int(getattr(report.counters, name)[index]) for name in _COUNTERS}
    sources = started.drafting.drafter.sources
    by_source = dict(zip(sources, report.counters.by_source[index].tolist(), strict=True))
    return Acceptance(**counters, generated=int(report.num_tokens[index]), by_source=by_source)


def _settings(session: Session, request: Request, batch: Batch, started: Started) -> dict[str, Any]:
    """Everything that all answers depend on, JSON."""
    config = session.config
    settings = {**dataclasses.asdict(batch.speculation), **dataclasses.asdict(batch.sampling)}
    ignored = _OF_ITS_KIND - set(batch.method.own_settings)
    settings = {name: value for name, value in settings.items() if name not in ignored}
    settings |= {name: list(getattr(batch.sampling, name)) for name in ("stop", "from_checkpoint")}
    settings |= dict(gamma=batch.draft_length, eta=float(batch.controls.eta))
    if batch.decision is not None:
        settings["decision"] = batch.decision.to_dict()
    if batch.method.looks_up:
        databases = list(started.drafting.databases)
        settings["hierarchy"] = {**dataclasses.asdict(batch.hierarchy), "databases": databases}
    if batch.method.copies:
        settings["copying"] = {**dataclasses.asdict(batch.copying), "lengths": list(batch.copying.lengths)}
    settings["dtype"] = str(np.dtype(session.target.decoder.dtype))
    settings |= dict(mesh=list(config.mesh), drafter_mesh=list(config.drafter_mesh))
    settings["chat"] = dataclasses.asdict(config.chat)
    return settings | {name: getattr(config, name) for name in _KEPT_AS}


def _retrieval(request: Request, batch: Batch, document: Document) -> dict[str, Any]:
    """How passages of a row's document were retrieved, JSON."""
    if not batch.method.retrieves:
        return {}
    chosen = {} if request.max_chunks is None else {"max_chunks": request.max_chunks}
    return {"retrieval": {**document.index.settings, **chosen}}

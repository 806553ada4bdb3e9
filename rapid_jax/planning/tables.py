"""A prediction as tables and as a JSON object."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp

from rapid_jax.evaluation.tables import Table
from rapid_jax.planning import formulas
from rapid_jax.planning.compiled import Compiled
from rapid_jax.planning.cost import Work
from rapid_jax.planning.memory import Memory
from rapid_jax.planning.predict import Prediction
from rapid_jax.planning.shapes import context_shape
from rapid_jax.speculation import choose_gamma, crossing_length, speed_up, tokens_per_step

ACCEPTANCES = (0.5, 0.6, 0.7, 0.8, 0.9)
TOKENS_PER_STEP = (1.5, 2.0, 2.5, 3.5, 5.0)
_SHORTEST = 1024  # tokens, where the search for the crossing begins


def memory_table(memory: Memory, room: int) -> Table:
    """What lies on a chip, against what programs can have of it."""
    rows = [
        ("weights", memory.weights),
        ("document's keys and values", memory.document),
        ("passages' keys and values", memory.passages),
        ("keys and values that drafts read", memory.pages),
        ("questions and answers", memory.tails),
        ("temporaries and code", memory.temporaries),
        ("together, while decoding", memory.decoding),
        ("while the document is read", memory.prefill),
        ("peak", memory.peak),
        ("room", room),
    ]
    shown = tuple((name, f"{size / 1e9:,.3f}", f"{size / room:.1%}") for name, size in rows if size)
    return Table("memory", ("", "GB", "of the room"), shown)


def _programs(p: Prediction) -> list[tuple[str, Work]]:
    rows = [("prefill chunk, first", p.chunk_work(0)), ("prefill chunk, last", p.chunk_work(p.last_start))]
    rows.append((f"step of {p.baseline}", p.plain.work))
    if p.draft is not None:
        rows += [("forward that chooses pages", p.choosing.work)] if p.choosing is not None else []
        rows += [("drafter's forward", p.draft.work), (f"verify {p.rows + 1} tokens", p.verify)]
    return rows + [(name, step.work) for name, step in _steps(p)]


def _steps(p: Prediction) -> list[tuple[str, Compiled]]:
    """The steps that draft, by name."""
    name = f"step of {p.method.name}"
    if p.copied is not None:
        return [(f"{name}, own drafts", p.step), (f"{name}, a copy", p.copied)]
    return [(name, p.step)] if p.drafts else []


def work_table(p: Prediction) -> Table:
    """What the programs do on a chip, and the seconds that takes by the roofline."""
    rows = []
    for name, work in _programs(p):
        memory, arithmetic = work.bytes / p.rates.bytes_per_second, work.flops / p.rates.flops_per_second
        total = p.step_seconds if p.drafts and work is p.step.work else work.seconds(p.rates)
        wire = Work(0, 0, work.wire_bytes, work.hops).seconds(p.rates)
        cells = (f"{1e3 * x:,.3f}" for x in (memory, arithmetic, wire, total))
        rows.append((name, f"{work.bytes / 1e9:,.3f}", f"{work.flops / 1e9:,.1f}", *cells))
    columns = ("", "GB", "GFLOP", "memory ms", "arithmetic ms", "collectives ms", "roofline ms")
    share = p.plain.work.bytes / p.ideal_step_bytes
    note = f"A step of {p.baseline} moves {share:.3f} times the weights and keys and values that a chip holds of them."
    return Table("work", columns, tuple(rows), note)


def collectives_table(p: Prediction) -> Table:
    """Collectives of a chip: how many, and the bytes of their results."""
    programs: list[tuple[str, Compiled]] = [("prefill chunk", p.chunk), (f"step of {p.baseline}", p.plain), *_steps(p)]
    rows = [
        (name, kind, f"{group}", f"{times:,.0f}", f"{size / 1e6:,.3f}")
        for name, program in programs
        for (kind, group), (times, size) in sorted(program.collectives.items())
    ]
    note = "" if rows else "None: one chip."
    return Table("collectives", ("program", "kind", "among chips", "number", "MB"), tuple(rows), note)


def crossing_lengths(context: int) -> list[int]:
    """Context lengths to look at, doubling up to the one that was asked for."""
    lengths = [context]
    while lengths[0] // 2 >= _SHORTEST:
        lengths.insert(0, lengths[0] // 2)
    return lengths


def speeds(p: Prediction, acceptances: Iterable[float] = ACCEPTANCES) -> list[dict[str, Any]]:
    """Predicted decoding by acceptance: the asked gamma, the best one, and from which context on that wins."""
    costs, batch, gamma = p.costs(), p.workload.batch, p.workload.gamma
    rows = []
    for acceptance in acceptances:
        best = choose_gamma(costs, acceptance)
        rows.append(
            dict(
                acceptance=acceptance,
                tokens_per_second=batch * tokens_per_step(acceptance, gamma) / costs.step(gamma),
                speed_up=speed_up(costs, acceptance, gamma),
                best_gamma=best,
                best_tokens_per_second=batch * tokens_per_step(acceptance, best) / costs.step(best),
                best_speed_up=speed_up(costs, acceptance, best),
                wins_everywhere=all(
                    speed_up(p.costs(n), acceptance, best) >= 1 for n in crossing_lengths(p.read_tokens)
                ),
                wins_from=crossing_length(p.costs, acceptance, best, crossing_lengths(p.read_tokens)),
            )
        )
    return rows


def copied_speeds(p: Prediction) -> list[dict[str, float]]:
    """Predicted decoding by the tokens that a step with a draft from a text emits, the next one included."""
    costs, batch = p.copied_costs, p.workload.batch
    seconds = costs.step(p.rows)
    return [
        dict(tokens_per_step=n, tokens_per_second=batch * n / seconds, speed_up=n * costs.plain / seconds)
        for n in TOKENS_PER_STEP
        if n <= p.longest + 1
    ]


def speed_tables(p: Prediction) -> list[Table]:
    """Predicted seconds of prefill and tokens a second, by what a step keeps of its drafts."""
    base = p.workload.batch / p.costs().plain
    title = f"predicted: prefill {p.prefill_seconds():,.1f} s, {p.baseline} {base:,.1f} tokens/s"
    if not p.drafts:
        return [Table(title, ("",), (), _saved(p))]
    tables = [_drafted_table(p, title)] if p.draft is not None else []
    if p.from_text:
        tables.append(_copied_table(p, "with copied drafts" if tables else title, "" if tables else _saved(p)))
    return tables


def _drafted_table(p: Prediction, title: str) -> Table:
    gamma = p.workload.gamma
    rows = []
    for one in speeds(p):
        start = f"{_SHORTEST:,}" if one["wins_everywhere"] else "-"
        if one["wins_from"] is not None:
            start = f"{float(format(one['wins_from'], '.3g')):,.0f}"
        rows.append(
            (
                f"{one['acceptance']:.1f}",
                f"{one['tokens_per_second']:,.1f}",
                f"{one['speed_up']:.2f}",
                f"{one['best_gamma']}",
                f"{one['best_tokens_per_second']:,.1f}",
                f"{one['best_speed_up']:.2f}",
                start,
            )
        )
    columns = (
        "acceptance", f"tokens/s, gamma {gamma}", "speed-up", "best gamma", "tokens/s", "speed-up", "wins from, tokens",
    )  # fmt: skip
    note = (
        f"Speed-ups are over {p.baseline}. The last column is for the best gamma; - where it loses even at this length."
    )
    if p.method.looks_up:
        note += f" A forward of the drafter is assumed to yield {p.emitted:g} tokens."
    return Table(title, columns, tuple(rows), f"{note} {_saved(p)}".strip())


def _saved(p: Prediction) -> str:
    """What keeping the document on disk takes, and when it pays."""
    if not p.method.reads_document:
        return ""
    rate = p.saved_bytes / p.reading_seconds(p.workload.context)
    return (
        f"Saved, the document's keys and values take {p.saved_bytes / 1e9:,.1f} GB. Opening them is faster than "
        f"reading the document where disks give more than {rate / 1e9:,.1f} GB/s."
    )


def _copied_table(p: Prediction, title: str, more: str) -> Table:
    rows = [
        (f"{one['tokens_per_step']:.1f}", f"{one['tokens_per_second']:,.1f}", f"{one['speed_up']:.2f}")
        for one in copied_speeds(p)
    ]
    note = f"Speed-ups are over {p.baseline}. A step verifies {p.rows + 1} rows; what it emits depends on the text."
    return Table(title, ("tokens/step", "tokens/s", "speed-up"), tuple(rows), f"{note} {more}".strip())


def to_dict(p: Prediction, topology: str) -> dict[str, Any]:
    """Everything as a JSON object, in bytes, seconds and tokens; figures of one chip."""
    mesh = p.plan.mesh
    collectives = {
        name: [dict(kind=k, chips=n, number=t, bytes=b) for (k, n), (t, b) in program.collectives.items()]
        for name, program in (("chunk", p.chunk), ("plain", p.plain), ("step", p.step), ("copied", p.copied))
        if program is not None
    }
    return dict(
        topology=topology,
        mesh=None if mesh is None else dict(mesh.shape),
        method=p.method.name,
        weights=p.plan.weights or jnp.dtype(p.plan.dtype).name,
        drafter_weights=p.plan.drafter.weights or jnp.dtype(p.plan.dtype).name,
        kv=p.plan.kv or jnp.dtype(p.plan.dtype).name,
        workload={**dataclasses.asdict(p.workload), "retrieved": p.workload.retrieved},
        rates=dataclasses.asdict(p.rates),
        memory={**vars(p.memory), "prefill": p.memory.prefill, "decoding": p.memory.decoding, "peak": p.memory.peak},
        work={name: {**vars(work), "seconds": work.seconds(p.rates)} for name, work in _programs(p)},
        collectives=collectives,
        kv_bytes_per_token=formulas.kv_bytes_per_token(context_shape(p.plan, p.workload.context, p.workload.chunk)),
        prefill_seconds=p.prefill_seconds(),
        saved_document_bytes=p.saved_bytes,
        baseline=p.baseline,
        baseline_tokens_per_second=p.workload.batch / p.costs().plain,
        speeds=speeds(p) if p.draft is not None else [],
        copied_speeds=copied_speeds(p) if p.from_text else [],
    )

"""Answers questions about unseen archives and scores the answers, by context length, method and task.

    python -m launch.evaluate --lengths=2048,8192 --methods=lc,rapid --archives=4 --limit=16 --output=out.jsonl

Fact and whole-document questions are scored by exact match, choices by their letter, dossiers by ROUGE-L. The seeds of
the archives lie outside those that the embedded model was trained on.
"""

from __future__ import annotations

import contextlib
import json
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from absl import flags

from launch import cli, config_flag
from rapid_jax.config import EngineConfig
from rapid_jax.methods import METHODS, get_method

if TYPE_CHECKING:
    from rapid_jax.engine import Engine
    from rapid_jax.evaluation.harness import Item

_LENGTHS = flags.DEFINE_list("lengths", ["2048", "8192"], "Tokens of the archives.")
_METHODS = flags.DEFINE_list("methods", ["lc"], f"One or more of {', '.join(METHODS)}.")
_ARCHIVES = flags.DEFINE_integer("archives", 4, "Archives of each length.", lower_bound=1)
_LIMIT = flags.DEFINE_integer("limit", 16, "Questions of each task about each archive at most.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch", 8, "Questions decoded together.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 1_000_000, "Seed of the first archive; the next ones count on.", lower_bound=0)
_OUTPUT = flags.DEFINE_string("output", None, "Write one JSON object an answer to this file (replaced if it exists).")
flags.adopt_module_key_flags(cli)
flags.adopt_module_key_flags(config_flag)


def main() -> None:
    """Checks the flags, then evaluates length by length."""
    try:
        config = EngineConfig.from_mapping(config_flag.values())
        methods = [get_method(name.strip()).name for name in dict.fromkeys(_METHODS.value)]
    except ValueError as e:
        raise cli.UsageError(str(e)) from e
    from rapid_jax.evaluation.archive import MIN_TOKENS

    if not all(length.strip().isdigit() and int(length) >= MIN_TOKENS for length in _LENGTHS.value):
        raise cli.UsageError(f"--lengths must be whole numbers of at least {MIN_TOKENS} tokens, got {_LENGTHS.value}")
    if not methods or not _LENGTHS.value:
        raise cli.UsageError("--methods and --lengths must name at least one each")
    if _OUTPUT.value is not None:
        cli.check_writable("output", _OUTPUT.value)

    from rapid_jax.engine import Engine

    cli.use_compilation_cache()
    with cli.progress("loading", "B") as progress:
        engine = Engine.load(config=config, progress=progress)
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(open(_OUTPUT.value, "w", encoding="utf-8")) if _OUTPUT.value else None
        for length in map(int, _LENGTHS.value):
            scores: dict[tuple[str, str], list[float]] = defaultdict(list)
            speeds: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
            for item in _items(engine, length, methods):
                key = item.answer.method, item.question.task
                scores[key].append(item.score)
                speeds[key].append((item.answer.acceptance.generated, item.answer.acceptance.steps))
                if output is not None:
                    output.write(json.dumps(item.to_dict(), ensure_ascii=False) + "\n")
                    output.flush()
            _print(length, methods, scores, speeds)


def _items(engine: Engine, length: int, methods: list[str]) -> Iterator[Item]:
    from rapid_jax.evaluation.archive import make_archive
    from rapid_jax.evaluation.harness import evaluate, sample_questions

    count = engine.target.tokenizer
    for number in range(_ARCHIVES.value):
        seed = _SEED.value + number
        archive = make_archive(length, seed, lambda part: len(count.encode(part)))
        questions = [q for group in sample_questions(archive, _LIMIT.value, seed).values() for q in group]
        with cli.progress(f"{length:,} tokens, archive {number + 1} of {_ARCHIVES.value}", "answers") as progress:
            document = engine.read(archive.document, prefill=False)
            total = len(questions) * len(methods)
            for done, item in enumerate(evaluate(engine, document, length, questions, methods, batch=_BATCH.value), 1):
                progress(done, total)
                yield item


def _print(length: int, methods: list[str], scores: dict, speeds: dict) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from rapid_jax.evaluation.archive import TASKS
    from rapid_jax.evaluation.harness import mean_and_error

    table = Table(title=f"{length:,} tokens", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in ("method", "task"):
        table.add_column(name)
    for name in ("questions", "score", "std. error", "tokens/step"):
        table.add_column(name, justify="right")
    for method in methods:
        for task in TASKS:
            values = scores[method, task]
            if values:
                mean, error = mean_and_error(values)
                tokens, steps = (sum(column) for column in zip(*speeds[method, task], strict=True))
                figures = (f"{len(values)}", f"{mean:.3f}", f"{error:.3f}", f"{tokens / steps:.2f}" if steps else "-")
                table.add_row(method, task, *figures)
    Console(highlight=False).print(table)


if __name__ == "__main__":
    cli.start(main, config_flag.parse)

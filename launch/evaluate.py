"""Measures quality and speed of methods on a benchmark; continues where it was stopped.

    python -m launch.evaluate --benchmark=archive --methods=lc,rag,sd,rapid --limit=20 --output=out
    python -m launch.evaluate --config=configs/llama31_8b.py --target=PATH --benchmark=longbench_v2 --data=data.json \
        --context_lengths=120000 --methods=lc,rapid --output=out
    python -m launch.report out

Every answer is a line of OUTPUT/results.jsonl as soon as it is there. A sweep asks every method once for each value of
a setting that concerns it: --sweep=eta=0,5,10,20 --sweep=unrelated=true,false. `archive` makes its own documents (or
reads what launch.make_archive wrote), `dialogue` has a made file of dialogues, `reference` asks about the reference of
the Python language; the others need --data. A question that cannot be asked, such as a bad record of the data, is
recorded as failed with its reason; the others go on, and the exit status is 1. --shard=I/N asks every N-th document, as
one of N independent jobs whose directories launch.report merges. configs/official_rapid.py repeats RAPID's published
evaluation.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags, logging

from launch import cli, config_flag, distributed
from rapid_jax.config import EngineConfig, embedded
from rapid_jax.config.checks import MOST_ROWS, MOST_TOKENS
from rapid_jax.config.methods import METHODS
from rapid_jax.evaluation.archive import MIN_TOKENS
from rapid_jax.evaluation.benchmarks import BENCHMARKS
from rapid_jax.evaluation.results import FAILED, SHARD
from rapid_jax.evaluation.shards import Part, Shard
from rapid_jax.evaluation.variation import NAMES, Variation, parse_sweep

if TYPE_CHECKING:
    from rapid_jax.config.evaluation import EvaluationConfig
    from rapid_jax.engine.engine import Document, Engine
    from rapid_jax.evaluation.benchmarks.base import Benchmark, Source
    from rapid_jax.evaluation.report import Report
    from rapid_jax.evaluation.runner import EvaluationPlan

_BENCHMARK = flags.DEFINE_enum("benchmark", "archive", BENCHMARKS, "What is asked.")
_DATA = flags.DEFINE_string("data", None, "File or directory of the benchmark's data.")
_TARGET = flags.DEFINE_string("target", None, "The long-context model: directory, FILE.gguf, package:NAME or hub name.")
_DRAFTER = flags.DEFINE_string("drafter", None, "Checkpoint of the drafter; the target's own parameters if not given.")
_METHODS = flags.DEFINE_list("methods", ["lc", "rapid"], f"One or more of {', '.join(METHODS)}.")
_OUTPUT = flags.DEFINE_string("output", None, "Directory of the results; none keeps them only until the end.")
_LENGTHS = flags.DEFINE_list(
    "context_lengths", None, "Tokens of archives and histories, or of the prompts that longer ones are cut to."
)
_LIMIT = flags.DEFINE_integer(
    "limit", None, "Questions of each task (and archive) at most.", lower_bound=1, upper_bound=MOST_TOKENS
)
_NEW_TOKENS = flags.DEFINE_integer(
    "max_new_tokens",
    None,
    "Tokens of an answer at most, at every turn; where the benchmark allows fewer, its own limit holds.",
    lower_bound=1,
    upper_bound=MOST_TOKENS,
)
_TASKS = flags.DEFINE_list("tasks", None, "Tasks or groups that are asked, all if not given.")
_ARCHIVES = flags.DEFINE_integer("archives", 4, "Archives of each length.", lower_bound=1, upper_bound=MOST_TOKENS)
_BATCH = flags.DEFINE_integer(
    "batch", 8, "Questions about one document that are decoded together.", lower_bound=1, upper_bound=MOST_ROWS
)
_ACROSS = flags.DEFINE_bool(
    "across_documents", False, "Questions that do not fill a batch of their document are batched across documents."
)
_SEED = flags.DEFINE_integer(
    "seed", None, "Seed of the first archive, or of the histories.", lower_bound=0, upper_bound=2**62
)
_SWEEP = flags.DEFINE_multi_string("sweep", [], f"NAME=VALUE,... with a NAME of {', '.join(NAMES)}; may come again.")
_SAMPLING = flags.DEFINE_enum("sampling", "benchmark", ("benchmark", "config"), "Whose temperature and top_p hold.")
_COT = flags.DEFINE_bool("cot", False, "longbench_v2: let the model reason first, then answer.")
_PROMPTS = flags.DEFINE_string(
    "prompts", None, "longbench_v2 and infinitebench: directory of prompt templates, such as the official ones."
)
_DATABASES = flags.DEFINE_enum(
    "databases",
    "rebuilt",
    ("rebuilt", "kept"),
    "What n-gram databases know at the next turn of a conversation: its messages, or also what drafting them taught.",
)
_SHARD = flags.DEFINE_string(
    "shard", None, "I/N: ask every N-th document, as job I of 0 to N-1; launch.report merges the results of all."
)
_RULES = flags.DEFINE_integer(
    "rules",
    0,
    "Questions of each task to measure the verification rules on: total variation and acceptance.",
    lower_bound=0,
)
flags.adopt_module_key_flags(cli)
flags.adopt_module_key_flags(config_flag)
flags.adopt_module_key_flags(distributed)

_DEFAULT_LENGTHS = {
    "archive": (2048, 8192),
    "dialogue": (8192,),
    "infinitebench": (0,),
    "longbench_v2": (0,),
    "reference": (2048,),
    "specbench": (0,),
}
_DEFAULT_ARCHIVE_SEED = 1_000_000  # outside those that the embedded model was trained on


@distributed.joined()
def main() -> None:
    """Checks the flags, loads, answers length by length, and prints the tables."""
    config = config_flag.comparing(config_flag.engine_config(target=_TARGET.value, drafter=_DRAFTER.value))
    methods, variations, lengths, shard = _methods(), _variations(), _lengths(), _shard()
    if _NEW_TOKENS.value and any(variation.get("max_new_tokens") for variation in variations):
        raise cli.UsageError("--max_new_tokens holds for all answers and --sweep varies it; leave one of them out")
    directory = Path(_OUTPUT.value) if _OUTPUT.value is not None else None
    if directory is not None and directory.exists() and not directory.is_dir():
        raise NotADirectoryError(f"--output={directory} is a file; name a directory")
    if _PROMPTS.value is not None and _BENCHMARK.value not in ("infinitebench", "longbench_v2"):
        raise cli.UsageError(f"--prompts is for infinitebench and longbench_v2, this is --benchmark={_BENCHMARK.value}")
    if _BENCHMARK.value in ("infinitebench", "longbench_v2", "specbench") and not _DATA.value:
        raise cli.UsageError(f"--benchmark={_BENCHMARK.value} needs --data=PATH: its data is not in the repository")

    from launch import printing
    from rapid_jax.engine.engine import Engine
    from rapid_jax.engine.loading import check_checkpoints
    from rapid_jax.evaluation.compilation import compiled_line, recording_compilation
    from rapid_jax.evaluation.report import Report
    from rapid_jax.evaluation.runner import EvaluationPlan

    made = _BENCHMARK.value in ("archive", "dialogue", "reference")  # to their length; other prompts are cut to it
    paths = [embedded.checkpoint(config.target), *_drafters(config, variations)]
    distributed.on_all(lambda: check_checkpoints(paths, config))
    if made:
        _check_room(config, max(lengths))
    tokenizer = _tokenizer(config)
    benchmarks = [_benchmark(length, lambda text: len(tokenizer.encode(text)), config.evaluation) for length in lengths]
    part = Part.of(shard, benchmarks) if shard else None
    plans = [
        EvaluationPlan(
            benchmark=benchmarks[number],
            context_length=length,
            methods=methods,
            variations=variations,
            batch=_BATCH.value,
            prompt_tokens=0 if made else length,
            keep_databases=_DATABASES.value == "kept",
            questions=part.asked(number) if part else None,
            across_documents=_ACROSS.value,
        )
        for number, length in enumerate(lengths)
    ]
    config = _with_date(_with_sampling(config, plans))
    distributed.check_same("the benchmark's data", [plan.benchmark.fingerprint for plan in plans])
    cli.use_compilation_cache()
    with contextlib.ExitStack() as stack:
        if directory is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        with cli.progress("loading", "B") as progress:
            engine = distributed.on_all(lambda: Engine.load(config=config, progress=progress))
        distributed.on_all(lambda: engine.require([METHODS[name] for name in methods]))
        programs = engine.session.programs
        with cli.showing_compilation(programs), recording_compilation(directory, programs, write=distributed.is_main()):
            _answer(engine, plans, directory, part)
            unmeasured = _measure_rules(engine, plans, directory) if _RULES.value else 0
        report = Report(directory) if distributed.is_main() else None
        for heading, tables in report.tables() if report else ():
            printing.print_tables(heading, tables)
        failed = distributed.from_main(lambda: _failed(report, unmeasured))
    if distributed.is_main():
        printing.print_line(f"\n{compiled_line(programs.count, programs.compile_seconds)}")
    if _OUTPUT.value is not None and distributed.is_main():
        print(f"python -m launch.report {_OUTPUT.value} makes a page of it")
        if part:
            print(f"or, given the directories of all {part.shard.count} shards and --output=MERGED, one of the whole")
    if failed:
        raise ValueError(failed)


def _failed(report: Report | None, unmeasured: int) -> str:
    """How many questions could not be asked, in one line; empty where all could."""
    if report is None or not (report.failures or unmeasured):
        return ""
    answered = sum(len(one.records) for one in report.series)
    parts = []
    if report.failures:
        first = report.failures[0]
        parts.append(
            f"{len(report.failures)} of {answered + len(report.failures)} answers failed, the first: {first['item']} "
            f"with {first['method']}: {first[FAILED]}"
        )
    if unmeasured:
        parts.append(f"--rules could not measure {unmeasured} questions; their warnings say why")
    return "; ".join(parts)


def _answer(engine: Engine, plans: list[EvaluationPlan], directory: Path, part: Part | None) -> None:
    from rapid_jax.evaluation.runner import run
    from rapid_jax.evaluation.store import open_store

    manifest = {
        "benchmark": {
            "name": _BENCHMARK.value,
            "context_lengths": [plan.context_length for plan in plans],
            "fingerprints": [plan.benchmark.fingerprint for plan in plans],
            "batch": _BATCH.value,
            "databases": _DATABASES.value,
            **({"max_new_tokens": _NEW_TOKENS.value} if _NEW_TOKENS.value else {}),
            **({"across_documents": True} if _ACROSS.value else {}),
        },
        "config": engine.config.to_dict(),
        "versions": {**engine.versions, "processors": os.cpu_count()},
        **({SHARD: part.to_dict()} if part else {}),
    }
    with open_store(directory, manifest) as store:
        for plan in plans:
            what = f"{plan.context_length:,} tokens" if plan.context_length else plan.benchmark.name
            with cli.progress(what, "answers") as progress:
                for _ in run(engine, plan, store, progress):
                    pass


def _measure_rules(engine: Engine, plans: list[EvaluationPlan], directory: Path) -> int:
    """Measures the distribution shift of the verification rules; how many questions could not be asked."""
    from rapid_jax.evaluation import distribution_shift
    from rapid_jax.evaluation.benchmarks.selection import Selection, restricted
    from rapid_jax.evaluation.distribution_shift_table import write_shifts
    from rapid_jax.evaluation.runner import FAULTS

    records: list[dict[str, Any]] = []
    done = failed = 0
    for plan in plans:
        chosen = Selection(plan.benchmark, limit=_RULES.value)
        sources = [source for source in restricted(chosen.sources(), plan.questions) if source.text]
        total = sum(len(source.items) for source in sources)
        with cli.progress("rules", "questions") as progress:
            for source in sources:
                document: Document | None = None
                for item in source.items:
                    where = {"context_length": plan.context_length, "item": item.id, "task": item.task}
                    try:
                        document = document or _read(engine, source, chosen.template)
                        records += distribution_shift.measure(engine, document, item, where)
                    except FAULTS as error:
                        logging.warning("%s cannot be measured: %s", item.id, error)
                        failed += 1
                    done += 1
                    progress(done, total)
    if distributed.is_main():
        write_shifts(directory, records)
    return failed


def _read(engine: Engine, source: Source, template: str) -> Document:
    return engine.read(
        source.text,
        template=source.template or template,
        drafter_template=source.passages_template or None,
        prefill=False,
    )


def _benchmark(length: int, count_tokens: Callable[[str], int], settings: EvaluationConfig) -> Benchmark:
    """What is asked at one length, with answers as short as --max_new_tokens says."""
    from rapid_jax.evaluation.benchmarks.shortened import Shortened

    made = _whole_benchmark(length, count_tokens, settings)
    return Shortened(made, _NEW_TOKENS.value) if _NEW_TOKENS.value else made


def _whole_benchmark(length: int, count_tokens: Callable[[str], int], settings: EvaluationConfig) -> Benchmark:
    from rapid_jax.evaluation.archive import TASKS as ARCHIVE_TASKS
    from rapid_jax.evaluation.benchmarks.archive import ArchiveBenchmark
    from rapid_jax.evaluation.benchmarks.dialogue import DialogueBenchmark
    from rapid_jax.evaluation.benchmarks.infinitebench import InfiniteBench
    from rapid_jax.evaluation.benchmarks.longbench_v2 import LongBenchV2
    from rapid_jax.evaluation.benchmarks.reference import ReferenceBenchmark
    from rapid_jax.evaluation.benchmarks.selection import Selection
    from rapid_jax.evaluation.benchmarks.spec_bench import SpecBench

    name, data, limit = _BENCHMARK.value, embedded.located(_DATA.value or ""), _LIMIT.value
    choices = settings.retrieval_query == "question_and_choices"
    of_archives: dict[str, Any] = {"query_with_choices": choices, "tasks": _TASKS.value or ARCHIVE_TASKS}
    if name == "archive" and data:
        return ArchiveBenchmark.read(data, seed=_SEED.value or 0, limit=limit, keep_bad=True, **of_archives)
    if name == "archive":
        seed = _DEFAULT_ARCHIVE_SEED if _SEED.value is None else _SEED.value
        return ArchiveBenchmark.made(
            length, count_tokens, archives=_ARCHIVES.value, seed=seed, limit=limit or 16, **of_archives
        )
    if name == "dialogue":
        path = data or embedded.DIALOGUES
        return DialogueBenchmark(
            path, tokens=length, count_tokens=count_tokens, limit=limit, seed=_SEED.value or 0, keep_bad=True
        )
    made: Benchmark
    if name == "infinitebench":
        made = InfiniteBench(data, prompts=_PROMPTS.value, keep_bad=True, query_with_choices=choices)
    elif name == "longbench_v2":
        made = LongBenchV2(data, prompts=_PROMPTS.value, cot=_COT.value, settings=settings, keep_bad=True)
    elif name == "reference":
        made = ReferenceBenchmark(length, count_tokens)
    else:
        made = SpecBench(data, keep_bad=True)
    return Selection(made, names=_TASKS.value or (), limit=limit)


def _with_date(config: EngineConfig) -> EngineConfig:
    """The config with the template's date of the results that are there, so that a run goes on on another day."""
    from rapid_jax.evaluation.store import MANIFEST, read_manifest

    if _OUTPUT.value is None or config.chat.date or not (Path(_OUTPUT.value) / MANIFEST).exists():
        if _SHARD.value is not None and not config.chat.date:
            logging.warning("--shard without --config.chat.date=YEAR-MONTH-DAY: different days do not fit together")
        return config
    chat = read_manifest(Path(_OUTPUT.value))["config"].get("chat", {})
    date = chat.get("date", "") if isinstance(chat, dict) else ""
    return dataclasses.replace(config, chat=dataclasses.replace(config.chat, date=date))


def _with_sampling(config: EngineConfig, plans: list[EvaluationPlan]) -> EngineConfig:
    """The config with room for the longest answer, and with the benchmark's own temperature unless told otherwise."""
    items = [item for plan in plans for source in plan.benchmark.sources() for item in source.items]
    fields = dict(plans[0].benchmark.sampling) if _SAMPLING.value == "benchmark" else {}
    fields["max_new_tokens"] = max(item.max_new_tokens for item in items)
    return dataclasses.replace(config, sampling=dataclasses.replace(config.sampling, **fields))


def _methods() -> list[str]:
    found = config_flag.methods(_METHODS)
    retrieving = [method.name for method in found if method.retrieves]
    if _BENCHMARK.value == "specbench" and retrieving:
        raise cli.UsageError(f"--methods: {retrieving[0]} retrieves, and specbench has no documents to retrieve from")
    if _BENCHMARK.value == "specbench" and _RULES.value:
        raise cli.UsageError("--rules needs passages, and specbench has no documents to retrieve from")
    return [method.name for method in found]


def _variations() -> list[Variation]:
    try:
        return parse_sweep(_SWEEP.value)
    except ValueError as e:
        raise cli.UsageError(f"--sweep: {e}") from e


def _shard() -> Shard | None:
    if _SHARD.value is None:
        return None
    if _OUTPUT.value is None:
        raise cli.UsageError("--shard needs --output=DIR: its results are kept to be merged with those of the others")
    try:
        return Shard.parse(_SHARD.value)
    except ValueError as e:
        raise cli.UsageError(f"--shard: {e}") from e


def _is_length(text: str) -> bool:
    return text.isdecimal() and len(text) < 10 and MIN_TOKENS <= int(text) <= MOST_TOKENS


def _lengths() -> list[int]:
    if _LENGTHS.value is None:
        return [0] if _BENCHMARK.value == "archive" and _DATA.value else list(_DEFAULT_LENGTHS[_BENCHMARK.value])
    texts = [length.strip() for length in _LENGTHS.value]
    if not texts or not all(_is_length(text) for text in texts):
        raise cli.UsageError(
            f"--context_lengths must be whole numbers of at least {MIN_TOKENS} tokens and at most {MOST_TOKENS:,}, got "
            f"{texts}"
        )
    return list(dict.fromkeys(map(int, texts)))


def _drafters(config: EngineConfig, variations: list[Variation]) -> list[str]:
    """Checkpoints that draft, other than the target."""
    named = [config.drafter, *(variation.get("drafter", "") for variation in variations)]
    return [path for path in dict.fromkeys(named) if path and path != config.target]


def _check_room(config: EngineConfig, length: int) -> None:
    """What is made to a length must not be cut: its questions would have no answer."""
    from models import checkpoint
    from rapid_jax.engine.engine import QUESTION_RESERVE

    room = checkpoint.read_config(embedded.checkpoint(config.target)).max_position - 2 * QUESTION_RESERVE
    if length > room:
        raise ValueError(f"--context_lengths: {length} tokens are more than the model has room for, {room}")


def _tokenizer(config: EngineConfig) -> Any:
    from models.tokenizer import load_tokenizer

    return load_tokenizer(embedded.checkpoint(config.target))


if __name__ == "__main__":
    cli.start(main, config_flag.parse)

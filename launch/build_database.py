"""Builds the static databases that drafts are looked up in (hierarchy drafting, arXiv 2502.05609).

    python -m launch.build_database --kind=model --output=model-database
    python -m launch.build_database --kind=corpus --output=corpus-database
    python -m launch.build_database --kind=model --target=PATH --prompts=prompts.jsonl --output=DIR
    python -m launch.build_database --kind=corpus --target=PATH --corpus=a.txt,b.jsonl --output=DIR

`model` lets the target answer prompts and keeps the n-grams that it writes most often. Prompts are lines of a text file
or records with a field "prompt", "question" or "turns"; with --document all are questions about it. Every answer is a
line of OUTPUT/answers/results.jsonl as soon as it is there, and a stopped build goes on from there. `corpus` makes
suffix arrays of text files (one document each) and of records with a field "text" or "context". Without files both take
generated archives, other ones than those of launch.evaluate.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from launch import cli, config_flag, distributed
from rapid_jax.config import EngineConfig, embedded
from rapid_jax.config.checks import MOST_ROWS, MOST_TOKENS
from rapid_jax.config.methods import Method, get_method
from rapid_jax.databases.limits import KEPT, MAX_SHARD_TOKENS, MOST_NGRAMS, SHARD_TOKENS
from rapid_jax.evaluation.archive import MIN_TOKENS

if TYPE_CHECKING:
    from models.tokenizer import Tokenizer
    from rapid_jax.database_building.prompts import Prompts
    from rapid_jax.databases.manifest import Manifest
    from rapid_jax.evaluation.benchmarks.base import Benchmark

MOST_ARCHIVES = 1_000_000

_KIND = flags.DEFINE_enum("kind", None, ("model", "corpus"), "Which database is built.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "Directory of the database; made if need be.", required=True)
_TARGET = flags.DEFINE_string("target", None, "The target model: directory, FILE.gguf, package:NAME or hub name.")
_ARCHIVES = flags.DEFINE_integer(
    "archives", 16, "Archives that are generated where no files are given.", lower_bound=1, upper_bound=MOST_ARCHIVES
)
_TOKENS = flags.DEFINE_integer(
    "tokens", 2048, "Tokens of each of them at most.", lower_bound=MIN_TOKENS, upper_bound=MOST_TOKENS
)

_PROMPTS = flags.DEFINE_string("prompts", None, "model: file of prompts.")
_DOCUMENT = flags.DEFINE_string("document", None, "model: text file that all prompts are questions about.")
_METHOD = flags.DEFINE_string("method", "lc", "model: how the target answers.")
_BATCH = flags.DEFINE_integer(
    "batch", 8, "model: questions about a document decoded together.", lower_bound=1, upper_bound=MOST_ROWS
)
_NEW_TOKENS = flags.DEFINE_integer(
    "max_new_tokens", None, "model: tokens of an answer at most.", lower_bound=1, upper_bound=MOST_TOKENS
)
_KEEP = flags.DEFINE_integer("ngrams", KEPT, "model: n-grams kept at most.", lower_bound=1, upper_bound=MOST_NGRAMS)

_CORPUS = flags.DEFINE_list("corpus", None, "corpus: files, one after another.")
_SHARD = flags.DEFINE_integer(
    "shard_tokens",
    SHARD_TOKENS,
    "corpus: tokens of a suffix array; sorting takes about 45 bytes for each.",
    lower_bound=2,
    upper_bound=MAX_SHARD_TOKENS,
)
flags.adopt_module_key_flags(cli)
flags.adopt_module_key_flags(config_flag)
flags.adopt_module_key_flags(distributed)

_OF_KIND = {
    "model": ("prompts", "document", "method", "batch", "max_new_tokens", "ngrams"),
    "corpus": ("corpus", "shard_tokens"),
}
_OF_ARCHIVES = ("archives", "tokens")


@distributed.joined()
def main() -> None:
    """Checks everything that is quick to check, then builds what is not there yet and prints its size."""
    kind = _KIND.value
    method, config = _check_flags(kind), _config()
    if Path(_OUTPUT.value).exists() and not Path(_OUTPUT.value).is_dir():
        raise NotADirectoryError(f"--output={_OUTPUT.value} is a file; name a directory")
    if kind == "corpus":
        if distributed.several():
            raise cli.UsageError("--kind=corpus runs on one host alone: leave the flags of several hosts out")
        _build_corpus(config)
    else:
        _build_model(config, method)


def _build_corpus(config: EngineConfig) -> None:
    from rapid_jax.database_building import documents

    paths = [Path(name.strip()) for name in _CORPUS.value or ()]
    documents.check_files(paths)

    from rapid_jax.database_building.build import build_corpus_database, corpus_settings
    from rapid_jax.database_building.manifest import finished
    from rapid_jax.evaluation.benchmarks.files import fingerprint

    directory, tokenizer = Path(_OUTPUT.value), _tokenizer(config)
    corpus: dict[str, Any] = {"archives": _ARCHIVES.value, "tokens": _TOKENS.value, "seed": documents.FIRST_SEED}
    if paths:
        corpus = {"files": [path.name for path in paths], "fingerprint": fingerprint({}, *paths)}
    manifest = finished(directory, "corpus", tokenizer, corpus_settings(corpus, _SHARD.value))
    was_there = manifest is not None
    if manifest is None:
        with cli.progress("corpus", "B" if paths else "archives") as progress:
            texts = (
                documents.read_documents(paths, progress)
                if paths
                else documents.archive_documents(_ARCHIVES.value, _TOKENS.value, _counter(tokenizer), progress)
            )
            manifest = build_corpus_database(
                texts,
                tokenizer,
                directory,
                target_name=_name(config),
                corpus=corpus,
                shard_tokens=_SHARD.value,
            )
    from rapid_jax.databases.suffix_array import StatisticsDatabase

    _print(manifest, StatisticsDatabase.open(directory, tokenizer).nbytes, was_there)


def _build_model(config: EngineConfig, method: Method) -> None:
    prompts = _prompts(config)

    from rapid_jax.database_building.build import build_model_database, model_settings
    from rapid_jax.database_building.manifest import finished
    from rapid_jax.databases.manifest import read_manifest
    from rapid_jax.databases.ngram_table import NgramTable
    from rapid_jax.engine.engine import Engine
    from rapid_jax.engine.loading import check_checkpoints
    from rapid_jax.evaluation.runner import EvaluationPlan
    from rapid_jax.evaluation.variation import Variation

    directory = Path(_OUTPUT.value)
    if not method.drafts_from_passages:
        config = dataclasses.replace(config, drafter="")
    paths = [embedded.checkpoint(config.target), *([config.drafter] if config.drafter else [])]
    distributed.on_all(lambda: check_checkpoints(paths, config))
    tokenizer = _tokenizer(config)
    benchmark: Benchmark = prompts or _archives(config, tokenizer)
    items = [item for source in benchmark.sources() for item in source.items]
    most = _NEW_TOKENS.value or max(item.max_new_tokens for item in items)
    config = dataclasses.replace(config, sampling=dataclasses.replace(config.sampling, max_new_tokens=most))
    variation = Variation((("max_new_tokens", most),) if _NEW_TOKENS.value else ())
    plan = EvaluationPlan(benchmark, 0, [method.name], [variation], _BATCH.value)
    asked = {
        "prompts": {"name": benchmark.name, "fingerprint": benchmark.fingerprint, "batch": _BATCH.value},
        "method": method.name,
        "variation": variation.to_dict(),
        "config": config.to_dict(),
    }
    was_there = distributed.from_main(
        lambda: finished(directory, "model", tokenizer, model_settings(asked, _KEEP.value)) is not None
    )
    if not was_there:
        cli.use_compilation_cache()
        with cli.progress("loading", "B") as progress:
            engine = distributed.on_all(lambda: Engine.load(config=config, progress=progress))
        with cli.progress("answering", "answers") as progress, cli.showing_compilation(engine.session.programs):
            build_model_database(
                engine,
                plan,
                directory,
                target_name=_name(config),
                asked=asked,
                keep=_KEEP.value,
                progress=progress,
            )
    if distributed.is_main():
        _print(read_manifest(directory, "model"), NgramTable.open(directory, tokenizer).nbytes, was_there)


def _check_flags(kind: str) -> Method:
    """The method, once no flag is left that means nothing here."""
    for other, names in _OF_KIND.items():
        for name in names:
            if other != kind and _is_given(name):
                raise cli.UsageError(f"--{name} is for --kind={other}, this is --kind={kind}")
    files = _PROMPTS if kind == "model" else _CORPUS
    if _is_given(files.name):
        named = [files.value] if isinstance(files.value, str) else files.value
        if not named or not all(name.strip() for name in named):
            raise cli.UsageError(f"--{files.name} has an empty name in it; name files")
        for name in filter(_is_given, _OF_ARCHIVES):
            raise cli.UsageError(f"--{name} is for generated archives, and --{files.name} names files")
    for holder in (_OUTPUT, _DOCUMENT):
        if holder.value is not None and not holder.value.strip():
            raise cli.UsageError(f"--{holder.name} is empty")
    if _is_given("document") and not _is_given("prompts"):
        raise cli.UsageError("--document without --prompts; give a file of questions about it")
    try:
        method = get_method(_METHOD.value)
    except ValueError as e:
        raise cli.UsageError(f"--method: {e}") from e
    if method.retrieves and _is_given("prompts") and not _is_given("document"):
        raise cli.UsageError(f"--method={method.name} retrieves, and prompts alone have no document; give --document")
    return method


def _is_given(name: str) -> bool:
    return bool(flags.FLAGS[name].present)


def _config() -> EngineConfig:
    config = config_flag.engine_config(target=_TARGET.value)
    if _NEW_TOKENS.value is None:
        return config
    return dataclasses.replace(config, sampling=dataclasses.replace(config.sampling, max_new_tokens=_NEW_TOKENS.value))


def _prompts(config: EngineConfig) -> Prompts | None:
    """The user's prompts, if there are any."""
    if _PROMPTS.value is None:
        return None
    from rapid_jax.database_building.documents import read_text
    from rapid_jax.database_building.prompts import Prompts

    return Prompts(
        Path(_PROMPTS.value),
        document="" if _DOCUMENT.value is None else read_text(Path(_DOCUMENT.value)),
        template=config.prompt,
        max_new_tokens=config.sampling.max_new_tokens,
    )


def _archives(config: EngineConfig, tokenizer: Tokenizer) -> Benchmark:
    """All questions about generated archives, each about its own."""
    from models import checkpoint
    from rapid_jax.database_building.documents import FIRST_SEED
    from rapid_jax.engine.engine import QUESTION_RESERVE
    from rapid_jax.evaluation.benchmarks.archive import ArchiveBenchmark

    room = checkpoint.read_config(embedded.checkpoint(config.target)).max_position - 2 * QUESTION_RESERVE
    if _TOKENS.value > room:
        raise ValueError(f"--tokens: {_TOKENS.value} tokens are more than the model has room for, {room}")
    return ArchiveBenchmark.made(
        _TOKENS.value, _counter(tokenizer), archives=_ARCHIVES.value, seed=FIRST_SEED, limit=None, scored=False
    )


def _tokenizer(config: EngineConfig) -> Tokenizer:
    from models.tokenizer import load_tokenizer

    return load_tokenizer(embedded.checkpoint(config.target))


def _counter(tokenizer: Tokenizer) -> Any:
    return lambda text: len(tokenizer.encode(text))


def _name(config: EngineConfig) -> str:
    return config.target or "the embedded model"


def _print(manifest: Manifest, device_bytes: int, was_there: bool) -> None:
    from launch import printing
    from rapid_jax.database_building.build import bytes_on_disk
    from rapid_jax.evaluation.tables import Table

    parts = ("n-grams", manifest.ngrams) if manifest.kind == "model" else ("shards", manifest.shards)
    columns = {
        "documents": manifest.documents,
        "tokens": manifest.tokens,
        parts[0]: parts[1],
        "bytes on disk": bytes_on_disk(Path(_OUTPUT.value)),
        "bytes on the device": device_bytes,
    }
    cells = tuple(f"{value:,}" for value in columns.values())
    note = "It was there already: nothing was done." if was_there else ""
    table = Table("", ("kind", *columns), ((manifest.kind, *cells),), note)
    printing.print_tables(_OUTPUT.value, [table])


if __name__ == "__main__":
    cli.start(main, config_flag.parse)

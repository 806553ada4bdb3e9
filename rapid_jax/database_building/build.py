"""Making the databases: a model's own text counted, a corpus sorted."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from models import hosts
from models.tokenizer import Tokenizer
from rapid_jax import __version__
from rapid_jax.database_building.manifest import write_manifest
from rapid_jax.database_building.ngrams import count_ngrams, make_table, save_table
from rapid_jax.database_building.suffix_arrays import remove_shards, write_shards
from rapid_jax.databases.limits import KEPT, NGRAM, SHARD_TOKENS
from rapid_jax.databases.manifest import FILE, Manifest
from rapid_jax.engine.engine import Engine
from rapid_jax.evaluation.results import FAILED, check_result
from rapid_jax.evaluation.runner import EvaluationPlan, run
from rapid_jax.evaluation.store import open_store, read_results
from rapid_jax.evaluation.writing import naming

ANSWERS = "answers"  # directory of what the model wrote, inside the database's


def build_model_database(
    engine: Engine,
    plan: EvaluationPlan,
    directory: Path,
    *,
    target_name: str,
    asked: Mapping[str, Any],
    keep: int = KEPT,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Lets the target answer and counts the n-grams of its answers.

    Every answer is on disk before the next one is begun; a build that was stopped goes on from there.

    Args:
      engine: with the model that the database is for.
      plan: the prompts and the way in which they are answered.
      directory: where the database is written, made if need be.
      target_name: of the engine's target, for messages.
      asked: settings that the answers depend on, JSON; answers of other settings are not mixed with these.
      keep: n-grams kept at most.
      progress: called with (answers, prompts).

    Raises:
      ValueError: the directory holds answers of other settings, or a prompt has no room in the model.
      OSError: another process writes there, or the directory cannot be written.
    """
    with open_store(directory / ANSWERS, {**asked, "versions": engine.versions}) as store:
        for _ in run(engine, plan, store, progress):
            pass

        def count() -> dict[str, Any]:
            return dataclasses.asdict(_count_answers(engine, directory, target_name, model_settings(asked, keep), keep))

        return Manifest(**hosts.from_main(count))


def _count_answers(
    engine: Engine, directory: Path, target_name: str, settings: Mapping[str, Any], keep: int
) -> Manifest:
    """Counts the n-grams of the answers that a directory holds, and writes them beside."""
    records = [record for record in read_results(directory / ANSWERS, check_result) if FAILED not in record]
    if not records:
        raise ValueError(f"every prompt failed, so there is nothing to count; {directory / ANSWERS} says why")
    answers = [turn["token_ids"] for record in records for turn in record["turns"]]
    ngrams, _ = count_ngrams(answers, NGRAM, keep=keep)
    table = make_table(ngrams, vocab_size=engine.target.config.vocab_size)
    save_table(directory, table)
    tokenizer = engine.target.tokenizer
    manifest = Manifest(
        kind="model",
        tokenizer=tokenizer.fingerprint,
        tokenizer_name=target_name,
        vocab_size=tokenizer.vocab_size,
        documents=len(answers),
        tokens=sum(map(len, answers)),
        order=NGRAM,
        ngrams=len(table.values),
        shards=0,
        generated_by=target_name,
        settings=settings,
        versions=engine.versions,
    )
    write_manifest(directory, manifest)
    return manifest


def model_settings(asked: Mapping[str, Any], keep: int) -> dict[str, Any]:
    """The settings that a model database is made with, as its manifest has them."""
    return {**asked, "ngram": NGRAM, "keep": keep}


def build_corpus_database(
    texts: Iterable[str],
    tokenizer: Tokenizer,
    directory: Path,
    *,
    target_name: str,
    corpus: Mapping[str, Any],
    shard_tokens: int = SHARD_TOKENS,
) -> Manifest:
    """Tokenises documents and sorts their suffixes, shard by shard. A build that was stopped begins again.

    Args:
      texts: the documents, taken one at a time.
      tokenizer: of the model that the database is for.
      directory: where the database is written, made if need be.
      target_name: of the checkpoint that the tokenizer belongs to, for messages.
      corpus: what the texts are, JSON.
      shard_tokens: tokens of a shard at most.

    Raises:
      ValueError: shard_tokens out of range, or no tokens at all.
      OSError: the directory cannot be written.
    """
    with naming(directory):
        directory.mkdir(parents=True, exist_ok=True)
    remove_shards(directory)
    written = write_shards(map(tokenizer.encode, texts), directory, shard_tokens=shard_tokens)
    packages = {name: importlib.metadata.version(name) for name in ("numpy", "transformers", "pydivsufsort")}
    manifest = Manifest(
        kind="corpus",
        tokenizer=tokenizer.fingerprint,
        tokenizer_name=target_name,
        vocab_size=tokenizer.vocab_size,
        documents=written.documents,
        tokens=written.tokens,
        order=0,
        ngrams=0,
        shards=written.shards,
        generated_by="",
        settings=corpus_settings(corpus, shard_tokens),
        versions={"rapid_jax": __version__, "python": platform.python_version(), **packages},
    )
    write_manifest(directory, manifest)
    return manifest


def corpus_settings(corpus: Mapping[str, Any], shard_tokens: int) -> dict[str, Any]:
    """The settings that a corpus database is made with, as its manifest has them."""
    return {"corpus": dict(corpus), "shard_tokens": shard_tokens}


def bytes_on_disk(directory: Path) -> int:
    """Size of a database's files, the answers that it was counted from left out."""
    return sum(path.stat().st_size for path in [*directory.glob("*.npy"), directory / FILE])

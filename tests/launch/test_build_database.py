"""launch.build_database as a user starts it: both kinds, being killed, and bad input in one line."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from models.tokenizer import load_tokenizer
from rapid_jax.database_building.documents import FIRST_SEED
from rapid_jax.database_building.ngrams import count_ngrams, make_table
from rapid_jax.databases import ngram_table, suffix_array
from rapid_jax.databases.ngram_table import NgramTable
from rapid_jax.databases.suffix_array import StatisticsDatabase
from rapid_jax.evaluation.archive import make_archive
from rapid_jax.evaluation.store import read_results

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = [f"Who keeps the lantern in house {number}?" for number in range(5)]


@pytest.fixture
def build(launch, tiny_checkpoint):
    """A function: flags -> Outcome of launch.build_database for the tiny checkpoint."""
    return functools.partial(
        launch, "build_database", f"--target={tiny_checkpoint}", "--config.dtype=float32", "--config.prefill_chunk=256"
    )


@pytest.fixture
def model(build, tmp_path, document_text):
    """A function: name of the directory and more flags -> Outcome of a small model database about a document."""
    (tmp_path / "document.txt").write_text(document_text)
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    files = (f"--prompts={tmp_path}/prompts.txt", f"--document={tmp_path}/document.txt")

    def run(name, *flags):
        return build("--kind=model", f"--output={tmp_path / name}", *files, "--batch=2", "--max_new_tokens=12", *flags)

    return run


def check(outcome, status, message):
    assert outcome.status == status, outcome.err
    assert outcome.err.startswith("error: ") and outcome.err.count("\n") == 1
    assert message in outcome.err


def cells(outcome):
    """The printed table: column -> number."""
    lines = [line for line in outcome.out.splitlines() if line.strip()]
    heading = next(index for index, line in enumerate(lines) if line.startswith("kind "))
    names = [name.strip() for name in lines[heading].split("  ") if name.strip()]
    values = lines[heading + 2].split()
    return dict(zip(names, [values[0], *(int(value.replace(",", "")) for value in values[1:])], strict=True))


def files(directory):
    return {path.name: path.read_bytes() for path in directory.glob("*.npy")}


def answers(directory):
    return [record["turns"][0]["token_ids"] for record in read_results(directory / "answers")]


def test_a_model_database_holds_what_the_target_wrote(model, tmp_path, tiny_checkpoint):
    outcome = model("db")
    assert outcome.status == 0, outcome.err
    tokenizer = load_tokenizer(tiny_checkpoint)
    table = NgramTable.open(tmp_path / "db", tokenizer)
    written = answers(tmp_path / "db")
    assert len(written) == len(PROMPTS)
    wanted = make_table(count_ngrams(written)[0], vocab_size=264)
    assert wanted.values.shape[0] > 0
    np.testing.assert_array_equal(table.values, wanted.values)
    np.testing.assert_array_equal(table.offsets, wanted.offsets)
    first = written[0]
    tokens, lengths = ngram_table.lookup(table, jnp.array(first[:1]), 7)
    assert first[1:5] in [t for t, n in zip(tokens[0].tolist(), lengths[0].tolist(), strict=True) if n == 4]
    manifest = json.loads((tmp_path / "db" / "manifest.json").read_text())
    assert manifest["generated_by"] == manifest["tokenizer_name"] == str(tiny_checkpoint)
    assert manifest["settings"]["method"] == "lc" and manifest["order"] == 5
    assert cells(outcome) == {
        "kind": "model",
        "documents": 5,
        "tokens": sum(map(len, written)),
        "n-grams": len(table.values),
        "bytes on disk": sum(path.stat().st_size for path in (tmp_path / "db").glob("*.*")),
        "bytes on the device": table.nbytes,
    }


@pytest.mark.slow
def test_a_stopped_build_goes_on_where_it_stopped(model, tmp_path, monkeypatch):
    """Stopped between two answers, the next line half written: nothing is asked twice, and the table is the same."""
    assert model("whole").status == 0
    from rapid_jax.evaluation.store import ResultStore

    append = ResultStore.append

    def stopping(store, records):
        if len(store._done) >= 2:
            raise KeyboardInterrupt
        append(store, records)

    with monkeypatch.context() as patch:
        patch.setattr(ResultStore, "append", stopping)
        assert model("stopped").status == 130
    results = tmp_path / "stopped" / "answers" / "results.jsonl"
    begun = results.read_bytes()
    assert begun.count(b"\n") == 2
    assert not (tmp_path / "stopped" / "manifest.json").exists()
    results.write_bytes(begun + b'{"key": "prompts|0|prom')
    assert model("stopped").status == 0
    assert results.read_bytes().startswith(begun)
    assert answers(tmp_path / "stopped") == answers(tmp_path / "whole")
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")


@pytest.mark.slow
def test_a_build_killed_at_random_moments_is_the_undisturbed_one(tmp_path):
    """kill -9, several times, on the embedded model and generated archives."""
    flags = ["--kind=model", "--archives=1", "--tokens=300", "--batch=2", f"--compilation_cache_dir={tmp_path}/cache"]
    command = [sys.executable, "-m", "launch.build_database", *flags]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    subprocess.run([*command, f"--output={tmp_path}/whole"], cwd=ROOT, env=environment, check=True)
    for seconds in (4.0, 5.0, 6.0, 4.5):
        process = subprocess.Popen([*command, f"--output={tmp_path}/killed"], cwd=ROOT, env=environment)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run([*command, f"--output={tmp_path}/killed"], cwd=ROOT, env=environment, check=True)
    keys = [[record["key"] for record in read_results(tmp_path / name / "answers")] for name in ("whole", "killed")]
    assert sorted(keys[0]) == sorted(keys[1]) and len(set(keys[1])) == len(keys[1])
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_a_finished_database_is_not_made_again_and_never_overwritten(model, tmp_path, monkeypatch):
    assert model("db", "--ngrams=3").status == 0
    before = files(tmp_path / "db")

    def load(*_, **__):
        raise AssertionError("the model was loaded for nothing")

    monkeypatch.setattr("models.load", load, raising=False)
    again = model("db", "--ngrams=3")
    assert again.status == 0 and "It was there already: nothing was done." in again.out
    assert cells(again)["n-grams"] == 3
    check(model("db"), 1, "with keep = 3, this one would have 100000: name another directory")
    check(model("db", "--ngrams=3", "--batch=1"), 1, "with prompts.batch = 2, this one would have 1")
    (tmp_path / "prompts.txt").write_text("Whose is it?")
    check(model("db", "--ngrams=3"), 1, "with prompts.fingerprint = ")
    assert files(tmp_path / "db") == before


def test_answers_of_other_settings_are_not_mixed(model, tmp_path, monkeypatch):
    """A stopped build that is continued with another flag would count two models' words."""
    with monkeypatch.context() as patch:
        patch.setattr(
            "rapid_jax.database_building.build.count_ngrams", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        assert model("db").status == 130
    check(model("db", "--config.sampling.seed=1"), 1, "holds results with config.sampling.seed = 0, this run has 1")
    assert model("db").status == 0


def test_prompts_without_a_document_are_conversations(build, tmp_path, tiny_checkpoint):
    """Every turn of a conversation is text of the model's own."""
    lines = [{"turns": ["Who sings?", "And who dances?"]}, {"prompt": "Why?"}]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    flags = ("--kind=model", f"--prompts={tmp_path}/p.jsonl", "--max_new_tokens=8", f"--output={tmp_path}/db")
    outcome = build(*flags)
    assert outcome.status == 0, outcome.err
    turns = [[turn["token_ids"] for turn in record["turns"]] for record in read_results(tmp_path / "db" / "answers")]
    assert [len(turn) for turn in turns] == [2, 1]
    table = cells(outcome)
    assert (table["documents"], table["tokens"]) == (3, sum(len(ids) for turn in turns for ids in turn))
    NgramTable.open(tmp_path / "db", load_tokenizer(tiny_checkpoint))


@pytest.mark.slow
def test_without_files_archives_are_asked_about(build, tmp_path, tiny_checkpoint):
    """The command of one line; archives that no evaluation uses."""
    sizes = ("--archives=1", "--tokens=300", "--max_new_tokens=6")
    outcome = build("--kind=model", f"--output={tmp_path}/db", *sizes)
    assert outcome.status == 0, outcome.err
    tokenizer = load_tokenizer(tiny_checkpoint)
    archive = make_archive(300, FIRST_SEED, lambda text: len(tokenizer.encode(text)))
    records = read_results(tmp_path / "db" / "answers")
    assert len(records) == len(archive.questions) == cells(outcome)["documents"]
    assert max(len(record["turns"][0]["token_ids"]) for record in records) <= 6


def test_a_corpus_database_finds_what_stands_in_the_files(build, tmp_path, tiny_checkpoint):
    (tmp_path / "a.txt").write_text("the lantern is lit. the lantern is lit. the lantern is out.")
    (tmp_path / "b.jsonl").write_text('{"text": "a lantern"}\n{"context": "the lantern is lost"}\n')
    flags = ("--kind=corpus", f"--corpus={tmp_path}/a.txt,{tmp_path}/b.jsonl", "--shard_tokens=40")
    outcome = build(*flags, f"--output={tmp_path}/db")
    assert outcome.status == 0, outcome.err
    tokenizer = load_tokenizer(tiny_checkpoint)
    database = StatisticsDatabase.open(tmp_path / "db", tokenizer)
    table = cells(outcome)
    assert table["documents"] == 3 and table["shards"] == len(database.shards) > 1
    assert table["bytes on the device"] == database.nbytes
    assert table["bytes on disk"] == sum(path.stat().st_size for path in (tmp_path / "db").iterdir())
    last = jnp.asarray([tokenizer.encode(" l")], jnp.int32)
    for budget in (0, database.nbytes):
        tokens, lengths = suffix_array.lookup(*database.on_device(budget, length=3), last, 3)
        texts = [tokenizer.decode(t[:n]) for t, n in zip(tokens[0].tolist(), lengths[0].tolist(), strict=True)]
        assert texts == ["ant", "it.", "ost"]
    again = build(*flags, f"--output={tmp_path}/db")
    assert again.status == 0 and "nothing was done" in again.out
    (tmp_path / "a.txt").write_text("other words")
    check(build(*flags, f"--output={tmp_path}/db"), 1, "holds a finished database with corpus.fingerprint = ")
    check(build("--kind=model", f"--output={tmp_path}/db"), 1, "is a database of kind corpus, not model")


def test_an_unfinished_corpus_begins_again(build, tmp_path):
    """Shards without a manifest may be half written."""
    (tmp_path / "a.txt").write_text("some words of a short text")
    (tmp_path / "db").mkdir()
    np.save(tmp_path / "db" / "shard-00007.tokens.npy", np.zeros(3, np.int32))
    outcome = build("--kind=corpus", f"--corpus={tmp_path}/a.txt", f"--output={tmp_path}/db")
    assert outcome.status == 0, outcome.err
    assert sorted(files(tmp_path / "db")) == ["shard-00000.suffixes.npy", "shard-00000.tokens.npy"]


def test_archives_make_a_corpus_for_the_embedded_model(launch, tmp_path):
    """The command of one line, with the tokenizer that the default target has."""
    sizes = ("--archives=2", "--tokens=128")
    outcome = launch("build_database", "--kind=corpus", f"--output={tmp_path}/db", *sizes)
    assert outcome.status == 0, outcome.err
    tokenizer = load_tokenizer(ROOT / "assets" / "archivist")
    archives = [make_archive(128, FIRST_SEED + n, lambda text: len(tokenizer.encode(text))) for n in range(2)]
    assert cells(outcome)["documents"] == sum(1 + len(archive.questions) for archive in archives)


MODEL, CORPUS = "--kind=model", "--kind=corpus"
WRONG_FLAGS = [
    (["--kind=both"], "--kind=both"),
    ([MODEL, "--output="], "--output is empty"),
    ([CORPUS, "--prompts=p.txt"], "--prompts is for --kind=model, this is --kind=corpus"),
    ([CORPUS, "--ngrams=5"], "--ngrams is for --kind=model"),
    ([CORPUS, "--batch=8"], "--batch is for --kind=model"),
    ([MODEL, "--corpus=a.txt"], "--corpus is for --kind=corpus, this is --kind=model"),
    ([MODEL, "--shard_tokens=64"], "--shard_tokens is for --kind=corpus"),
    ([MODEL, "--prompts=p.txt", "--archives=2"], "--archives is for generated archives, and --prompts names files"),
    ([CORPUS, "--corpus=a.txt", "--tokens=64"], "--tokens is for generated archives, and --corpus names files"),
    ([MODEL, "--document=d.txt"], "--document without --prompts"),
    ([MODEL, "--prompts="], "--prompts has an empty name in it"),
    ([MODEL, "--prompts=p.txt", "--document="], "--document is empty"),
    ([CORPUS, "--corpus="], "--corpus has an empty name in it"),
    ([CORPUS, "--corpus=a.txt,,b.txt"], "--corpus has an empty name in it"),
    ([MODEL, "--method=fast"], "--method: unknown method 'fast'; known: lc"),
    ([MODEL, "--prompts=p.txt", "--method=rag"], "--method=rag retrieves, and prompts alone have no document"),
    ([MODEL, "--batch=0"], "--batch=0"),
    ([MODEL, "--max_new_tokens=0"], "--max_new_tokens=0"),
    ([MODEL, "--ngrams=0"], "--ngrams=0"),
    ([MODEL, "--archives=0"], "--archives=0"),
    ([MODEL, "--tokens=63"], "--tokens=63"),
    ([CORPUS, "--shard_tokens=1"], "--shard_tokens=1"),
    ([CORPUS, f"--shard_tokens={2**31}"], f"--shard_tokens={2**31}"),
    *(
        ([kind, f"--{name}={10**20}"], f"--{name}={10**20}")
        for kind, name in (
            (MODEL, "batch"),
            (MODEL, "max_new_tokens"),
            (MODEL, "ngrams"),
            (MODEL, "archives"),
            (MODEL, "tokens"),
            (CORPUS, "archives"),
            (CORPUS, "tokens"),
            (CORPUS, "shard_tokens"),
        )
    ),
    ([MODEL, "--config.nothing=1"], "unknown config field nothing"),
    ([MODEL, "stray"], "unexpected argument 'stray'"),
]


@pytest.mark.parametrize(("flags", "message"), WRONG_FLAGS, ids=[" ".join(flags) for flags, _ in WRONG_FLAGS])
def test_a_wrong_flag_is_one_line_before_anything_is_read(launch, tmp_path, flags, message):
    outcome = launch("build_database", f"--output={tmp_path}/db", *flags)
    check(outcome, 2, message)
    assert list(tmp_path.iterdir()) == []


def test_what_must_be_given_is_asked_for(launch, tmp_path):
    check(launch("build_database", f"--output={tmp_path}/db"), 2, "--kind")
    check(launch("build_database", "--kind=model"), 2, "--output")


@pytest.fixture
def unread(monkeypatch):
    """Fails a test that loads a model's weights."""

    def load(*_, **__):
        raise AssertionError("a model was loaded before the error was found")

    monkeypatch.setattr("models.load", load, raising=False)


BAD_FILES = [
    ([MODEL, "--prompts={tmp}/none.txt"], "none.txt: no such file"),
    ([MODEL, "--prompts={tmp}"], "is a directory; name a file"),
    ([MODEL, "--prompts={tmp}/empty.txt"], "empty.txt is empty"),
    ([MODEL, "--prompts={tmp}/bad.jsonl"], "bad.jsonl, line 2: not a prompt"),
    ([MODEL, "--prompts={tmp}/good.txt", "--document={tmp}/none.txt"], "none.txt: no such file"),
    ([MODEL, "--prompts={tmp}/good.txt", "--document={tmp}/binary.txt"], "binary.txt is a binary file"),
    ([MODEL, "--prompts={tmp}/good.txt", "--output={tmp}/good.txt"], "good.txt is a file; name a directory"),
    ([MODEL, "--tokens=8000"], "--tokens: 8000 tokens are more than the model has room for"),
    ([MODEL, "--target={tmp}/none"], "none is not a directory"),
    ([CORPUS, "--target={tmp}/none"], "none is not a directory"),
    ([CORPUS, "--corpus={tmp}/good.txt,{tmp}/none.txt"], "none.txt: no such file"),
    ([CORPUS, "--corpus={tmp}/empty.txt"], "empty.txt is empty"),
    ([CORPUS, "--corpus={tmp}/bad.jsonl"], "bad.jsonl, line 1: no field 'text' or 'context'"),
    ([CORPUS, "--output={tmp}/unsound"], "unsound/manifest.json is not the manifest of a database"),
    ([CORPUS, "--config={tmp}/none.py"], "none.py: no such file"),
]


@pytest.mark.parametrize(("flags", "message"), BAD_FILES, ids=[" ".join(flags) for flags, _ in BAD_FILES])
def test_a_bad_file_is_one_line(build, unread, tmp_path, flags, message):
    (tmp_path / "good.txt").write_text("Who?")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "binary.txt").write_bytes(b"a\x00b")
    (tmp_path / "bad.jsonl").write_text('{"prompt": "x"}\n{"body": "y"}\n')
    (tmp_path / "unsound").mkdir()
    (tmp_path / "unsound" / "manifest.json").write_text("{}")
    check(build(f"--output={tmp_path}/db", *(flag.format(tmp=tmp_path) for flag in flags)), 1, message)


def test_a_wrong_flag_loads_neither_jax_nor_transformers(tmp_path):
    """The error of a misspelt flag must not take seconds."""
    program = f"""
import runpy, sys
sys.argv = ["build_database", "--output={tmp_path}/db", *FLAGS]
try:
    runpy.run_module("launch.build_database", run_name="__main__", alter_sys=True)
except SystemExit as stopped:
    print(stopped.code, sorted({{"jax", "flax", "transformers"}} & set(sys.modules)))
"""
    for flags, status in (
        (["--kind=model", "--ngrams=0"], 2),
        (["--kind=model", "--prompts=none.txt"], 1),
        (["--kind=corpus", "--corpus=none.txt"], 1),
    ):
        command = [sys.executable, "-c", program.replace("FLAGS", repr(flags))]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.stdout == f"{status} []\n", done.stderr

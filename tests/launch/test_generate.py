"""launch.generate: what a user asks for is what is printed and written."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from jax.experimental.compilation_cache import compilation_cache

ROOT = Path(__file__).resolve().parents[2]
METHODS = ["lc", "rag", "sd", "rapid"]
QUESTION = "Who keeps the ferry Harrow?"
SETTINGS = {"gamma", "eta", "tail", "residual", "alpha", "temperature", "top_k", "top_p", "max_new_tokens", "seed"}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory, share_programs):
    """A directory of compiled programs that the tests of this file share."""
    compilation_cache.reset_cache()  # the next compilation takes the directory that a flag names
    yield tmp_path_factory.mktemp("compiled")
    share_programs()


@pytest.fixture(scope="module")
def ask(generate, compiled, tiny_checkpoint, document_text, tmp_path_factory):
    """A function: flags -> (what was printed, the objects written), on the tiny checkpoint, eight new tokens."""
    directory = tmp_path_factory.mktemp("generate")
    (directory / "document.txt").write_text(document_text, encoding="utf-8")

    def run(*flags, stdin=b"", context=None):
        output = directory / "out.jsonl"
        outcome = generate(
            f"--target={tiny_checkpoint}",
            f"--context_file={context or directory / 'document.txt'}",
            f"--query={QUESTION}",
            "--max_new_tokens=8",
            f"--compilation_cache_dir={compiled}",
            f"--output={output}",
            *flags,
            "--config.speculation.length_rule=none",
            stdin=stdin,
        )
        assert outcome.status == 0, outcome.err
        return outcome, [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]

    return run


@pytest.fixture(scope="module")
def four(ask):
    """All four methods in one run, with passages."""
    return ask("--method=lc,rag,sd,rapid", "--show_passages")


@pytest.fixture(scope="module")
def plain(ask):
    """LC alone."""
    return ask("--method=lc")


def messages(text):
    """Lines of standard error, progress of a slow machine left out."""
    return [line for line in text.splitlines() if not line.startswith(("prefill: ", "loading: ", "compiling: "))]


@pytest.fixture
def program(tiny_checkpoint, compiled, document_text, tmp_path):
    """A function: flags -> the options of subprocess.run for a real run."""
    (tmp_path / "document.txt").write_text(document_text, encoding="utf-8")
    fixed = [f"--target={tiny_checkpoint}", f"--context_file={tmp_path}/document.txt", f"--query={QUESTION}"]
    fixed += ["--method=lc", "--max_new_tokens=8", f"--compilation_cache_dir={compiled}", "--store="]

    def options(*flags):
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
        command = [sys.executable, "-m", "launch.generate", *fixed, *flags]
        return dict(args=command, cwd=ROOT, env=environment, capture_output=True, text=True)

    return options


def test_one_object_a_method_in_the_order_asked_for(four):
    assert [answer["method"] for answer in four[1]] == METHODS


def test_an_object_holds_every_field_that_scripts_read(four):
    for answer in four[1]:
        assert answer["question"] == QUESTION
        assert isinstance(answer["text"], str)
        assert answer["token_ids"] and all(isinstance(token, int) for token in answer["token_ids"])
        assert answer["finish_reason"] in ("stop", "length")
        assert set(answer["context"]) >= {"target_tokens", "drafter_tokens", "truncated_tokens", "passages"}
        seconds = answer["seconds"]
        assert set(seconds) == {"first_token", "load", "compile", "retrieval", "prefill", "decode", "total"}
        assert all(value >= 0 for value in seconds.values())
        parts = seconds["retrieval"] + seconds["prefill"] + seconds["decode"]
        assert seconds["total"] == pytest.approx(parts, abs=1e-5)
        assert answer["tokens_per_second"] == pytest.approx(len(answer["token_ids"]) / seconds["decode"], rel=1e-3)
        acceptance = answer["acceptance"]
        assert set(acceptance) == {
            *("steps", "proposed", "tested", "accepted"),
            *("tokens_per_step", "kept_over_tested", "kept_over_proposed"),
            *("drafter_forwards", "forwards_per_drafted_token", "accepted_by_source"),
        }
        assert set(answer["settings"]) >= SETTINGS
        assert set(answer["versions"]) >= {"rapid_jax", "python", "jax", "flax"}


def test_the_counts_of_a_method_are_those_of_its_kind(four):
    lc, rag, sd, rapid = four[1]
    for answer in (lc, rag):
        assert answer["settings"]["gamma"] == 0 and answer["acceptance"]["proposed"] == 0
        assert answer["acceptance"]["kept_over_tested"] is None
        assert answer["acceptance"]["steps"] == len(answer["token_ids"])
        assert answer["context"]["drafter_tokens"] == 0
    for answer in (sd, rapid):
        acceptance = answer["acceptance"]
        assert acceptance["proposed"] == acceptance["steps"] * answer["settings"]["gamma"]
        assert acceptance["accepted"] <= acceptance["tested"] <= acceptance["proposed"]
        assert answer["context"]["drafter_tokens"] == rag["context"]["target_tokens"]
    assert lc["context"]["passages"] == []
    assert (sd["settings"]["eta"], rapid["settings"]["eta"]) == (0, 4)


def test_passages_are_those_of_the_document(four, document_text):
    outcome, (_, rag, sd, rapid) = four
    assert rag["context"]["passages"] == sd["context"]["passages"] == rapid["context"]["passages"]
    for passage in rag["context"]["passages"]:
        assert document_text[passage["start"] : passage["end"]] == passage["text"]
        assert passage["text"].strip() in outcome.out
        assert f"characters {passage['start']:,}-{passage['end']:,}" in outcome.out


def test_the_table_sets_the_methods_side_by_side(four):
    out = four[0].out
    rows = {line[:24].strip(): line[24:].split() for line in out.splitlines()}
    assert any(line.split() == METHODS for line in out.splitlines())
    names = (
        "answer",
        "first token, s",
        "all, s",
        "decoding, s",
        "decoding, tokens/s",
        "tokens/step",
        "acceptance, of tested",
        "speed-up over lc",
    )
    for name in names:
        assert len(rows[name]) == 4
    assert rows["speed-up over lc"][0] == "1.00"
    assert [int(n) for n in rows["tokens"]] == [len(answer["token_ids"]) for answer in four[1]]
    assert "Timings exclude compilation" in out
    assert max(map(len, out[out.index("answer") :].splitlines())) <= 80


def test_an_answer_like_an_earlier_one_is_not_printed_twice(four):
    outcome, (lc, _, sd, _) = four
    assert sd["text"] == lc["text"]
    assert "sd:\n(the same as lc)" in outcome.out


def test_answers_go_to_standard_output_and_nothing_to_standard_error(plain):
    outcome, (answer,) = plain
    assert answer["text"] in outcome.out
    assert "lc:" in outcome.out and QUESTION in outcome.out
    assert messages(outcome.err) == []


def test_one_method_has_no_speed_up(plain):
    assert "speed-up over" not in plain[0].out


def test_streaming_prints_the_same_text(ask, plain):
    outcome, (answer,) = ask("--method=lc", "--stream")
    assert answer["token_ids"] == plain[1][0]["token_ids"]
    assert f"lc:\n{answer['text']}\n" in outcome.out


def test_standard_input_is_read_as_a_document(ask, plain, document_text):
    _, (answer,) = ask("--method=lc", context="-", stdin="\ufeff".encode() + document_text.encode())
    assert answer["token_ids"] == plain[1][0]["token_ids"]
    assert answer["context"] == plain[1][0]["context"]


def test_databases_are_named_in_a_list(ask):
    """--config.hierarchy.databases=a,b asks both, in this order; what they gave is in the object."""
    shape = [f"--config.hierarchy.{name}={value}" for name, value in (("candidates", 2), ("length", 3), ("window", 0))]
    outcome, (answer,) = ask("--method=hd", "--config.hierarchy.databases=history,context", *shape)
    assert answer["settings"]["hierarchy"]["databases"] == ["history", "context"]
    assert list(answer["acceptance"]["accepted_by_source"]) == ["history", "context"]
    assert set(answer["database_bytes"]) == {"history", "context"} and min(answer["database_bytes"].values()) > 0
    assert "from history" in outcome.out and "Databases on the device: " in outcome.out


def test_a_method_does_not_copy_what_another_has_said(ask):
    """Its speed beside lc's would be that of a question asked twice."""
    outcome, (plain, copied) = ask("--method=lc,copy", "--config.copying.lengths=2,6")
    assert copied["token_ids"] == plain["token_ids"]
    assert copied["settings"]["copying"] == dict(lengths=[2, 6], places=8, earlier_answers=0)
    assert copied["acceptance"]["accepted_by_source"]["earlier answers"] == 0
    assert "Databases on the device: copied text" in outcome.out


@pytest.mark.slow
def test_a_flag_wins_over_an_override_and_that_over_the_config_file(ask, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from configs import base\n"
        "def get_config():\n"
        "    return base.make(speculation=dict(gamma=2, eta=1.0, alpha=0.3), sampling=dict(seed=5, max_new_tokens=3))\n"
    )
    _, (answer,) = ask(
        *(f"--config={tmp_path}/mine.py", "--config.speculation.gamma=3", "--config.speculation.eta=2", "--eta=4"),
        *("--config.sampling.stop=zzz", "--tail=augmented", "--residual=exact", "--temperature=0.7"),
        *("--top_p=0.9", "--top_k=40"),
    )
    assert answer["method"] == "rapid"
    expected = dict(gamma=3, eta=4, tail="augmented", residual="exact", alpha=0.3, max_new_tokens=8, temperature=0.7)
    expected |= dict(early_stop=False, stop_threshold=0.4, stop_confidence=0.0, first_candidates=1)
    expected |= dict(top_p=0.9, top_k=40, seed=5, stop=["zzz"], from_checkpoint=[], mesh=[1, 1, 1], dtype="float32")
    expected |= dict(length_rule="none", choose_gamma=False, expected_acceptance=0.8, drafter_mesh=[])
    expected |= dict(weights="", drafter_weights="", kv="")
    settings = answer["settings"]
    assert set(settings.pop("chat")) == {"arguments", "date", "special_tokens_in_text"}
    assert settings.pop("retrieval")["embedder"] == "hashing"
    assert settings == expected


def test_a_document_that_is_cut_is_said_aloud(ask, caplog):
    outcome, (answer,) = ask("--method=lc", "--config.max_context_tokens=300")
    cut = answer["context"]["truncated_tokens"]
    assert cut > 0
    assert f"{cut:,} more left out of its middle" in outcome.out
    assert f"{cut} tokens of its middle are left out" in caplog.text


@pytest.mark.slow
def test_a_drafter_of_its_own_is_named_and_used(ask, make_tiny_checkpoint):
    drafter = make_tiny_checkpoint(seed=7, num_layers=1)
    outcome, answers = ask("--method=lc,sd", f"--drafter={drafter}")
    assert f"drafter   {drafter}" in outcome.out
    assert answers[0]["token_ids"] == answers[1]["token_ids"]
    assert answers[1]["acceptance"]["proposed"] > 0


def test_no_flag_at_all_is_enough():
    """The first command of the README has no flags: everything up to the loading of the embedded model must pass."""
    script = """
import runpy, sys
from rapid_jax.engine.engine import Engine

def load(**settings):
    raise ValueError("the model would be loaded now")

Engine.load, sys.argv = load, ["generate"]
runpy.run_module("launch.generate", run_name="__main__", alter_sys=True)
"""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "error: the model would be loaded now\n")


def test_as_a_program_it_writes_only_to_the_streams_it_should(program):
    """A stray warning of a library, or a stack of progress bars in a log file, would show here."""
    done = subprocess.run(**program("--config.max_context_tokens=300"))
    assert done.returncode == 0, done.stderr
    (warning,) = messages(done.stderr)
    assert warning.startswith("warning: the document has ")
    assert "\r" not in done.stderr and "\x1b" not in done.stdout
    assert "lc:" in done.stdout


def test_a_reader_that_has_seen_enough_ends_it_quietly(program):
    options = program()
    options["args"] = shlex.join(options["args"]) + " | head -n 1"
    done = subprocess.run(**options, shell=True)
    assert done.stdout.startswith("target    ") and done.stdout.count("\n") == 1
    assert "Broken pipe" not in done.stderr and "Traceback" not in done.stderr


def test_a_target_of_ones_own_reads_the_language_reference(launch, make_tiny_checkpoint):
    """The made archive means nothing to a real model."""
    target = make_tiny_checkpoint(max_position=2048)
    outcome = launch("generate", f"--target={target}", "--method=lc", "--max_new_tokens=4")
    assert outcome.status == 0, outcome.err
    assert "question  What happens when a pass statement is executed" in outcome.out
    assert "document  the reference of the Python language, 1," in outcome.out
    assert "left out" not in outcome.out and "reference answer:\nWhen a pass statement is executed" in outcome.out


def test_a_document_is_saved_and_opened_by_a_later_call(ask, generate, compiled, plain, tiny_checkpoint, tmp_path):
    """The second call says what opening took, and what reading had taken, and gives the same tokens."""
    saved, _ = ask("--method=lc", f"--save_document={tmp_path / 'saved'}")
    assert f"bytes to {tmp_path / 'saved'} in" in saved.out
    flags = (f"--target={tiny_checkpoint}", f"--query={QUESTION}", "--max_new_tokens=8", "--method=lc")
    own = (f"--compilation_cache_dir={compiled}", f"--output={tmp_path / 'out.jsonl'}")
    opened = generate(*flags, *own, f"--document={tmp_path / 'saved'}")
    assert opened.status == 0, opened.err
    assert "opened in" in opened.out and "(reading it took" in opened.out
    assert json.loads((tmp_path / "out.jsonl").read_text())["token_ids"] == plain[1][0]["token_ids"]
    both = generate(*flags, f"--document={tmp_path / 'saved'}", f"--context_file={tmp_path / 'x'}")
    assert both.status == 2 and "--document and --context_file both name a document" in both.err
    missing = generate(*flags, f"--document={tmp_path / 'nowhere'}")
    assert missing.status == 1 and "there is no saved document at" in missing.err
    unasked = generate(f"--target={tiny_checkpoint}", f"--document={tmp_path / 'saved'}")
    assert unasked.status == 2 and "--document without --query" in unasked.err


def test_the_same_document_is_not_read_twice(ask, plain, tmp_path):
    """Unless told not to: an empty --store keeps nothing."""
    store = f"--store={tmp_path / 'store'}"
    first, _ = ask("--method=lc", store)
    assert "opened in" not in first.out and len(list((tmp_path / "store").iterdir())) == 1
    second, answers = ask("--method=lc", store)
    assert "opened in" in second.out and answers[0]["token_ids"] == plain[1][0]["token_ids"]
    assert "opened in" not in ask("--method=lc", store, "--store=")[0].out

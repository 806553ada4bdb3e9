"""Bad input to launch.generate: one line that says what is wrong, the right exit status, nothing slow before it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]
ASK = "--query=Who keeps the lantern?"

WRONG_FLAGS = [
    (["--gama=1"], "Unknown command line flag 'gama'"),
    (["--gamma=0"], "gamma must be at least 1 token, got 0"),
    (["--gamma=-3"], "gamma must be at least 1 token"),
    (["--gamma=1.5"], "--gamma=1.5"),
    (["--gamma=many"], "--gamma=many"),
    (["--eta=-1"], "eta must be a number of at least 0, got -1"),
    (["--eta=nan"], "eta must be a number"),
    (["--eta=inf"], "eta must be at most"),
    (["--eta=strong"], "--eta=strong"),
    (["--temperature=-0.1"], "temperature must be 0 (greedy) or at least"),
    (["--temperature=nan"], "temperature must be 0 (greedy) or at least"),
    (["--temperature=1e-9"], "temperature must be 0 (greedy) or at least"),
    (["--top_p=0"], "top_p must be in (0, 1]"),
    (["--top_p=1.5"], "top_p must be in (0, 1]"),
    (["--top_p=nan"], "top_p must be in (0, 1]"),
    (["--top_k=-1"], "top_k must be 0 (off) or a positive number"),
    (["--max_new_tokens=0"], "max_new_tokens must be at least 1"),
    (["--max_new_tokens=-5"], "max_new_tokens must be at least 1"),
    (["--seed=-1"], "seed must be in [0, 2**32)"),
    (["--seed=4294967296"], "seed must be in [0, 2**32)"),
    (["--method=fast"], "unknown method 'fast'; known: lc, rag, sd, rapid"),
    (["--method=LC"], "unknown method 'LC'; known: lc"),
    (["--method="], "--method is empty; known: lc"),
    (["--method=lc,,rag"], "unknown method ''"),
    (["--tail=none"], "tail must be one of teacher, augmented"),
    (["--residual=best"], "residual must be one of rapid, exact"),
    (["--stream=maybe"], "--stream=maybe"),
    (["--compilation_cache_dir=a\ud800"], "is no name of a directory"),
    (["stray"], "unexpected argument 'stray'"),
    (["--query="], "--query is empty"),
    (["--query=  "], "--query is empty"),
    (["--context_file=any.txt"], "--context_file without --query"),
    (["--config.nothing=1"], "unknown config field nothing; known: target, drafter"),
    (["--config.speculation.gama=3"], "unknown config field speculation.gama; known: speculation.tail"),
    (["--config.prompt.length=3"], "unknown config field prompt.length; known: prompt"),
    (["--config.mesh=1,4"], "mesh must be three positive numbers"),
    (["--config.mesh=abc"], "mesh must be three positive numbers"),
    (["--config.mesh=1,0,1"], "mesh must be three positive numbers"),
    (["--config.hierarchy.databases=corpus"], "databases must be different names of copies, history, context"),
    (["--config.hierarchy.candidates=0"], "candidates must be a whole number of at least 1"),
    (["--config.hierarchy.size=3"], "unknown config field hierarchy.size; known: hierarchy.databases"),
    (["--config.prefill_chunk=abc"], "--config.prefill_chunk=abc"),
    (["--config.prefill_chunk=100"], "prefill_chunk must be a power of two"),
    (["--config.burst_steps=0"], "burst_steps must be at least 1"),
    (["--config.max_context_tokens=-1"], "max_context_tokens must be 0"),
    (["--config.truncation=head"], "truncation must be one of middle, error"),
    (["--config.dtype=int4"], "dtype must be bfloat16 or float32"),
    (["--config.prompt=Answer!"], "prompt must hold {document} once"),
    (["--config.prompt={question} {document}"], "prompt must hold {document} once"),
    (["--config.sampling.stop="], "stop must be a tuple of strings that are not empty"),
    (["--config.speculation.alpha=2"], "alpha must be in [0, 1]"),
    (["--config.retrieval.embedder=bm25"], "unknown embedder 'bm25'"),
    (["--config.retrieval.embedder=encoder:"], "unknown embedder 'encoder:'"),
    (["--config.retrieval.chunk_tokens=1"], "chunk_tokens must be at least 16"),
    (["--config.retrieval.threshold=2"], "threshold must be a cosine"),
    (["--config.retrieval.threshold=low"], "threshold=low"),
    (["--config.retrieval.max_chunks=0"], "max_chunks must be at least 1"),
]

WRONG_CONFIG_FILES = [
    ("def get_config(:\n", "SyntaxError"),
    ("gamma = 3\n", "get_config"),
    ("def get_config():\n    return missing\n", "NameError: name 'missing' is not defined"),
    ("def get_config():\n    return {'dtype': 'float32'}\n", "must return a ml_collections.ConfigDict, got dict"),
    ("def get_config():\n    pass\n", "must return a ml_collections.ConfigDict, got NoneType"),
    (
        "from configs import base\ndef get_config():\n    return base.make(speculation=dict(gamma=0))\n",
        "gamma must be at least 1 token, got 0",
    ),
]

WRONG_DOCUMENTS = [
    (b"", "has no text in it"),
    (b" \n\t\n", "has no text in it"),
    (b"\x7fELF\x02\x00\x00\x01", "is a binary file"),
    (b"\xff\xfe\x00", "is not utf-16 text"),
]


def check(outcome, status, message):
    """One line on standard error, nothing before it, no traceback."""
    assert message in outcome.err
    assert outcome.status == status
    assert outcome.err.startswith("error: ") and outcome.err.count("\n") == 1
    assert "Traceback" not in outcome.err + outcome.out


@pytest.fixture
def unloaded(monkeypatch):
    """Fails the test if a checkpoint's weights are read."""

    def load(*_, **__):
        raise AssertionError("weights were read before the error was found")

    monkeypatch.setattr("models.checkpoint.load_params", load)


@pytest.fixture
def document(tmp_path, document_text):
    """A document that is right."""
    path = tmp_path / "document.txt"
    path.write_text(document_text, encoding="utf-8")
    return f"--context_file={path}"


@pytest.fixture
def broken(tmp_path, tiny_checkpoint):
    """A copy of a checkpoint, to be damaged."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "broken"))


@pytest.mark.parametrize(("arguments", "message"), WRONG_FLAGS, ids=[" ".join(flags) for flags, _ in WRONG_FLAGS])
def test_a_wrong_flag_is_refused_with_status_2(generate, unloaded, arguments, message):
    check(generate(*arguments), 2, message)


@pytest.mark.parametrize(("text", "message"), WRONG_CONFIG_FILES, ids=[m[:30] for _, m in WRONG_CONFIG_FILES])
def test_a_wrong_config_file_is_named(generate, unloaded, tmp_path, text, message):
    (tmp_path / "wrong.py").write_text(text)
    check(generate(f"--config={tmp_path}/wrong.py"), 1, message)


def test_a_config_file_that_is_not_there_is_named(generate, unloaded, tmp_path):
    check(generate(f"--config={tmp_path}/none.py"), 1, "none.py: no such file")
    check(generate("--config", f"{tmp_path}/none.py", "--config.dtype=float32"), 1, "none.py: no such file")
    check(generate(f"--config={tmp_path}"), 1, "is a directory")


def test_a_field_that_the_config_file_adds_is_refused(generate, unloaded, tmp_path):
    (tmp_path / "more.py").write_text(
        "from configs import base\n"
        "def get_config():\n    config = base.make()\n    config.speed = 3\n    return config\n"
    )
    check(generate(f"--config={tmp_path}/more.py"), 2, "unknown config field speed; known: target")


@pytest.mark.parametrize(("data", "message"), WRONG_DOCUMENTS, ids=[repr(d[:6]) for d, _ in WRONG_DOCUMENTS])
def test_a_file_that_is_no_document_is_refused(generate, unloaded, tmp_path, data, message):
    (tmp_path / "wrong.txt").write_bytes(data)
    check(generate(f"--context_file={tmp_path}/wrong.txt", ASK), 1, message)
    check(generate("--context_file=-", ASK, stdin=data), 1, f"standard input {message}")


def test_a_document_that_is_not_there_is_named(generate, unloaded, tmp_path):
    check(generate(f"--context_file={tmp_path}/none.txt", ASK), 1, "none.txt: no such file")
    check(generate(f"--context_file={tmp_path}", ASK), 1, "there is nothing to read in")


def test_an_output_that_cannot_be_written_is_found_first(generate, unloaded, tmp_path):
    check(generate(f"--output={tmp_path}"), 1, "is a directory; name a file")
    check(generate(f"--output={tmp_path}/none/out.jsonl"), 1, f"there is no directory {tmp_path}/none")
    kept = tmp_path / "kept.jsonl"
    kept.write_text("earlier results\n")
    check(generate(f"--output={kept}", "--context_file=none.txt", ASK), 1, "no such file")
    assert kept.read_text() == "earlier results\n"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a directory in which nobody may write")
def test_an_output_without_permission_is_found_first(generate, unloaded):
    check(generate("--output=/proc/out.jsonl"), 1, "--output=/proc/out.jsonl cannot be written")


def test_a_target_that_is_no_checkpoint_is_refused(generate, unloaded, document, tmp_path):
    (tmp_path / "file").write_text("weights")
    (tmp_path / "empty").mkdir()
    check(generate(document, ASK, f"--target={tmp_path}/none"), 1, "none is not a directory")
    check(generate(document, ASK, f"--target={tmp_path}/file"), 1, "is a file; give the directory")
    check(generate(document, ASK, f"--target={tmp_path}/empty"), 1, "config.json is missing")


def test_a_hub_name_without_a_network_is_refused(generate, unloaded, document, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    check(generate(document, ASK, "--target=nobody/nothing"), 1, "nobody/nothing is neither a directory nor reachable")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "architecture 'GPT2LMHeadModel' is not supported; known: Llama"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
        ({"hidden_size": 0}, "hidden_size must be a positive integer"),
        (None, "is not valid JSON"),
        ([], "must hold a JSON object"),
    ],
)
def test_a_config_json_that_does_not_fit_is_refused(generate, unloaded, document, broken, changes, message):
    file = broken / "config.json"
    config = json.loads(file.read_text())
    file.write_text("{" if changes is None else json.dumps({**config, **changes} if changes else changes))
    check(generate(document, ASK, f"--target={broken}"), 1, message)


def test_damaged_weights_are_named(generate, document, broken):
    file = broken / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    check(generate(document, ASK, f"--target={broken}"), 1, "model.safetensors is truncated")
    file.write_bytes(b"")
    check(generate(document, ASK, f"--target={broken}"), 1, "model.safetensors is truncated")
    file.unlink()
    check(generate(document, ASK, f"--target={broken}"), 1, "holds neither model.safetensors nor")


def test_a_missing_and_a_misshapen_tensor_are_named(generate, document, broken):
    file, name = broken / "model.safetensors", "model.layers.1.mlp.down_proj.weight"
    tensors = load_file(file)
    save_file({k: v for k, v in tensors.items() if k != name}, file)
    check(generate(document, ASK, f"--target={broken}"), 1, f"tensor {name} [32, 64] is missing")
    save_file({**tensors, name: tensors[name][:, :63].copy()}, file)
    check(generate(document, ASK, f"--target={broken}"), 1, f"tensor {name} has shape [32, 63], should be [32, 64]")


def test_a_checkpoint_without_a_tokenizer_is_refused(generate, unloaded, document, broken, tiny_checkpoint):
    (broken / "tokenizer.json").write_text("{}")
    check(generate(document, ASK, f"--target={broken}"), 1, "the tokenizer cannot be read")
    (broken / "tokenizer.json").unlink()
    check(generate(document, ASK, f"--target={broken}"), 1, "holds no tokenizer")
    check(generate(document, ASK, f"--target={tiny_checkpoint}", f"--drafter={broken}"), 1, "holds no tokenizer")


def test_a_drafter_with_another_vocabulary_is_refused(generate, unloaded, document, broken, tiny_checkpoint):
    file = broken / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    file.write_text(json.dumps(tokenizer))
    outcome = generate(document, ASK, f"--target={tiny_checkpoint}", f"--drafter={broken}")
    check(outcome, 1, "target and drafter need the same vocabulary: 2 of 259 tokens differ")


def test_a_drafter_that_is_not_there_is_refused(generate, unloaded, document, tmp_path, tiny_checkpoint):
    outcome = generate(document, ASK, f"--target={tiny_checkpoint}", f"--drafter={tmp_path}/none")
    check(outcome, 1, "none is not a directory")


def test_an_encoder_that_cannot_be_loaded_is_found_before_the_document_is_read(
    generate, document, tmp_path, tiny_checkpoint, monkeypatch
):
    def prefill(*_, **__):
        raise AssertionError("the document was read before the error was found")

    monkeypatch.setattr("rapid_jax.engine.session.prefill", prefill)
    ask = (document, ASK, f"--target={tiny_checkpoint}", "--method=lc,rapid")
    check(generate(*ask, f"--config.retrieval.embedder=encoder:{tmp_path}/none"), 1, f"{tmp_path}/none")
    check(generate(*ask, f"--config.retrieval.embedder=encoder:{tiny_checkpoint}"), 1, "unknown encoder 'llama'")


def test_a_document_that_does_not_fit_is_refused(generate, document, tiny_checkpoint):
    ask = (document, ASK, f"--target={tiny_checkpoint}")
    outcome = generate(*ask, "--config.truncation=error", "--config.max_context_tokens=100")
    check(outcome, 1, "tokens, the limit is 100: shorten it, or set truncation='middle'")
    check(generate(*ask, "--max_new_tokens=8000"), 1, "leaves no room for a document beside 8000 new tokens")


def test_a_question_that_does_not_fit_is_refused(generate, document, tiny_checkpoint):
    outcome = generate(document, f"--query={'Who? ' * 1700}", f"--target={tiny_checkpoint}", "--max_new_tokens=4")
    check(outcome, 1, "it has 8192: ask a shorter question, or for fewer new tokens")


def test_a_mesh_that_does_not_fit_is_refused(generate, unloaded, document, tiny_checkpoint):
    ask = (document, ASK, f"--target={tiny_checkpoint}")
    check(generate(*ask, "--config.mesh=1,1,16"), 1, "mesh (1, 1, 16) needs 16 devices, there are 8")


def test_a_mesh_that_does_not_divide_the_model_is_refused(generate, unloaded, document, tiny_checkpoint):
    ask = (document, ASK, f"--target={tiny_checkpoint}")
    check(generate(*ask, "--config.mesh=1,1,3"), 1, "mesh axis model=3 does not divide the model's 4 key-value heads")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"), "too little memory: keep fewer"),
        (MemoryError(), "too little memory"),
        (RuntimeError("Unable to initialize backend 'tpu': no TPU"), "Unable to initialize backend 'tpu'"),
    ],
)
def test_an_error_of_the_device_is_one_line(generate, document, tiny_checkpoint, monkeypatch, error, message):
    def load(*_, **__):
        raise error

    monkeypatch.setattr("models.load", load, raising=False)
    check(generate(document, ASK, f"--target={tiny_checkpoint}"), 1, message)


def test_a_fault_of_the_program_keeps_its_traceback(generate, document, tiny_checkpoint, monkeypatch):
    def load(*_, **__):
        raise RuntimeError("a bug")

    monkeypatch.setattr("models.load", load, raising=False)
    with pytest.raises(RuntimeError, match="a bug"):
        generate(document, ASK, f"--target={tiny_checkpoint}")


def run(*arguments, **options):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False, **options)


def test_a_wrong_flag_loads_neither_jax_nor_transformers():
    program = """
import runpy, sys
sys.argv = ["generate", *{flags!r}]
try:
    runpy.run_module("launch.generate", run_name="__main__", alter_sys=True)
except SystemExit as stopped:
    loaded = {{"jax", "flax", "transformers"}} & set(sys.modules)
    print(stopped.code, sorted(loaded))
"""
    for flags, status in ((["--gamma=0"], 2), (["--context_file=none.txt", ASK], 1)):
        done = run("-c", program.format(flags=flags), text=True)
        assert done.stdout.split("\n")[-2] == f"{status} []"
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_as_a_program_a_wrong_flag_ends_with_status_2_and_one_line():
    done = run("-m", "launch.generate", "--temperature=-1", text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: temperature must be 0 (greedy) or at least 1e-6, got -1.0\n"


def test_as_a_program_empty_standard_input_ends_with_status_1_and_one_line():
    done = run("-m", "launch.generate", "--context_file=-", ASK, input=b"")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"error: standard input has no text in it\n"


def test_help_lists_the_flags_and_ends_well():
    done = run("-m", "launch.generate", "--help", text=True)
    assert done.returncode == 0
    for flag in ("config", "target", "context_file", "method", "gamma", "output", "compilation_cache_dir"):
        assert f"  --{flag}:" in done.stdout
    assert "config.<field>" in done.stdout

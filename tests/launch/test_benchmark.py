"""launch.benchmark: one-line refusals before anything slow, and figures that agree with each other."""

import functools
import json
import sys
from pathlib import Path

import pytest

from models import ModelConfig, registry
from tests.marks import slow

WRONG_FLAGS = [
    (["--context_length=1024"], "Unknown command line flag 'context_length'"),
    (["stray"], "unexpected argument 'stray'"),
    (["--context_lengths=long"], "--context_lengths must be whole numbers of at least 64 tokens, got long"),
    (["--context_lengths=4K"], "--context_lengths must be whole numbers"),
    (["--context_lengths=1024,"], "--context_lengths must be whole numbers"),
    (["--context_lengths="], "--context_lengths must be whole numbers of at least 64 tokens, got nothing"),
    (["--context_lengths=63"], "--context_lengths must be whole numbers of at least 64 tokens, got 63"),
    (["--context_lengths=-1024"], "--context_lengths must be whole numbers"),
    (["--context_lengths=8192"], "8192 tokens are more than the model has room for, 7605"),
    (["--batch_sizes=0"], "--batch_sizes must be whole numbers of at least 1 row, got 0"),
    (["--batch_sizes=two"], "--batch_sizes must be whole numbers"),
    (["--batch_sizes=2,3", "--config.mesh=2,1,1"], "3 rows are no multiple of the mesh's data axis of 2"),
    (["--gammas=0"], "--gammas must be whole numbers of at least 1 token, got 0"),
    (["--gammas="], "--gammas must be whole numbers of at least 1 token, got nothing"),
    (["--gammas=1.5"], "--gammas must be whole numbers"),
    (["--methods=fast"], "--methods: unknown method 'fast'; known: lc, rag, sd, rapid"),
    (["--methods="], "--methods is empty; known: lc"),
    (["--new_tokens=0"], "--new_tokens=0"),
    (["--new_tokens=many"], "--new_tokens=many"),
    (["--repeats=0"], "--repeats=0"),
    (["--retrieved_tokens=0"], "--retrieved_tokens=0"),
    (["--acceptance=1.5"], "--acceptance must be a probability in [0, 1], got 1.5"),
    (["--acceptance=-0.1"], "--acceptance must be a probability in [0, 1], got -0.1"),
    (["--acceptance=nan"], "--acceptance must be a probability in [0, 1], got nan"),
    (["--acceptance=high"], "--acceptance=high"),
    (["--preset=llama31_8b"], "add --random_weights"),
    (["--random_weights"], "--random_weights needs --preset=NAME, one of llama2_7b"),
    (["--random_weights", "--preset=llama9"], "not 'llama9'"),
    (["--random_weights", "--preset=tiny"], "give --acceptance=RATE"),
    (["--random_weights", "--preset=tiny", "--acceptance=1", "--target=x"], "leave one of them out"),
    (["--random_weights", "--preset=tiny", "--acceptance=1", "--drafter=x"], "leave the drafter 'x' out"),
    (["--random_weights", "--preset=tiny", "--acceptance=1", "--peers"], "--peers needs a checkpoint"),
    (
        ["--random_weights", "--preset=tiny", "--acceptance=1", "--context_lengths=8193"],
        "8193 tokens are more than the model has room for, 8192",
    ),
    (["--methods=lc,hd", "--acceptance=0.5"], "drafts of hd come from real text"),
    (["--random_weights", "--preset=tiny", "--acceptance=1", "--methods=rapid+hd"], "no acceptance can be forced"),
    (["--prompts=poems"], "--prompts=poems"),
    (["--prompts=reference", "--questions=13"], "--questions=13: --prompts=reference has 12 of each kind"),
    (["--prompts=reference", "--context_lengths=1024,699"], "699 tokens hold no section of the reference"),
    (["--prompts=reference", "--batch_sizes=1,2"], "asks one prompt at a time"),
    (
        ["--prompts=reference", "--random_weights", "--preset=tiny", "--acceptance=1"],
        "random weights read random ids: leave one of them out",
    ),
    (["--plot=speed.pdf"], "--plot=speed.pdf must end in .png or .svg"),
    (["--plot=speed.png", "--methods=lc"], "--methods needs lc and one more"),
    (["--plot=speed.png", "--methods=sd,rapid"], "--methods needs lc and one more"),
    (["--config.speculation.gamma=0"], "gamma must be at least 1 token"),
    (["--config.nothing=1"], "unknown config field nothing"),
]
FIELDS = {
    *("method", "context_length", "batch", "gamma", "new_tokens", "tokens_per_second", "tokens_per_step"),
    *("step_seconds", "prefill_seconds", "bytes_per_step", "bandwidth_share", "speed_up", "acceptance"),
    "drafter_forwards",
    *("kind", "prompt", "prompts"),
    *("forced_acceptance", "context_tokens", "retrieved_tokens", "repeats", "dtype", "model", "drafter"),
    *("hardware", "versions", "other_load"),
}
TINY = ModelConfig(
    family="llama", vocab_size=264, width=32, ffn_width=64, num_layers=2, num_heads=8, num_kv_heads=4, head_dim=8,
    max_position=8192, tie_embeddings=True,
)  # fmt: skip
WEIGHTS, KV = 132_736, 512  # bytes in float32, by hand: tests/rapid_jax/benchmarking/test_traffic.py
RANDOM = ("--random_weights", "--preset=tiny", "--context_lengths=256", "--repeats=1")


@pytest.fixture(scope="module", autouse=True)
def _small_array():
    """Each run measures how fast memory is read: 4 MiB take a hundredth of the time of the usual array."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rapid_jax.benchmarking.bandwidth._BYTES", {"cpu": 4 << 20})
        yield


@pytest.fixture
def tiny_preset(monkeypatch):
    monkeypatch.setitem(registry.PRESETS, "tiny", TINY)


@pytest.fixture
def benchmark(launch, tiny_preset):
    """A function: flags -> Outcome of launch.benchmark."""
    return functools.partial(launch, "benchmark")


@pytest.fixture
def unloaded(monkeypatch):
    """Fails the test if weights are read or made."""

    def load(*_, **__):
        raise AssertionError("weights were loaded before the error was found")

    monkeypatch.setattr("models.checkpoint.load_params", load)
    monkeypatch.setattr("models.params.init_params", load)


@pytest.fixture
def without(monkeypatch):
    """A function: name of a package that shall seem not to be installed."""

    def hide(package):
        monkeypatch.setitem(sys.modules, package, None)

    return hide


@pytest.fixture
def measure(benchmark, tmp_path):
    """A function: flags -> (Outcome, the objects written)."""

    def run(*flags):
        output = tmp_path / "out.jsonl"
        outcome = benchmark(*flags, f"--output={output}")
        assert outcome.status == 0, outcome.err
        return outcome, [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]

    return run


def check(outcome, status, message):
    """One line on standard error, nothing before it, no traceback."""
    assert message in outcome.err
    assert outcome.status == status
    assert outcome.err.startswith("error: ") and outcome.err.count("\n") == 1
    assert outcome.out == ""


@pytest.mark.parametrize(("arguments", "message"), WRONG_FLAGS, ids=[" ".join(flags) for flags, _ in WRONG_FLAGS])
def test_a_wrong_flag_is_refused_with_status_2(benchmark, unloaded, tiny_checkpoint, arguments, message):
    target = [] if "--random_weights" in arguments else [f"--target={tiny_checkpoint}"]
    check(benchmark(*target, *arguments), 2, message)


def test_files_that_cannot_be_written_are_found_first(benchmark, unloaded, tmp_path):
    check(benchmark(f"--output={tmp_path}"), 1, "is a directory; name a file")
    check(benchmark(f"--output={tmp_path}/none/out.jsonl"), 1, f"there is no directory {tmp_path}/none")
    check(benchmark(f"--plot={tmp_path}/none/speed.svg"), 1, f"there is no directory {tmp_path}/none")


def test_a_plot_without_matplotlib_is_refused(benchmark, unloaded, without, tmp_path):
    without("matplotlib")
    check(
        benchmark(f"--plot={tmp_path}/speed.svg"),
        1,
        '--plot needs the package matplotlib: pip install "rapid_jax[reports]"',
    )


def test_a_target_that_is_not_there_is_named(benchmark, unloaded, tmp_path):
    check(benchmark(f"--target={tmp_path}/none"), 1, "none is not a directory")


@pytest.fixture(scope="module", params=[(1,), slow((1, 2))], ids=str)
def batches(request):
    """The batch sizes of `real`."""
    return request.param


@pytest.fixture(scope="module")
def real(launch, tiny_checkpoint, tmp_path_factory, batches):
    """Every method on the tiny checkpoint, two lengths, with a plot."""
    directory = tmp_path_factory.mktemp("benchmark")
    outcome = launch(
        "benchmark",
        *(f"--target={tiny_checkpoint}", "--methods=lc,rag,sd,rapid", "--context_lengths=1024,1536"),
        *(f"--batch_sizes={','.join(map(str, batches))}", "--gammas=3", "--new_tokens=8", "--repeats=1", "--nopeers"),
        *("--retrieved_tokens=512", f"--output={directory}/out.jsonl", f"--plot={directory}/speed.svg"),
    )
    assert outcome.status == 0, outcome.err
    rows = [json.loads(line) for line in (directory / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    return outcome, rows, directory / "speed.svg"


def test_one_object_a_cell_and_method_with_every_field(real, batches):
    """Scripts read these; a row that is missing or named otherwise breaks them."""
    _, rows, _ = real
    cells = [(length, batch) for length in (1024, 1536) for batch in batches]
    expected = [(*cell, 3, method) for cell in cells for method in ("lc", "rag", "sd", "rapid")]
    assert [(row["context_length"], row["batch"], row["gamma"], row["method"]) for row in rows] == expected
    for row in rows:
        assert set(row) == FIELDS
        assert row["dtype"] == "float32" and row["new_tokens"] == 8 and row["repeats"] == 1
        assert set(row["hardware"]) == {"device", "devices", "processor", "cores", "bandwidth"}
        assert row["hardware"]["bandwidth"]["array_bytes"] == 4 << 20
        assert set(row["versions"]) >= {"rapid_jax", "python", "jax"}
        assert row["forced_acceptance"] is None


def test_figures_agree_with_each_other(real):
    """Tokens, steps and seconds of one run: a wrong divisor would show."""
    _, rows, _ = real
    for row in rows:
        drafts = row["method"] in ("sd", "rapid")
        assert 1 <= row["tokens_per_step"] <= (4 if drafts else 1)
        steps = row["new_tokens"] / row["tokens_per_step"]  # of one row
        if row["batch"] == 1 or not drafts:
            per_second = row["batch"] * row["new_tokens"] / (steps * row["step_seconds"])
            assert row["tokens_per_second"] == pytest.approx(per_second, rel=1e-4)
        bandwidth = row["hardware"]["bandwidth"]["gigabytes_per_second"] * 1e9
        share = row["bytes_per_step"] / row["step_seconds"] / bandwidth
        assert row["bandwidth_share"] == pytest.approx(share, rel=2e-3)
        assert row["prefill_seconds"] > 0
        kept = row["acceptance"]["kept_over_tested"], row["acceptance"]["kept_over_proposed"]
        assert all(0 <= k <= 1 for k in kept) if drafts else kept == (None, None)
        lc = next(r for r in rows if (r["context_length"], r["batch"]) == (row["context_length"], row["batch"]))
        assert row["speed_up"] == pytest.approx(row["tokens_per_second"] / lc["tokens_per_second"], rel=1e-4)


def test_lengths_are_what_was_asked_for(real):
    """A document of half the length, or passages of twice it, would make every figure another one."""
    _, rows, _ = real
    for row in rows:
        reads_passages = row["method"] == "rag"
        if reads_passages:
            assert row["context_tokens"] == row["retrieved_tokens"]
        else:
            assert 0.9 * row["context_length"] <= row["context_tokens"] <= row["context_length"]
        if row["method"] == "lc":
            assert row["retrieved_tokens"] is None
        else:
            assert 128 < row["retrieved_tokens"] <= 520


def test_the_plot_and_the_tables_are_there(real, batches):
    outcome, _, plot = real
    assert plot.read_text(encoding="utf-8").lstrip().startswith("<?xml")
    assert all(f"batch {batch}, gamma 3" in outcome.out for batch in batches)
    assert outcome.out.count("rapid ") >= 2 * len(batches) and "forced" not in outcome.out.lower()
    lines = outcome.out[outcome.out.index("batch 1") :].splitlines()
    assert max(len(line) for line in lines if not line.startswith("WARNING")) <= 80


@pytest.mark.parametrize("batch", [slow(1), slow(2)])
def test_bytes_of_a_step_are_those_computed_by_hand(measure, batch):
    """256 document tokens, 256 retrieved ones a row, a question of 32, 8 new tokens: tails of 36 in the middle."""
    flags = (
        *RANDOM,
        "--methods=lc,rag,sd,magicdec",
        "--config.speculation.window=100",
        f"--batch_sizes={batch}",
        "--gammas=4",
        "--new_tokens=8",
        "--acceptance=0.5",
    )
    _, rows = measure(*flags)
    found = {row["method"]: row["bytes_per_step"] for row in rows}
    lc = WEIGHTS + KV * (256 + batch * 36)
    assert found["lc"] == lc
    assert found["rag"] == WEIGHTS + KV * batch * (256 + 36)
    assert found["sd"] == lc + 4 * (WEIGHTS + KV * batch * (256 + 36))
    assert found["magicdec"] == lc + 4 * (WEIGHTS + KV * batch * (4 + 100))


@pytest.mark.parametrize("rate, tokens_per_step, kept", [(1.0, 5, 1), slow(0.0, 1, 0)])
def test_a_forced_acceptance_is_met_exactly_and_said(measure, rate, tokens_per_step, kept):
    """At its ends the rate leaves no room: gamma + 1 tokens a step, or one."""
    flags = (*RANDOM, "--methods=lc,sd,rapid", "--gammas=4", "--new_tokens=10", f"--acceptance={rate}")
    outcome, rows = measure(*flags)
    for row in rows:
        drafts = row["method"] != "lc"
        assert row["tokens_per_step"] == (tokens_per_step if drafts else 1)
        assert row["acceptance"]["kept_over_proposed"] == (kept if drafts else None)
        assert row["forced_acceptance"] == (rate if drafts else None)
        assert row["model"] == "random weights, tiny"
    assert f"ACCEPTANCE IS FORCED to {rate:g}" in outcome.out
    assert "sd*" in outcome.out and "rapid*" in outcome.out and "lc*" not in outcome.out
    assert f"* made with a forced acceptance of {rate:g}" in outcome.out


def test_random_weights_without_drafts_need_no_rate(measure, compilation_shown):
    _, rows = measure(*RANDOM, "--methods=lc,rag", "--gammas=2,4", "--new_tokens=4")
    assert [row["method"] for row in rows] == ["lc", "rag"]  # draft lengths change nothing: one cell
    assert compilation_shown == {"_Compilations"}, "half a minute of silence looks like a hang"


@pytest.mark.slow
def test_random_weights_are_split_over_a_mesh(measure):
    """A preset that needs several devices must not be made on one."""
    flags = ("--methods=lc,sd", "--gammas=2", "--new_tokens=4", "--acceptance=0.5", "--config.mesh=1,1,2")
    _, rows = measure(*RANDOM, *flags)
    assert rows[0]["hardware"]["devices"] == 2 and rows[0]["tokens_per_step"] == 1


def test_without_torch_one_line_says_so(measure, without, tiny_checkpoint):
    without("torch")
    flags = ("--methods=lc", "--context_lengths=2048", "--new_tokens=4", "--repeats=1")
    outcome, rows = measure(f"--target={tiny_checkpoint}", *flags)
    assert outcome.out.count("no rows of transformers: torch is not installed\n") == 1
    assert outcome.out.count("no rows of llama.cpp: the target is no GGUF file\n") == 1
    assert [row["method"] for row in rows] == ["lc"]


@pytest.mark.parity
def test_transformers_runs_beside(measure, tiny_checkpoint):
    """hf in every cell, the others where there is one row; what they have no word for is null."""
    flags = ("--methods=lc,sd", "--context_lengths=2048", "--batch_sizes=1,2", "--gammas=2", "--new_tokens=8")
    _, rows = measure(f"--target={tiny_checkpoint}", *flags, "--repeats=1")
    assert [(row["batch"], row["method"]) for row in rows] == [
        *((1, method) for method in ("lc", "sd", "hf", "hf-pld", "hf-assisted")),
        *((2, method) for method in ("lc", "sd", "hf")),
    ]
    for row in rows:
        assert set(row) == FIELDS and "torch" in row["versions"]
        if row["method"].startswith("hf"):
            kept = 1 if row["method"] == "hf-assisted" else None  # the target assists itself
            assert row["acceptance"] == {"kept_over_tested": kept, "kept_over_proposed": kept}
            assert row["forced_acceptance"] is None and row["retrieved_tokens"] is None
            assert row["tokens_per_step"] == 1 if row["method"] == "hf" else 1 <= row["tokens_per_step"] <= 21
            assert row["speed_up"] > 0 and row["prefill_seconds"] > 0


def test_the_readme_commands_name_flags_that_exist():
    """The docstring's commands are what people copy."""
    source = (Path(__file__).resolve().parents[2] / "launch" / "benchmark.py").read_text(encoding="utf-8")
    docstring = source.split('"""')[1]
    for word in docstring.replace("\n", " ").split():
        if word.startswith("--") and not word.startswith("--config"):
            name = word[2:].partition("=")[0].strip(".,`)")
            assert f'"{name}"' in source, word


def test_prompts_of_three_kinds_about_real_text(measure, tiny_checkpoint):
    """A line for each prompt and method, a table for each kind."""
    outcome, rows = measure(
        *(f"--target={tiny_checkpoint}", "--prompts=reference", "--questions=1", "--methods=lc,hd", "--repeats=1"),
        *("--context_lengths=2048", "--new_tokens=4", "--nopeers"),
    )
    assert [(row["kind"], row["prompt"], row["method"]) for row in rows] == [
        (kind, 0, method) for kind in ("quote", "ask", "summarise") for method in ("lc", "hd")
    ]
    assert all(row["prompts"] == "reference" for row in rows)
    assert "prompts    3 at each context length" in outcome.out
    for kind in ("quote", "ask", "summarise"):
        assert f"{kind}, batch 1" in outcome.out

"""launch.plan as a user meets it: wrong flags, a machine without the compiler, and a plan where it is there."""

import importlib.util
import json

import pytest

HAS_COMPILER = importlib.util.find_spec("libtpu") is not None
needs_compiler = pytest.mark.skipif(not HAS_COMPILER, reason="needs libtpu, the TPU's compiler")


@pytest.fixture
def plan(launch):
    return lambda *arguments: launch("plan", *arguments)


@pytest.mark.parametrize(
    "arguments, said",
    [
        ([], "--preset must be one of"),
        (["--preset=gpt5"], "not 'gpt5'"),
        (["--preset=llama31_8b", "--topology=v9:2x2"], "CHIP:SHAPE"),
        (["--preset=llama31_8b", "--topology=v5e:2x2x2"], "v5e has shapes such as"),
        (["--preset=llama31_8b", "--mesh=1,8"], "three positive numbers"),
        (["--preset=llama31_8b", "--mesh=1,1,4"], "has 4 chips, v5e:2x4 has 8"),
        (["--preset=qwen25_7b", "--mesh=1,1,8"], "model must divide 4 key-value heads"),
        (["--preset=llama31_8b", "--mesh=2,1,4", "--batch=3"], "no multiple of the mesh's data axis"),
        (["--preset=llama31_8b", "--chunk=1000"], "power of two"),
        (["--preset=llama31_8b", "--method=rest"], "--method must be one of lc, rag, sd, rapid, magicdec, pages"),
        (["--preset=llama31_8b", "--context=1"], "--context"),
        (["--preset=llama31_8b", "--tokens_per_step=0.5"], "--tokens_per_step"),
        (["--preset=llama31_8b", "--tokens_per_step=nan"], "--tokens_per_step=nan: must be a finite number"),
        (["--preset=llama31_8b", "--acceptance=nan"], "--acceptance=nan: must be a finite number"),
        (["--preset=llama31_8b", "--kv=fp8"], "--kv"),
        (["--preset=llama31_8b", "--weights=int8", "--drafter_weights=bfloat16"], "--drafter_weights"),
        (["--measure", "--method=lc"], "compares sd or rapid with lc"),
        (["--measure", "--method=sd+hd"], "compares sd or rapid with lc"),
        (["--measure", "--preset=llama31_8b"], "leave --preset"),
        (["--measure", "--target=assets/archivist"], "leave --preset"),
        (["--preset=llama31_8b", "--target=assets/archivist"], "leave one of them out"),
        (["--target=no/such/model"], "no/such/model"),
        (["--target=assets/archivist", "--mesh=1,1,8"], "model must divide 4 key-value heads"),
        (["--preset=llama31_8b", "--json=/nowhere/at/all.json"], "there is no directory"),
    ],
)
def test_a_wrong_flag_is_one_line_before_anything_slow(plan, arguments, said):
    outcome = plan(*arguments)
    assert outcome.status in (1, 2)
    assert said in outcome.err
    assert outcome.err.count("\n") == 1


@pytest.mark.skipif(HAS_COMPILER, reason="libtpu is installed")
def test_without_the_compiler_one_line_says_how_to_get_it(plan):
    outcome = plan("--preset=llama31_8b")
    assert outcome.status == 1
    assert "pip install libtpu" in outcome.err
    assert outcome.err.count("\n") == 1


@needs_compiler
def test_what_does_not_fit_is_told_by_how_much_and_what_would(plan):
    outcome = plan("--preset=llama31_70b", "--topology=v5e:2x4")
    assert outcome.status == 1
    assert "lacks" in outcome.err
    assert "--topology=v5e:4x4" in outcome.err
    assert "document's keys and values" in outcome.out


@needs_compiler
def test_a_plan_prints_its_tables_and_writes_its_figures(plan, tmp_path):
    file = tmp_path / "plan.json"
    outcome = plan("--preset=qwen25_05b", "--topology=v5e:2x2", "--context=8192", f"--json={file}")
    assert outcome.status == 0, outcome.err
    for said in ("peak", "drafter's forward", "all-reduce", "best gamma"):
        assert said in outcome.out
    figures = json.loads(file.read_text())
    assert figures["memory"]["peak"] > figures["memory"]["weights"] > 0
    assert [one["acceptance"] for one in figures["speeds"]] == [0.5, 0.6, 0.7, 0.8, 0.9]


@needs_compiler
def test_a_checkpoint_is_planned_for_by_its_metadata(plan):
    """Before its weights are downloaded to every host."""
    outcome = plan("--target=assets/archivist", "--topology=v5e:2x2", "--context=4096", "--method=lc")
    assert outcome.status == 0, outcome.err
    assert "model     assets/archivist, weights bfloat16" in outcome.out
    assert "predicted: prefill" in outcome.out and "Saved, the document's keys and values take" in outcome.out


@pytest.mark.slow
def test_the_cost_model_is_held_against_the_clock(plan, tmp_path):
    """On the embedded model: what was predicted and what was measured, side by side and in the file."""
    file = tmp_path / "check.json"
    outcome = plan("--measure", "--context=2048", "--gamma=2", "--new_tokens=8", f"--json={file}")
    assert outcome.status == 0, outcome.err
    assert "predicted" in outcome.out and "step of rapid, ms" in outcome.out
    figures = json.loads(file.read_text())
    assert figures["predicted"]["step"] > figures["predicted"]["plain"] > 0
    assert [one["method"] for one in figures["measured"]] == ["lc", "rapid"]

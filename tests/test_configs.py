"""configs/*.py: every file can be named with --config, is valid, and says how it is run."""

import importlib
import pkgutil

import ml_collections
import pytest
from absl import flags
from ml_collections import config_flags

import configs
from rapid_jax.config import EngineConfig

NAMES = sorted(module.name for module in pkgutil.iter_modules(configs.__path__) if module.name != "base")


def load(name):
    return importlib.import_module(f"configs.{name}")


def test_the_published_configurations_are_there():
    published = {"archivist", "llama31_8b", "llama31_70b", "qwen25_7b", "qwen25_72b", "llama31_8b_from_70b"}
    assert set(NAMES) >= published


@pytest.mark.parametrize("name", NAMES)
def test_a_configuration_is_valid_and_complete(name):
    config = load(name).get_config()
    assert isinstance(config, ml_collections.ConfigDict)
    made = EngineConfig.from_mapping(config.to_dict())
    assert made.to_dict() == config.to_dict()


@pytest.mark.parametrize("name", NAMES)
def test_every_field_can_be_overridden_on_the_command_line(name):
    registered = flags.FlagValues()
    argv = [
        "program",
        f"--config={load(name).__file__}",
        "--config.target=elsewhere",
        "--config.mesh=1,1,2",
        "--config.prefill_chunk=64",
        "--config.speculation.eta=7.5",
        "--config.sampling.max_new_tokens=9",
        "--config.sampling.stop=END",
        "--config.retrieval.threshold=0.25",
        "--config.retrieval.max_chunks=4",
        "--config.retrieval.embedder=encoder:somewhere",
        "--config.retrieval.query_prompt=query: ",
        "--config.retrieval.passage_prompt=",
    ]
    holder = config_flags.DEFINE_config_file("config", flag_values=registered, sys_argv=argv)
    registered(argv)
    config = EngineConfig.from_mapping(holder.value.to_dict())
    assert (config.target, config.mesh, config.prefill_chunk) == ("elsewhere", (1, 1, 2), 64)
    assert (config.speculation.eta, config.sampling.max_new_tokens, config.sampling.stop) == (7.5, 9, ("END",))
    assert (config.retrieval.threshold, config.retrieval.max_chunks) == (0.25, 4)
    assert (config.retrieval.query_prompt, config.retrieval.passage_prompt) == ("query: ", "")


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_holds_the_command(name):
    text = load(name).__doc__
    assert "python -m launch.generate" in text
    if name != "archivist":
        assert f"--config=configs/{name}.py" in text and "--target=" in text
    assert ("--drafter=" in text) == bool(load(name).get_config().drafter)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "archivist"])
def test_the_settings_of_the_paper_are_kept(name):
    config = EngineConfig.from_mapping(load(name).get_config().to_dict())
    assert config.speculation.gamma == 10
    assert config.speculation.eta in ((40, 50) if config.drafter else (5, 10, 20))
    assert (config.speculation.tail, config.speculation.residual) == ("teacher", "rapid")
    assert (config.retrieval.chunk_tokens, config.sampling.temperature) == (512, 0.1)


def test_the_default_needs_no_checkpoint_and_no_device_but_one():
    config = EngineConfig.from_mapping(load("archivist").get_config().to_dict())
    assert (config.target, config.drafter, config.mesh, config.sampling.temperature) == ("", "", (1, 1, 1), 0)


def test_the_published_evaluation_is_set_line_by_line():
    """Whoever repeats the experiment reads in the docstring what differs, and finds exactly that set."""
    module = load("official_rapid")
    ours = load("llama31_8b").get_config().to_dict()
    theirs = module.get_config().to_dict()
    changed = {
        f"{section}.{name}": value
        for section, fields in theirs.items()
        if isinstance(fields, dict)
        for name, value in fields.items()
        if value != ours[section][name]
    }
    assert changed == {
        "evaluation.retrieval_query": "question_and_choices",
        "evaluation.passages_prompt": "passages",
        "evaluation.longbench_answer": "rapid",
        "retrieval.from_truncated": False,
        "retrieval.count_from": "truncated",
        "retrieval.threshold": 0.3,
        "retrieval.below_threshold": "empty",
        "speculation.stop_confidence": 0.1,
        "sampling.from_checkpoint": ("top_k", "repetition_penalty"),
    }
    assert all(f"\n{name} " in module.__doc__ for name in changed)
    assert {name: value for name, value in theirs.items() if not isinstance(value, dict)} == {
        name: value for name, value in ours.items() if not isinstance(value, dict)
    }

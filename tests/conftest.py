"""Eight host devices, strict rank promotion, compiled programs that all tests share, and tiny models for every test."""

import atexit
import gc
import importlib.metadata
import os
import shutil
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
if "xla_cpu_enable_concurrency_optimized_scheduler" not in os.environ["XLA_FLAGS"]:
    # Devices of a CPU that start collectives in an order of their own can wait for one another for ever.
    os.environ["XLA_FLAGS"] += " --xla_cpu_enable_concurrency_optimized_scheduler=false"
if "xla_cpu_parallel_codegen_split_count" not in os.environ["XLA_FLAGS"]:
    # Programs are small: cut into parts that several threads compile, each would cost a sixth more.
    os.environ["XLA_FLAGS"] += " --xla_cpu_parallel_codegen_split_count=1"
if "PYTEST_XDIST_WORKER" not in os.environ:  # the workers inherit the directory, and the first process removes it
    os.environ["RAPID_JAX_TEST_PROGRAMS"] = tempfile.mkdtemp(prefix="rapid_jax_tests_")
    atexit.register(shutil.rmtree, os.environ["RAPID_JAX_TEST_PROGRAMS"], ignore_errors=True)

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_disable_most_optimizations", True)  # tests spend their time in compiling, not in running
jax.config.update("jax_traceback_in_locations_limit", 0)  # nor in noting where each operation was written

# Modules and processes share what they compile. Launchers that are started as processes of their own do not.
SHARED_PROGRAMS = {
    "jax_enable_compilation_cache": True,
    "jax_compilation_cache_dir": os.environ["RAPID_JAX_TEST_PROGRAMS"],
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}
for _name, _value in SHARED_PROGRAMS.items():
    jax.config.update(_name, _value)

# The TPU's compiler serves one process at a time; in any other these tests would be skipped.
COMPILED_FOR_TPUS = ("launch/test_plan.py", "models/test_attention_on_tpu.py", "rapid_jax/planning/test_tpu.py")

gc.freeze()  # what has been imported stays: tracing makes many objects, and each collection would look at all of it
gc.set_threshold(100_000, 50, 100)


def pytest_configure(config):
    """Picks how XLA compiles, before it starts: large programs are those of real models, all others are small."""
    small = "real" not in config.option.markexpr.replace("not real", "")
    if small and importlib.metadata.version("jaxlib").startswith("0.10."):
        # There the fusion emitters treble the time of compiling small programs; large ones take a third with them.
        os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With --dist loadfile: files that need the TPU's compiler go to one worker."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return "TPU" if file.endswith(COMPILED_FOR_TPUS) else file

    return Scheduling(config, log)


@pytest.fixture(scope="module", autouse=True)
def _forget_programs(request, share_programs):
    """Frees what a module has compiled: each program maps memory, and a process may map 65,530 pieces on Linux.

    A module that needs the same program reads it from the directory of shared programs; JAX cannot read back what it has
    compiled for a TPU that is not there.
    """
    for_tpus = str(request.path).endswith(COMPILED_FOR_TPUS)
    if for_tpus:
        share_programs(jax_enable_compilation_cache=False)
    yield
    if for_tpus:
        share_programs()
    from rapid_jax.decoding.programs import Programs

    for kept in gc.get_objects():
        if type(kept) is Programs:  # of engines that all modules share
            kept.compiled.clear()
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="session")
def share_programs():
    """A function that points JAX's compilation cache to the tests' directory, or sets what its arguments say."""

    def share(**other):
        for name, value in {**SHARED_PROGRAMS, **other}.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()  # it reads its settings once

    return share


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """A byte-level-like tokenizer of 256 ids over words and characters, with <s> (1) and </s> (2)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for byte in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocabulary[byte] = len(vocabulary)
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.fixture(scope="session")
def make_tiny_checkpoint(tmp_path_factory, tiny_tokenizer):
    """A function that writes a tiny random LLaMA checkpoint with its tokenizer and gives its directory.

    Keyword arguments replace fields of its ModelConfig; `seed` picks the weights, `scale` their size: larger weights give
    sharper distributions.
    """

    def make(*, seed: int = 0, scale: float = 4.0, **fields):
        from models import ModelConfig, init_params
        from models.checkpoint import export_hf

        values = dict(
            family="llama",
            vocab_size=264,
            width=32,
            ffn_width=64,
            num_layers=2,
            num_heads=8,
            num_kv_heads=4,
            head_dim=8,
            max_position=8192,
            tie_embeddings=True,
            bos_id=1,
            eos_ids=(2,),
        )
        config = ModelConfig(**{**values, **fields})
        params = jax.tree.map(lambda x: x * scale, init_params(config, seed=seed, dtype="float32"))
        directory = tmp_path_factory.mktemp("checkpoint")
        export_hf(params, config, directory, "float32")
        tiny_tokenizer.save_pretrained(directory)
        return directory

    return make


@pytest.fixture(scope="session")
def tiny_checkpoint(make_tiny_checkpoint):
    """Directory of a tiny random checkpoint: D 32, 2 layers, 8 query and 4 key-value heads, 264 tokens."""
    return make_tiny_checkpoint()


@pytest.fixture(scope="session")
def document_text():
    """About 1,500 bytes of text with facts in it; one token a byte for the tiny tokenizer."""
    names = ("Mirel Tavos", "Odan Keld", "Sava Brint", "Tolin Maresk", "Ilka Vorn")
    things = ("a copper lantern", "a walnut flute", "three grey mares", "an iron kettle", "the ferry Harrow")
    lines = [
        f"{name} keeps {things[(i + j) % 5]} in house {7 * i + j}." for i in range(6) for j, name in enumerate(names)
    ]
    return "\n\n".join(" ".join(lines[i : i + 3]) for i in range(0, len(lines), 3))

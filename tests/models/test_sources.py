"""The two seams: a new kind of checkpoint and a new format of weights are each one file that nothing else knows."""

from __future__ import annotations

import importlib
import resource
import subprocess
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

import models
from models import formats, sources
from models.cache import empty_context, quantize_context
from models.checkpoint import export_hf, read_config, save_orbax
from models.formats import kv_format
from models.formats.base import Array, dot
from models.formats.plain import PlainKV, PlainWeights
from models.safetensors_io import INDEX, SINGLE
from models.sharding import make_mesh
from models.sources import open_source
from models.sources.base import Header, Tensors, WeightSource
from models.sources.huggingface import HuggingFaceDirectory
from models.sources.orbax import OrbaxDirectory
from tests.marks import slow

TOKENS = np.random.default_rng(0).integers(3, 250, (1, 24))
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def checkpoint(make_tiny_checkpoint):
    return make_tiny_checkpoint(seed=5, scale=1.0, num_layers=1)


class OneFile(WeightSource):
    """A checkpoint in one file: an archive of arrays whose tokenizer and configuration lie in another directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read_config(self):
        return read_config(self.path.with_suffix(""))

    def tokenizer_files(self):
        return self.path.with_suffix("")

    def tensors(self):
        return Arrays(self.path)


class Arrays(Tensors):
    readable = ("float32",)

    def __init__(self, path: Path) -> None:
        self.arrays = dict(np.load(path))
        self.headers = {name: Header(path.name, x.shape, x.dtype.name, x.nbytes) for name, x in self.arrays.items()}
        self.slices: list[int] = []

    def read(self, name, index):
        return self.arrays[name][index]

    def __exit__(self, *_):
        self.arrays.clear()


def test_a_new_kind_of_checkpoint_is_one_module(checkpoint, tmp_path, monkeypatch):
    """A file format would have to be taught to every function that loads, configures or tokenises."""
    file = tmp_path / "model.arrays"
    (tmp_path / "model").symlink_to(checkpoint)
    with file.open("wb") as opened:
        np.savez(opened, **load_file(checkpoint / SINGLE))
    kind = types.ModuleType("models.sources.arrays")
    kind.claim = lambda path: OneFile(Path(path)) if str(path).endswith(".arrays") else None
    monkeypatch.setitem(sys.modules, "models.sources.arrays", kind)
    monkeypatch.setattr(sources, "_KINDS", ("arrays", *sources._KINDS))
    expected, told = models.load(checkpoint), []
    loaded = models.load(file, mesh=make_mesh((1, 2, 2)), progress=lambda *numbers: told.append(numbers))
    assert loaded.path == file and told[-1][0] == told[-1][1] == sum(
        x.nbytes for x in load_file(checkpoint / SINGLE).values()
    )
    np.testing.assert_allclose(loaded.logits(TOKENS), expected.logits(TOKENS), atol=2e-4)
    assert models.load_tokenizer(file).encode("lamp") == expected.tokenizer.encode("lamp")
    assert models.load(file, quantize="int8").params["layers_0"]["mlp"]["up_proj"]["weight"].dtype == jnp.int8


def test_which_source_opens_a_path(checkpoint, tmp_path):
    """A converted checkpoint would be read as the one that it was made of, or not at all."""
    assert type(open_source(checkpoint)) is HuggingFaceDirectory
    model = models.load(checkpoint)
    save_orbax(tmp_path / "orbax", model.params, model.config, tokenizer_from=checkpoint)
    source = open_source(str(tmp_path / "orbax"))
    assert type(source) is OrbaxDirectory and source.read_config() == model.config
    assert models.load_tokenizer(tmp_path / "orbax").vocab_size == model.tokenizer.vocab_size
    with pytest.raises(ValueError, match="as an Orbax checkpoint, not as named tensors"):
        source.tensors()
    with pytest.raises(FileNotFoundError, match="nowhere is not a directory"):
        open_source(tmp_path / "nowhere")


class Halves(PlainWeights):
    """Matrices in float16 beside one float32 factor a row, which must not be left out."""

    name = "halves"

    def arrays(self, matrix, dtype):
        plain = super().arrays(matrix, dtype)["weight"]
        ones = jax.nn.initializers.ones
        return {
            "weight": Array(plain.axes, plain.shape, jnp.float16, plain.init),
            "factor": Array(matrix.out_axes, matrix.out_shape, jnp.float32, ones),
        }

    def holds(self, module):
        return "factor" in module

    def product(self, x, arrays, matrix, dtype):
        return (dot(x, arrays["weight"], matrix, dtype) * jnp.expand_dims(arrays["factor"], (0, 1))).astype(dtype)

    def keep(self, x, targets, outputs):
        halved = {"weight": (x / 2).astype(jnp.float16), "factor": jnp.full(targets["factor"].shape, 2.0)}
        return {name: jax.device_put(array, targets[name].sharding) for name, array in halved.items()}

    def bytes_per_weight(self, itemsize):
        return 2


class HalfKV(PlainKV):
    name = "halves"
    stored = jnp.dtype(jnp.float16)

    @staticmethod
    def quantize_layer(k, v):
        scale = jnp.full(k.shape[:3], 2.0)
        return dict(k=(k / 2).astype(jnp.float16), v=(v / 2).astype(jnp.float16), k_scale=scale, v_scale=scale)


def test_a_new_format_of_weights_and_keys_is_one_module(checkpoint, tmp_path, monkeypatch):
    """Fewer bits would have to be taught to layers, loading, meshes, exports, Orbax, attention and the planner."""
    module = types.ModuleType("models.formats.halves")
    module.WEIGHTS, module.KV = Halves(), HalfKV()
    monkeypatch.setitem(sys.modules, "models.formats.halves", module)
    for known in (formats.WEIGHTS, formats.KV):
        monkeypatch.setitem(known, "halves", "halves")
    expected = models.load(checkpoint)
    split = make_mesh((1, 2, 2))
    for mesh in (None, split):
        model = models.load(checkpoint, mesh=mesh, quantize="halves")
        kinds = {name: x.dtype.name for name, x in model.params["layers_0"]["mlp"]["up_proj"].items()}
        assert kinds == {"weight": "float16", "factor": "float32"}
        np.testing.assert_allclose(model.logits(TOKENS), expected.logits(TOKENS), rtol=0.02, atol=0.02)
    with pytest.raises(ValueError, match="halves weights are not written as safetensors"):
        export_hf(model.params, model.config, tmp_path / "again")
    save_orbax(tmp_path / "orbax", model.params, model.config)
    assert "halves weights" in repr(models.load(tmp_path / "orbax", mesh=split, quantize="halves"))
    with pytest.raises(ValueError, match="holds halves weights: ask for halves weights to load them"):
        models.load(tmp_path / "orbax", quantize="int8")
    positions = np.arange(24)[None]
    _, block = model.decoder.clone(mesh=None, weights="").apply({"params": expected.params}, TOKENS, positions)
    context = empty_context(model.config, 1, 24, jnp.float32)
    context = jax.tree.map(jnp.asarray, type(context)(block.k, block.v, jnp.asarray([24]), jnp.asarray([[24]])))

    def following(context):
        decoder = model.decoder.clone(mesh=None, weights="")
        return decoder.apply({"params": expected.params}, TOKENS[:, :3], positions[:, :3] + 24, context)[0]

    exact = following(context)
    narrow = quantize_context(context, kv_format("halves").quantize_layer)
    assert narrow.k[0].dtype == jnp.float16
    np.testing.assert_allclose(following(narrow), exact, atol=0.02)


def test_names_of_formats_need_no_jax():
    """--help, and the check of a configuration, would take the seconds in which JAX starts."""
    code = (
        "import sys; from models import formats, sources; print(formats.choices(formats.WEIGHTS), 'jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split()[-1] == "False" and "int8" in done.stdout
    for name, module in {**formats.WEIGHTS, **formats.KV}.items():
        assert importlib.import_module(f"models.formats.{module}") is not None, name


def test_a_model_introduces_itself_in_one_line(checkpoint):
    """In a notebook or a traceback the repr of a model would print all of its weights."""
    model = models.load(checkpoint, "float32", make_mesh((1, 2, 2)), quantize="int8")
    text = repr(model)
    assert len(text) < 250 and "\n" not in text
    for part in ("llama", "M parameters", "float32", "int8 weights", "data=1 context=2 model=2", str(checkpoint)):
        assert part in text
    assert "weights" not in repr(models.load(checkpoint))


def test_profiles_name_the_parts_of_a_forward(checkpoint):
    """Time in a profile could not be told apart: rotary positions, attention and projections of a layer are one name."""
    model = models.load(checkpoint)
    text = model._forward.lower(model.params, TOKENS).as_text(debug_info=True)
    for scope in ("embed/", "attn/q_proj/", "attn/rotate/", "attn/attend/", "mlp/", "logits/"):
        assert scope in text, scope


BROKEN = {
    "a missing library": "raise OSError('libcudart.so.12: cannot open shared object file')",
    "an import error": "raise ImportError('undefined symbol: ncclCommRegister')",
    "no syntax": "def f(:",
    "nothing in it": "",
    "an odd error": "raise RuntimeError('two\\nlines')",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "source, has_metadata",
    [
        (BROKEN["an odd error"], True),
        *(slow(source, True) for name, source in BROKEN.items() if name != "an odd error"),
        slow(BROKEN["a missing library"], False),
    ],
)
def test_a_torch_that_does_not_work_stops_nothing(checkpoint, tmp_path, source, has_metadata):
    """A torch with a missing CUDA library, next to this project, would end every command although nothing needs it."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(source)
    if has_metadata:
        (tmp_path / "torch-2.9.0.dist-info").mkdir()
        (tmp_path / "torch-2.9.0.dist-info" / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: torch\nVersion: 2.9.0\n"
        )
    code = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(tmp_path)!r}]\n"
        "import models, models.encoder, rapid_jax.training.tokenizer\n"
        f"model = models.load({str(checkpoint)!r})\n"
        "print(model.logits([model.tokenizer.encode('lamp')]).shape)\n"
        "from models.checkpoint import save_orbax\n"
        f"save_orbax({str(tmp_path / 'orbax')!r}, model.params, model.config)\n"
        f"print(len(models.load({str(tmp_path / 'orbax')!r}).params))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split("\n")[:2] == ["(1, 4, 264)", "3"], done.stderr


@pytest.fixture
def small_disk():
    """Files of this process may have no more than 4,000 bytes: writing fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("shard_bytes, name", [(10**9, SINGLE), (15_000, "model-00001-of-")])
def test_a_full_disk_names_the_file(checkpoint, tmp_path, small_disk, shard_bytes, name):
    """After hours of training the line would not say where there was no room, and half a file would look like a whole."""
    model = models.load(checkpoint)
    with pytest.raises(OSError, match="cannot be written") as caught:
        export_hf(model.params, model.config, tmp_path / "out", shard_bytes=shard_bytes)
    assert str(tmp_path / "out" / name) in str(caught.value) and "\n" not in str(caught.value)
    assert not any((tmp_path / "out").glob("*.tmp")) and not (tmp_path / "out" / INDEX).exists()


def test_a_full_disk_names_the_orbax_checkpoint(checkpoint, tmp_path, small_disk):
    """The same of what training keeps."""
    model = models.load(checkpoint)
    with pytest.raises(OSError, match="orbax/params cannot be written") as caught:
        save_orbax(tmp_path / "orbax", model.params, model.config)
    assert "\n" not in str(caught.value)


def test_a_file_in_the_place_of_the_output_directory(checkpoint, tmp_path):
    """A misspelt output would end in a traceback."""
    model = models.load(checkpoint)
    (tmp_path / "file").touch()
    for write in (export_hf, lambda params, config, path: save_orbax(path, params, config)):
        with pytest.raises(OSError, match="file/out cannot be written") as caught:
            write(model.params, model.config, tmp_path / "file" / "out")
        assert "\n" not in str(caught.value)

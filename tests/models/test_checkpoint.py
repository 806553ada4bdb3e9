"""Weights from and to disk: what loads, in which memory, and what each damaged checkpoint says."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from safetensors.numpy import load_file, save_file

from models.checkpoint import export_hf, load_params, read_config, restore_orbax, save_orbax
from models.safetensors_io import SafetensorsDirectory
from models.sharding import make_mesh
from tests.golden.decoders import write_checkpoint

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
Q = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture
def checkpoint(tmp_path):
    write_checkpoint("llama31", tmp_path)
    return tmp_path


@pytest.fixture
def config(checkpoint):
    return read_config(checkpoint)


def rewrite(checkpoint, change):
    """Changes the tensors of a single-file checkpoint in place."""
    tensors = load_file(checkpoint / SINGLE)
    change(tensors)
    save_file(tensors, checkpoint / SINGLE)


def assert_same(tree, other):
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), tree, other)


def refusal(checkpoint, config, error=ValueError, **kwargs):
    with pytest.raises(error) as caught:
        load_params(checkpoint, config, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_weights_are_where_the_decoder_expects_them(checkpoint, config):
    """A query head would read another head's rows."""
    params = load_params(checkpoint, config)
    stored = load_file(checkpoint / SINGLE)
    attn = params["layers_1"]["attn"]
    assert attn["q_proj"]["weight"].dtype == np.float32
    np.testing.assert_array_equal(attn["q_proj"]["weight"][2], stored[Q][16:24].astype(np.float32))
    np.testing.assert_array_equal(
        attn["o_proj"]["weight"][:, 3], stored["model.layers.1.self_attn.o_proj.weight"][:, 24:32].astype(np.float32)
    )


@pytest.mark.parametrize("stored", [np.float32, np.float16])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_stored_dtype_loads_as_every_dtype(checkpoint, config, stored, dtype):
    """A half-precision checkpoint would be refused or misread."""
    rewrite(checkpoint, lambda tensors: tensors.update({k: v.astype(stored) for k, v in tensors.items()}))
    weight = load_params(checkpoint, config, dtype=dtype)["embed"]["weight"]
    expected = load_file(checkpoint / SINGLE)["model.embed_tokens.weight"].astype(jnp.dtype(dtype))
    assert weight.dtype == jnp.dtype(dtype)
    np.testing.assert_array_equal(np.asarray(weight), expected)


def test_sharded_files_hold_the_same_model(checkpoint, config):
    """A checkpoint split by an index, as all large ones are, would not load."""
    params = load_params(checkpoint, config, dtype="bfloat16")
    export_hf(params, config, checkpoint / "split", shard_bytes=20_000)
    assert (checkpoint / "split" / INDEX).is_file()
    assert len(list((checkpoint / "split").glob("*.safetensors"))) > 2
    assert read_config(checkpoint / "split") == config
    assert_same(load_params(checkpoint / "split", config, dtype="bfloat16"), params)


def test_single_file_export_is_the_checkpoint_again(checkpoint, config):
    """Training would export weights in another layout than Hugging Face's."""
    export_hf(load_params(checkpoint, config), config, checkpoint / "again", "bfloat16")
    original, again = load_file(checkpoint / SINGLE), load_file(checkpoint / "again" / SINGLE)
    assert original.keys() == again.keys()
    for name, tensor in original.items():
        np.testing.assert_array_equal(tensor, again[name])


@pytest.mark.parametrize("name", ["llama31", "llama_biases", "qwen3"])
def test_a_mesh_gets_the_same_weights_split(name, tmp_path):
    """A device would hold the wrong heads, or a whole copy of the model."""
    write_checkpoint(name, tmp_path)
    config = read_config(tmp_path)
    sharded = load_params(tmp_path, config, mesh=make_mesh((2, 2, 2)))
    assert_same(sharded, load_params(tmp_path, config))
    weight = sharded["layers_0"]["attn"]["o_proj"]["weight"]
    assert weight.sharding.spec == P("context", "model", None)
    assert weight.addressable_shards[0].data.shape == (16, 2, config.head_dim)


def test_each_shard_is_read_alone_and_once(checkpoint, config, monkeypatch):
    """Loading a 70B model would need the host memory of whole tensors, or read the file once for every replica."""
    read, sizes = SafetensorsDirectory.read, {}

    def counted(self, name, index):
        piece = read(self, name, index)
        sizes.setdefault(name, []).append(piece.size)
        return piece

    monkeypatch.setattr(SafetensorsDirectory, "read", counted)
    load_params(checkpoint, config, mesh=make_mesh((2, 2, 2)))
    assert sizes[Q] == [32 * 32 // 4] * 4
    assert sizes["model.norm.weight"] == [16, 16]


def test_progress_counts_bytes_to_the_end(checkpoint, config):
    """The progress bar of a long load would not move or not end."""
    calls = []
    load_params(checkpoint, config, progress=lambda done, total: calls.append((done, total)))
    done, total = calls[-1]
    assert done == total == sum(2 * v.size for v in load_file(checkpoint / SINGLE).values())
    assert [c[0] for c in calls] == sorted({c[0] for c in calls})


def test_harmless_surplus_is_accepted(checkpoint, config):
    """Old LLaMA checkpoints, which store inv_freq buffers, would be refused."""
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)}
    rewrite(checkpoint, lambda tensors: tensors.update(extra))
    load_params(checkpoint, config)


def test_tied_checkpoint_may_hold_a_copy_of_the_embedding_only(tmp_path):
    """A head that was trained apart from the embedding would be dropped silently."""
    write_checkpoint("llama32_tied", tmp_path)
    config = read_config(tmp_path)
    rewrite(tmp_path, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"]}))
    load_params(tmp_path, config)
    rewrite(tmp_path, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"] * 2}))
    assert "lm_head.weight differs from model.embed_tokens.weight" in refusal(tmp_path, config)


def test_missing_tensor(checkpoint, config):
    rewrite(checkpoint, lambda tensors: tensors.pop(Q))
    assert f"tensor {Q} [32, 32] is missing" in refusal(checkpoint, config)


def test_more_layers_than_the_files_hold(checkpoint, config):
    message = refusal(checkpoint, dataclasses.replace(config, num_layers=3))
    assert "tensor model.layers.2." in message
    assert "(and 8 more)" in message


def test_surplus_tensor(checkpoint, config):
    rewrite(checkpoint, lambda tensors: tensors.update({"model.layers.7.x": np.ones(1, np.float32)}))
    assert "tensor model.layers.7.x is not part of the model of config.json" in refusal(checkpoint, config)


def test_misshapen_tensor(checkpoint, config):
    rewrite(checkpoint, lambda tensors: tensors.update({Q: np.ascontiguousarray(tensors[Q][:, :30])}))
    assert f"tensor {Q} has shape [32, 30], should be [32, 32]" in refusal(checkpoint, config)


def test_integer_tensor(checkpoint, config):
    rewrite(checkpoint, lambda tensors: tensors.update({Q: tensors[Q].astype(np.int8)}))
    assert f"tensor {Q} has dtype I8; readable: F32, BF16, F16" in refusal(checkpoint, config)


@pytest.mark.parametrize("kept", [0, 5, 1000, -7])
def test_truncated_file(checkpoint, config, kept):
    """An interrupted download would end in a traceback, or in a model with wrong weights."""
    whole = (checkpoint / SINGLE).read_bytes()
    (checkpoint / SINGLE).write_bytes(whole[:kept])
    assert "model.safetensors is truncated or not a safetensors file" in refusal(checkpoint, config)


def test_no_weights_at_all(checkpoint, config):
    (checkpoint / SINGLE).unlink()
    (checkpoint / "pytorch_model.bin").touch()
    message = refusal(checkpoint, config, FileNotFoundError)
    assert "holds neither model.safetensors nor model.safetensors.index.json" in message


@pytest.fixture
def split(checkpoint, config):
    export_hf(load_params(checkpoint, config), config, checkpoint / "split", shard_bytes=40_000)
    return checkpoint / "split"


def test_index_names_a_missing_file(split, config):
    file = sorted(split.glob("*.safetensors"))[1]
    file.unlink()
    message = refusal(split, config, FileNotFoundError)
    assert f"{file.name} is missing; {INDEX} says that it holds tensor " in message


def test_index_names_a_tensor_that_its_file_does_not_hold(split, config):
    index = json.loads((split / INDEX).read_text())
    index["weight_map"]["model.layers.9.x"] = sorted(split.glob("*.safetensors"))[0].name
    (split / INDEX).write_text(json.dumps(index))
    assert "tensor model.layers.9.x should be in model-00001-of" in refusal(split, config)


def test_index_without_a_weight_map(split, config):
    (split / INDEX).write_text("{}")
    assert "weight_map must map tensor names to file names" in refusal(split, config)


def test_nothing_is_read_before_the_headers_are_right(checkpoint, config, monkeypatch):
    """A user would wait minutes for a 70B checkpoint to load before hearing that its last tensor is missing."""
    rewrite(checkpoint, lambda tensors: tensors.pop("model.norm.weight"))
    monkeypatch.setattr(SafetensorsDirectory, "read", lambda *_: pytest.fail("read a weight"))
    refusal(checkpoint, config)


def test_mesh_that_does_not_divide(checkpoint, config):
    message = refusal(checkpoint, config, mesh=make_mesh((1, 1, 4)))
    assert "mesh axis model=4 does not divide the model's 2 key-value heads" in message


def test_unknown_dtype(checkpoint, config):
    assert refusal(checkpoint, config, dtype="int4") == (
        "dtype 'int4' is not supported; known: float32, bfloat16, float16"
    )


@pytest.mark.parametrize("mesh_shape", [None, (1, 2, 2)])
def test_orbax_round_trip(checkpoint, config, mesh_shape):
    """A converted checkpoint would come back changed, or not on the mesh that asks for it."""
    params = load_params(checkpoint, config, mesh=make_mesh((2, 2, 2)))
    save_orbax(checkpoint / "orbax", params, config)
    mesh = make_mesh(mesh_shape) if mesh_shape else None
    restored = restore_orbax(checkpoint / "orbax", mesh)
    assert_same(restored, params)
    if mesh is not None:
        assert restored["embed"]["weight"].sharding.mesh == mesh
    assert restore_orbax(checkpoint / "orbax", dtype="bfloat16")["embed"]["weight"].dtype == jnp.bfloat16


def test_orbax_is_not_overwritten(checkpoint, config):
    params = load_params(checkpoint, config)
    save_orbax(checkpoint / "orbax", params, config)
    with pytest.raises(ValueError, match=r"orbax/params already exists; give an empty directory"):
        save_orbax(checkpoint / "orbax", params, config)


def test_orbax_of_another_model(checkpoint, config):
    save_orbax(checkpoint / "orbax", load_params(checkpoint, config), config)
    settings = json.loads((checkpoint / "orbax" / "config.json").read_text())
    (checkpoint / "orbax" / "config.json").write_text(json.dumps({**settings, "intermediate_size": 64}))
    with pytest.raises(ValueError, match=r"has shape \(32, 48\), config.json asks for \(32, 64\)"):
        restore_orbax(checkpoint / "orbax")


def test_damaged_orbax(checkpoint, config):
    save_orbax(checkpoint / "orbax", load_params(checkpoint, config), config)
    for file in (checkpoint / "orbax" / "params").rglob("d/*"):
        file.write_bytes(b"")
    with pytest.raises(ValueError, match="orbax/params is incomplete or damaged") as caught:
        restore_orbax(checkpoint / "orbax")
    assert "\n" not in str(caught.value)


def test_no_orbax(checkpoint):
    with pytest.raises(FileNotFoundError, match="holds no Orbax checkpoint"):
        restore_orbax(checkpoint)


@pytest.mark.parametrize(
    "text, message",
    [("{", "is not valid JSON"), ("[1]", "must hold a JSON object"), ('{"architectures": ["T5"]}', "'T5' is not supp")],
)
def test_bad_config_names_its_file(checkpoint, text, message):
    (checkpoint / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_config(checkpoint)
    assert str(checkpoint / "config.json") in str(caught.value)


def test_no_config(checkpoint):
    (checkpoint / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        read_config(checkpoint)

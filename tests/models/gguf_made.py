"""GGUF files for tests: a Hugging Face directory written as llama.cpp's converter writes it, in any type that can be."""

import json
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType, quants
from safetensors.numpy import load_file

from models.sources.gguf import _INNER, _OUTER

_NAMES = {theirs: ours for ours, theirs in _INNER.items()}
_ENDS = {theirs: ours for ours, theirs in _OUTER.items()}


def gguf_name(name: str) -> str:
    """The GGUF name of one of Hugging Face's tensors."""
    stem, _, kind = name.rpartition(".")
    if stem in _ENDS:
        return f"{_ENDS[stem]}.{kind}"
    _, _, layer, *rest = stem.split(".")
    return f"blk.{layer}.{_NAMES['.'.join(rest)]}.{kind}"


def interleaved(array: np.ndarray, heads: int) -> np.ndarray:
    """Rows of queries or keys as llama.cpp's converter orders them."""
    return array.reshape(heads, 2, len(array) // heads // 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)


def write(
    path: Path, directory: Path, *, kind: str = "F32", tokenizer=None, drop=(), tensors=None, **changes
) -> dict[str, np.ndarray]:
    """Writes a directory's model as a GGUF file.

    Args:
      path: the file.
      directory: config.json and model.safetensors.
      kind: type of the matrices; vectors are F32.
      tokenizer: a function of the writer that adds one.
      drop: metadata to leave out.
      tensors: further ones, in float32.
      changes: metadata to add or replace, dots written as two underscores.

    Returns:
      The tensors that the file stands for, under Hugging Face's names.
    """
    config = json.loads((directory / "config.json").read_text())
    name = config["model_type"]
    writer = gguf.GGUFWriter(path, changes.pop("general__architecture", name))
    fields = {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config.get("num_key_value_heads", config["num_attention_heads"]),
        "attention.key_length": config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"],
        "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "rope.freq_base": float(config["rope_theta"]),
    }
    fields = {f"{name}.{key}": value for key, value in fields.items()}
    for key, value in (("bos", config.get("bos_token_id")), ("eos", config.get("eos_token_id"))):
        if value is not None:
            fields[f"tokenizer.ggml.{key}_token_id"] = value
    fields |= {key.replace("__", "."): value for key, value in changes.items()}
    for key, value in fields.items():
        if key not in drop:
            add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string, bool: writer.add_bool}
            writer_of = add.get(type(value), writer.add_array)
            writer_of(key, value)
    if tokenizer is not None:
        tokenizer(writer)
    stands_for = {}
    for tensor, array in load_file(directory / "model.safetensors").items():
        array = np.asarray(array, np.float32)
        heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}.get(tensor.split(".")[-2])
        count = config.get(heads, config["num_attention_heads"]) if heads else 0
        permuted = name == "llama" and count
        stored = interleaved(array, count) if permuted else array
        as_kind = GGMLQuantizationType[kind if array.ndim > 1 else "F32"]
        data = quants.quantize(stored, as_kind)
        writer.add_tensor(gguf_name(tensor), data, raw_dtype=as_kind)
        back = np.asarray(quants.dequantize(data, as_kind), np.float32).reshape(array.shape)
        if permuted:
            order = interleaved(np.arange(len(array)), count)
            undone = np.empty_like(back)
            undone[order] = back
            back = undone
        stands_for[tensor] = back
    for tensor, array in (tensors or {}).items():
        writer.add_tensor(tensor, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return stands_for

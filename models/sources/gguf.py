"""A GGUF file of llama.cpp: configuration, tokenizer and tensors of a LLaMA or Qwen model, in one file or several."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from models import registry
from models.config import ModelConfig
from models.fields import shown
from models.gguf_file import MAGIC, GGUFTensor, can_be_read, read_header
from models.gguf_tokenizer import stop_ids, tokenizer_directory
from models.sources.base import Header, Tensors, WeightSource

_ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
_PERMUTED = ("llama",)  # architectures whose queries and keys llama.cpp interleaves for its own rotary positions
_OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_INNER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_FREQUENCIES = "rope_freqs.weight"  # what "llama3" divides each rotary frequency by
_SIZES = {
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "context_length": "max_position_embeddings",
}


class GGUFFile(WeightSource):
    """A file, the first one where there are several."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read_config(self) -> ModelConfig:
        header = read_header(self.path)
        fields = _config_json(header.metadata, header.tensors, self.path)
        try:
            config = registry.config_from_hf(fields)
        except ValueError as error:
            raise ValueError(str(error).replace("config.json", str(self.path), 1)) from None
        _check_frequencies(header.tensors.get(_FREQUENCIES), config, self.path)
        return config

    def tokenizer_files(self) -> Path:
        return tokenizer_directory(self.path)

    def tensors(self) -> Tensors:
        return GGUFTensors(self.path, self.read_config())

    def for_transformers(self) -> dict[str, Any]:
        return {"pretrained_model_name_or_path": str(self.path.parent), "gguf_file": self.path.name}

    def for_llama_cpp(self) -> Path:
        return self.path


class GGUFTensors(Tensors):
    """The tensors under Hugging Face's names and in its layout."""

    def __init__(self, path: Path, config: ModelConfig):
        header = read_header(path)
        permuted = header.metadata["general.architecture"] in _PERMUTED
        self._tensors = {_hf_name(name): tensor for name, tensor in header.tensors.items() if name != _FREQUENCIES}
        self._heads = dict(q_proj=config.num_heads, k_proj=config.num_kv_heads) if permuted else {}
        self.headers = {
            name: Header(str(t.file), t.shape, t.kind, t.nbytes) for name, t in sorted(self._tensors.items())
        }
        kinds = sorted({tensor.kind for tensor in self._tensors.values()})
        self.readable = tuple(kind for kind in kinds if can_be_read(kind)) or ("F32", "F16", "BF16")

    def __exit__(self, *_: object) -> None:
        pass

    def read(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        tensor = self._tensors[name]
        wanted = [slice(*s.indices(n)[:2]) for s, n in zip(index, tensor.shape, strict=True)]
        heads = next((n for projection, n in self._heads.items() if f".{projection}." in name), 0)
        if len(wanted) == 1:
            if not heads:
                return tensor.read(slice(0, 1), wanted[0])[0]
            return tensor.read(slice(0, 1), slice(0, tensor.shape[0]))[0][_rows(tensor.shape[0], heads)][wanted[0]]
        if not heads:
            return tensor.read(wanted[0], wanted[1])
        rows = _rows(tensor.shape[0], heads)[wanted[0]]
        first = int(rows.min())
        return tensor.read(slice(first, int(rows.max()) + 1), wanted[1])[rows - first]


def _rows(count: int, heads: int) -> np.ndarray:
    """For each row of Hugging Face's order the row of llama.cpp's: there the two halves of a head alternate."""
    return np.arange(count).reshape(heads, -1, 2).swapaxes(1, 2).ravel()


def _hf_name(name: str) -> str:
    """Hugging Face's name of a tensor; that of an unknown one stays."""
    block = re.fullmatch(r"blk\.(0|[1-9]\d{0,5})\.([a-z_]+)\.(weight|bias)", name)
    if block and block[2] in _INNER:
        return f"model.layers.{block[1]}.{_INNER[block[2]]}.{block[3]}"
    outer, _, kind = name.rpartition(".")
    return f"{_OUTER[outer]}.{kind}" if outer in _OUTER else name


def _config_json(metadata: Mapping[str, Any], tensors: Mapping[str, GGUFTensor], path: Path) -> dict[str, Any]:
    """The config.json that says the same as a file's metadata.

    Raises:
      ValueError: an unknown architecture, a field that is missing, or a rotary setting that is not supported.
    """
    name = metadata.get("general.architecture")
    if not isinstance(name, str) or name not in _ARCHITECTURES:
        known = ", ".join(_ARCHITECTURES)
        raise ValueError(f"{path}: architecture {shown(name)} is not supported; known: {known}")

    def value(key: str, default: Any = None) -> Any:
        found = metadata.get(f"{name}.{key}", default)
        if isinstance(found, list) and found and all(one == found[0] for one in found):
            return found[0]  # the same in every layer
        return found

    missing = next((f"{name}.{key}" for key in _SIZES if value(key) is None), None)
    if missing is not None:
        raise ValueError(f"{path}: the field {missing} is missing")
    if "token_embd.weight" not in tensors:
        raise ValueError(f"{path}: tensor token_embd.weight is missing")
    fields = {theirs: value(key) for key, theirs in _SIZES.items()}
    heads, width = fields["num_attention_heads"], fields["hidden_size"]
    head_dim = value("attention.key_length")
    if head_dim is None and all(isinstance(n, int) and n > 0 for n in (heads, width)) and width % heads == 0:
        head_dim = width // heads
    for key in ("attention.value_length", "rope.dimension_count"):
        if value(key, head_dim) != head_dim:
            raise ValueError(
                f"{path}: {name}.{key} is {shown(value(key))}, and heads of {shown(head_dim)} are supported"
            )
    for key in ("expert_count", "attention.sliding_window"):
        if value(key, 0) != 0:
            raise ValueError(f"{path}: {name}.{key} is {shown(value(key))}; models without it are supported")
    biased = {part: f"blk.0.{part}.bias" in tensors for part in ("attn_q", "attn_output", "ffn_gate")}
    own: dict[str, Any] = {}
    if name == "llama":
        own = {"attention_bias": biased["attn_q"], "mlp_bias": biased["ffn_gate"]}
    elif name == "qwen3":
        own = {"attention_bias": biased["attn_q"]}
    epsilon = value("attention.layer_norm_rms_epsilon", 1e-6)
    return {
        **fields,
        **own,
        "architectures": [_ARCHITECTURES[name]],
        "vocab_size": tensors["token_embd.weight"].shape[0],
        "num_key_value_heads": value("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": float(f"{epsilon:.6g}") if isinstance(epsilon, float) else epsilon,  # 1e-5 came as a float32
        "rope_theta": value("rope.freq_base", 10_000.0),
        "rope_scaling": _rope(value, tensors.get(_FREQUENCIES), path),
        "tie_word_embeddings": "output.weight" not in tensors,
        "bos_token_id": metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": list(stop_ids(metadata, path)) or None,
    }


def _rope(value: Any, frequencies: GGUFTensor | None, path: Path) -> dict[str, Any] | None:
    """The rope_scaling of a config.json; None where nothing is stretched."""
    kind, factor = value("rope.scaling.type"), value("rope.scaling.factor", value("rope.scale_linear", 1.0))
    if frequencies is not None:
        if kind not in (None, "none", "llama3"):
            raise ValueError(f"{path}: {_FREQUENCIES} and rope scaling {shown(kind)} are not supported together")
        # LLaMA-3.1 and 3.2: the tensor holds 1 where nothing is stretched and the factor where all is.
        stretch = float(np.max(_divisors(frequencies, path)))
        band = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
        return {"rope_type": "llama3", "factor": stretch, **band}
    if kind == "none" or (kind is None and factor in (0.0, 1.0)):
        return None
    if kind in (None, "linear"):
        return {"rope_type": "linear", "factor": factor}
    if kind != "yarn":
        raise ValueError(f"{path}: rope scaling {shown(kind)} is not supported; known: none, linear, yarn")
    settings = {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": value("rope.scaling.original_context_length", value("context_length")),
        "beta_fast": value("rope.scaling.yarn_beta_fast"),
        "beta_slow": value("rope.scaling.yarn_beta_slow"),
    }
    scale = value("rope.scaling.attn_factor")  # llama.cpp multiplies the scale of YaRN with it
    if isinstance(scale, float) and isinstance(factor, float) and factor >= 1:
        settings["attention_factor"] = scale * (0.1 * math.log(factor) + 1)
    return {name: setting for name, setting in settings.items() if setting is not None}


def _divisors(frequencies: GGUFTensor, path: Path) -> np.ndarray:
    """What each rotary frequency is divided by, float32 [H/2]."""
    if frequencies.kind != "F32" or len(frequencies.shape) != 1:
        raise ValueError(
            f"{path}: {_FREQUENCIES} must be one row of F32, got {frequencies.kind} {list(frequencies.shape)}"
        )
    return frequencies.read(slice(0, 1), slice(0, frequencies.shape[0]))[0]


def _check_frequencies(frequencies: GGUFTensor | None, config: ModelConfig, path: Path) -> None:
    """Raises ValueError where the stretch that a tensor lays down is not that of LLaMA-3.1 and 3.2."""
    if frequencies is None:
        return
    from models.config import RopeConfig
    from models.rope import inverse_frequencies

    stated = _divisors(frequencies, path)
    plain = inverse_frequencies(RopeConfig(theta=config.rope.theta), config.head_dim)
    ours = plain / inverse_frequencies(config.rope, config.head_dim)
    if stated.shape != ours.shape or not np.allclose(stated, ours, rtol=1e-3):
        raise ValueError(f"{path}: {_FREQUENCIES} is not that of LLaMA-3.1 or 3.2; no other is supported")


def claim(path: Path) -> WeightSource | None:
    """Takes a file that is called .gguf or begins as one."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return GGUFFile(path) if path.suffix == ".gguf" or file.read(4) == MAGIC else None

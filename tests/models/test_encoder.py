"""Sentence encoders against values recorded from Hugging Face transformers, and checkpoints that must be refused."""

import importlib.util
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import tokenizers
import transformers

from models import encoder as encoder_lib
from models.encoder_config import EncoderConfig

GOLDEN = Path(__file__).parents[1] / "golden"
TOLERANCE = 2e-4
PREFIXES = {"bert": "bert.", "xlm_roberta": "roberta."}
SPECIAL = {"bert": ["<pad>", "<unk>", "<s>", "</s>"], "xlm_roberta": ["<s>", "<pad>", "</s>", "<unk>"]}
CONFIGS = {
    "bert": {"model_type": "bert", "pad_token_id": 0, "layer_norm_eps": 1e-12, "type_vocab_size": 2},
    "xlm_roberta": {"model_type": "xlm-roberta", "pad_token_id": 1, "layer_norm_eps": 1e-5, "type_vocab_size": 1},
}
SIZES = {
    "vocab_size": 48,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 24,
    "hidden_act": "gelu",
}


def write_json(file: Path, content) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content))


def read_tensors(kind: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"encoder_{kind}.npz") as golden:
        return {name.removeprefix("tensor:"): golden[name] for name in golden.files if name.startswith("tensor:")}


def read_golden(kind: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"encoder_{kind}.npz") as golden:
        return {name: golden[name] for name in golden.files if not name.startswith("tensor:")}


def make_checkpoint(directory: Path, kind: str, tensors=None) -> Path:
    """A checkpoint directory with the golden weights and a tokenizer whose word `w7` is token 7."""
    special = SPECIAL[kind]
    vocabulary = {token: i for i, token in enumerate(special + [f"w{i}" for i in range(4, SIZES["vocab_size"])])}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    words.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(token, vocabulary[token]) for token in ("<s>", "</s>")]
    )
    names = {"cls_token": "<s>", "sep_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, **names).save_pretrained(directory)
    write_json(directory / "config.json", SIZES | CONFIGS[kind])
    tensors = read_tensors(kind) if tensors is None else tensors
    safetensors.numpy.save_file(tensors, directory / "model.safetensors")
    return directory


def add_sentence_files(directory: Path, pooling: str, normalize: bool, **settings) -> None:
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]
    write_json(directory / "modules.json", modules[: 2 + normalize])
    modes = {f"pooling_mode_{mode}": False for mode in ("cls_token", "mean_tokens", "max_tokens")}
    modes |= {"word_embedding_dimension": 24, f"pooling_mode_{pooling}": True}
    write_json(directory / "1_Pooling" / "config.json", modes)
    write_json(directory / "sentence_bert_config.json", settings)


def hidden_states(directory: Path, token_ids: np.ndarray, mask: np.ndarray) -> jax.Array:
    encoder = encoder_lib.load_encoder(directory)
    forward = jax.jit(encoder_lib.Encoder(encoder.config).apply)
    return forward({"params": encoder.params}, token_ids, mask)


@pytest.mark.parametrize("kind", CONFIGS)
def test_hidden_states_match_transformers(tmp_path, kind):
    """A wrong position, norm or mask would quietly retrieve worse passages than the published encoder."""
    golden = read_golden(kind)
    hidden = hidden_states(make_checkpoint(tmp_path, kind), golden["token_ids"], golden["mask"])
    real = golden["mask"][:, :, None]
    np.testing.assert_allclose(hidden * real, golden["hidden"] * real, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_sentence_vectors_match_transformers(kind, pooling):
    golden = read_golden(kind)
    vectors = encoder_lib.pool(golden["hidden"], jnp.asarray(golden["mask"]), pooling, normalize=True)
    np.testing.assert_allclose(vectors, golden[pooling], atol=TOLERANCE, rtol=0)


def test_max_pooling_ignores_padding():
    hidden = jnp.array([[[-3.0, -1.0], [-2.0, -4.0], [9.0, 9.0]]])
    vectors = encoder_lib.pool(hidden, jnp.array([[True, True, False]]), "max", normalize=False)
    np.testing.assert_array_equal(vectors, [[-2.0, -1.0]])


@pytest.mark.parametrize(("kind", "pooling"), [("bert", "mean_tokens"), ("xlm_roberta", "cls_token")])
def test_texts_in_any_batch_match_texts_alone(tmp_path, kind, pooling):
    """Padding, bucketing and sorting by length must not leak between texts or change their order."""
    directory = make_checkpoint(tmp_path, kind)
    add_sentence_files(directory, pooling, normalize=True, max_seq_length=20)
    encoder = encoder_lib.load_encoder(directory)
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{i}" for i in rng.integers(4, 48, length)) for length in (3, 17, 1, 9, 0, 5, 18, 2, 11)]
    alone = np.concatenate([encoder.encode([text]) for text in texts])
    np.testing.assert_allclose(encoder.encode(texts, batch_size=4), alone, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(alone, axis=1), 1.0, atol=1e-5)
    ids = np.array([encoder.tokenizer(texts[1])["input_ids"]])
    hidden = hidden_states(directory, ids, np.ones_like(ids, bool))
    by_hand = np.asarray(hidden[0, 0] if pooling == "cls_token" else hidden[0].mean(axis=0))
    np.testing.assert_allclose(alone[1], by_hand / np.linalg.norm(by_hand), atol=1e-5)


def test_no_texts_give_no_vectors(tmp_path):
    assert encoder_lib.load_encoder(make_checkpoint(tmp_path, "bert")).encode([]).shape == (0, 24)


def test_few_shapes_are_compiled(tmp_path):
    """A compilation for every document length would make each first question slow."""
    encoder = encoder_lib.load_encoder(make_checkpoint(tmp_path, "bert"))
    encoder.encode(["w4 " * 3] * 4)  # [4, 16] tokens, as all below
    compiled = encoder_lib.embed._cache_size()
    for length in range(14):
        encoder.encode(["w5 " * length] * (3 + length % 2))
    assert encoder_lib.embed._cache_size() == compiled


def test_a_text_over_the_limit_is_cut_and_said(tmp_path, caplog):
    """Nothing is truncated silently; the closing special token stays."""
    directory = make_checkpoint(tmp_path, "bert")
    add_sentence_files(directory, "mean_tokens", normalize=True, max_seq_length=8)
    encoder = encoder_lib.load_encoder(directory)
    words = [f"w{i}" for i in range(4, 24)]
    with caplog.at_level("WARNING", logger="absl"):
        cut = encoder.encode([" ".join(words), "w4"])[0]
    assert "1 of 2 texts exceed the encoder's 8 tokens (the longest has 22)" in caplog.text
    np.testing.assert_allclose(cut, encoder.encode([" ".join(words[:6])])[0], atol=1e-5)


@pytest.mark.parametrize(("kind", "limit"), [("bert", 24), ("xlm_roberta", 22)])
def test_the_limit_never_exceeds_the_position_table(tmp_path, kind, limit):
    """XLM-RoBERTa's first two positions are taken: reading past the table would give garbage."""
    directory = make_checkpoint(tmp_path, kind)
    add_sentence_files(directory, "mean_tokens", normalize=True, max_seq_length=512)
    assert EncoderConfig.from_directory(directory).max_seq_length == limit


def test_the_tokenizer_limit_counts_without_a_sentence_limit(tmp_path):
    directory = make_checkpoint(tmp_path, "bert")
    write_json(directory / "tokenizer_config.json", {"model_max_length": 12})
    assert EncoderConfig.from_directory(directory).max_seq_length == 12


@pytest.mark.parametrize(("settings", "pooling"), [({"pooling_mode": "cls"}, "cls"), ({"pooling_mode": "max"}, "max")])
def test_both_spellings_of_the_pooling_are_read(tmp_path, settings, pooling):
    directory = make_checkpoint(tmp_path, "bert")
    add_sentence_files(directory, "mean_tokens", normalize=False)
    write_json(directory / "1_Pooling" / "config.json", settings)
    config = EncoderConfig.from_directory(directory)
    assert (config.pooling, config.normalize) == (pooling, False)


def test_lower_casing_is_honoured(tmp_path):
    directory = make_checkpoint(tmp_path, "bert")
    add_sentence_files(directory, "mean_tokens", normalize=True, do_lower_case=True)
    encoder = encoder_lib.load_encoder(directory)
    np.testing.assert_array_equal(encoder.encode(["W4 W9"]), encoder.encode(["w4 w9"]))


@pytest.mark.parametrize("kind", CONFIGS)
def test_prefixes_heads_and_old_names_are_accepted(tmp_path, kind):
    """Published files carry prefixes, unused heads, position buffers and gamma/beta for layer norms."""
    tensors = {PREFIXES[kind] + name: value for name, value in read_tensors(kind).items()}
    tensors = {
        name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): value
        for name, value in tensors.items()
    }
    unused = ("pooler.dense.weight", "embeddings.position_ids")
    tensors |= {PREFIXES[kind] + name: np.zeros((1, 2), np.float32) for name in unused}
    tensors |= {"cls.predictions.bias": np.zeros(2, np.float32), "lm_head.bias": np.zeros(2, np.float32)}
    plain = encoder_lib.load_encoder(make_checkpoint(tmp_path / "plain", kind)).encode(["w4 w5"])
    dressed = encoder_lib.load_encoder(make_checkpoint(tmp_path / "dressed", kind, tensors)).encode(["w4 w5"])
    np.testing.assert_array_equal(plain, dressed)


def test_sharded_and_bfloat16_checkpoints_load(tmp_path):
    tensors = {name: value.astype(ml_dtypes.bfloat16) for name, value in read_tensors("bert").items()}
    directory = make_checkpoint(tmp_path, "bert", tensors)
    whole = encoder_lib.load_encoder(directory).encode(["w4 w5 w6"])
    (directory / "model.safetensors").unlink()
    shards = {"model-1-of-2.safetensors": list(tensors)[::2], "model-2-of-2.safetensors": list(tensors)[1::2]}
    for file, names in shards.items():
        safetensors.numpy.save_file({name: tensors[name] for name in names}, directory / file)
    weight_map = {name: file for file, names in shards.items() for name in names}
    write_json(directory / "model.safetensors.index.json", {"weight_map": weight_map})
    np.testing.assert_array_equal(encoder_lib.load_encoder(directory).encode(["w4 w5 w6"]), whole)
    half = encoder_lib.load_encoder(directory, jnp.bfloat16).encode(["w4 w5 w6"])
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, whole, atol=0.05)


def edit_config(directory: Path, **changes) -> None:
    write_json(directory / "config.json", json.loads((directory / "config.json").read_text()) | changes)


def save_tensors(directory: Path, change) -> None:
    tensors = read_tensors("bert")
    change(tensors)
    safetensors.numpy.save_file(tensors, directory / "model.safetensors")


def add_words(file: Path) -> None:
    tokenizer = json.loads(file.read_text())
    tokenizer["model"]["vocab"] |= {"w48": 48, "w49": 49}
    write_json(file, tokenizer)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-8])


QUERY = "encoder.layer.1.attention.self.query.weight"
BAD = {
    "not a directory": (shutil.rmtree, FileNotFoundError, "no encoder at"),
    "no config": (lambda d: (d / "config.json").unlink(), FileNotFoundError, "config.json is missing"),
    "broken config": (lambda d: (d / "config.json").write_text("{"), ValueError, "not valid JSON"),
    "broken modules": (lambda d: (d / "modules.json").write_text("[{}]"), ValueError, "not a list of sentence-trans"),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), FileNotFoundError, "holds neither model.safetensors"),
    "architecture": (lambda d: edit_config(d, model_type="mpnet"), ValueError, "known are bert, xlm-roberta"),
    "activation": (lambda d: edit_config(d, hidden_act="mish"), ValueError, "unknown hidden_act 'mish'"),
    "positions": (lambda d: edit_config(d, position_embedding_type="relative_key"), ValueError, "must be 'absolute'"),
    "heads": (lambda d: edit_config(d, num_attention_heads=5), ValueError, "multiple of num_attention_heads"),
    "no size": (lambda d: edit_config(d, intermediate_size=None), ValueError, "intermediate_size"),
    "missing tensor": (lambda d: save_tensors(d, lambda t: t.pop(QUERY)), ValueError, f"{QUERY} .* is missing"),
    "surplus tensor": (
        lambda d: save_tensors(d, lambda t: t.update(x=t[QUERY])),
        ValueError,
        "tensor x is not part of the model",
    ),
    "misshapen tensor": (
        lambda d: save_tensors(d, lambda t: t.update({QUERY: t[QUERY][:5].copy()})),
        ValueError,
        r"query.weight has shape \[5, 24\], should be \[24, 24\]",
    ),
    "truncated file": (
        lambda d: truncate(d / "model.safetensors"),
        ValueError,
        "is truncated or not a safetensors file",
    ),
    "no tokenizer": (lambda d: [f.unlink() for f in d.glob("tokenizer*")], FileNotFoundError, "no tokenizer"),
    "another tokenizer": (lambda d: add_words(d / "tokenizer.json"), ValueError, "has 50 tokens, the encoder only 48"),
    "pooling": (
        lambda d: write_json(d / "1_Pooling" / "config.json", {"pooling_mode_lasttoken": True}),
        ValueError,
        "unknown pooling 'pooling_mode_lasttoken'",
    ),
    "module": (
        lambda d: write_json(d / "modules.json", [{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}]),
        ValueError,
        "unknown module 'Dense'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_checkpoints_are_refused_in_one_line(tmp_path, case):
    spoil, error, message = BAD[case]
    directory = make_checkpoint(tmp_path / "encoder", "bert")
    add_sentence_files(directory, "mean_tokens", normalize=True)
    spoil(directory)
    with pytest.raises(error, match=message) as caught:
        encoder_lib.load_encoder(directory)
    assert "\n" not in str(caught.value)


@pytest.mark.parity
@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("seed", [3, 4])
def test_live_parity_with_transformers(tmp_path, kind, seed):
    """As the golden values, with the installed transformers and other weights."""
    pytest.importorskip("torch")
    spec = importlib.util.spec_from_file_location("make_encoder", GOLDEN / "make_encoder.py")
    make_encoder = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_encoder)
    model = make_encoder.build(kind, seed)
    token_ids, mask = make_encoder.make_batch(model.config.pad_token_id, seed)
    expected = make_encoder.run(model, token_ids, mask)
    make_checkpoint(tmp_path, kind)
    model.save_pretrained(tmp_path)  # replaces config.json and the weights by what transformers writes
    hidden = hidden_states(tmp_path, token_ids, mask)
    np.testing.assert_allclose(hidden * mask[:, :, None], expected["hidden"] * mask[:, :, None], atol=TOLERANCE, rtol=0)

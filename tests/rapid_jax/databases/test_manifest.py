"""Manifests: a database of other ids, of the other kind, or half of one is refused in one line that says what to do."""

import dataclasses
import json

import pytest
from tokenizers import Tokenizer as Backend
from transformers import PreTrainedTokenizerFast

from models.tokenizer import Tokenizer
from rapid_jax.database_building.manifest import finished, write_manifest
from rapid_jax.databases.manifest import FILE, Manifest, check_manifest, read_manifest
from rapid_jax.databases.ngram_table import NgramTable
from rapid_jax.databases.suffix_array import StatisticsDatabase

SETTINGS = {"corpus": {"archives": 2, "tokens": 64}, "shard_tokens": 100}


@pytest.fixture
def tokenizer(tiny_tokenizer):
    return Tokenizer(tiny_tokenizer)


@pytest.fixture
def swapped(tiny_tokenizer):
    """The same tokens, two of them with each other's ids."""
    backend = json.loads(tiny_tokenizer.backend_tokenizer.to_str())
    vocabulary = backend["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    hf = PreTrainedTokenizerFast(tokenizer_object=Backend.from_str(json.dumps(backend)))
    hf.name_or_path = "other/model"
    return Tokenizer(hf)


def manifest_for(tokenizer, **fields):
    values = dict(
        kind="corpus",
        tokenizer=tokenizer.fingerprint,
        tokenizer_name="tiny/model",
        vocab_size=tokenizer.vocab_size,
        documents=1,
        tokens=2,
        order=0,
        ngrams=0,
        shards=1,
        generated_by="",
        settings=SETTINGS,
        versions={"numpy": "2"},
    )
    return Manifest(**{**values, **fields})


def test_a_manifest_comes_back(tmp_path, tokenizer):
    manifest = manifest_for(tokenizer)
    write_manifest(tmp_path, manifest)
    assert check_manifest(tmp_path, "corpus", tokenizer) == manifest
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


@pytest.mark.parametrize("kind, database", [("model", NgramTable), ("corpus", StatisticsDatabase)])
def test_another_tokenizer_is_refused(tmp_path, tokenizer, swapped, kind, database):
    """Its ids would name other tokens: drafts that are never accepted, and no error anywhere."""
    write_manifest(tmp_path, manifest_for(tokenizer, kind=kind, shards=int(kind == "corpus")))
    with pytest.raises(ValueError) as refused:
        database.open(tmp_path, swapped)
    message = str(refused.value)
    assert "holds token ids of the tokenizer of tiny/model (259 tokens, " in message
    assert "not of other/model (259 tokens, " in message
    assert message.endswith(f"make one with python -m launch.build_database --kind={kind} --target=...")
    assert "\n" not in message


@pytest.mark.parametrize("database", [NgramTable, StatisticsDatabase])
def test_what_is_no_database_is_refused(tmp_path, tokenizer, database):
    """A misspelt directory, a file, and a build that never came to its end."""
    with pytest.raises(FileNotFoundError, match="there is no database at .*none: name another, or make one"):
        database.open(tmp_path / "none", tokenizer)
    with pytest.raises(FileNotFoundError, match=r"holds no finished database \(no manifest.json\)"):
        database.open(tmp_path, tokenizer)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file; name the directory of a database"):
        database.open(tmp_path / "file", tokenizer)


def test_the_other_kind_is_refused(tmp_path, tokenizer):
    write_manifest(tmp_path, manifest_for(tokenizer))
    with pytest.raises(ValueError, match="is a database of kind corpus, not model: name another, or make one"):
        NgramTable.open(tmp_path, tokenizer)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"benchmark": {"name": "archive"}}',
        b"\xff\xfe",
        dict(kind="both"),
        dict(tokens="2"),
        dict(shards=True),
        dict(shards=0),
        dict(settings=[]),
        dict(tokenizer=None),
    ],
)
def test_a_manifest_that_is_none_is_refused(tmp_path, tokenizer, text):
    """An evaluation's directory has a manifest.json too."""
    if isinstance(text, dict):
        text = json.dumps({**dataclasses.asdict(manifest_for(tokenizer)), **text})
    (tmp_path / FILE).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match="is not the manifest of a database; name a directory"):
        read_manifest(tmp_path, "corpus")


def test_a_finished_database_of_other_settings_is_never_overwritten(tmp_path, tokenizer, swapped):
    """Hours of work must not be lost to a second command with the same --output."""
    assert finished(tmp_path, "corpus", tokenizer, SETTINGS) is None
    write_manifest(tmp_path, manifest_for(tokenizer))
    assert finished(tmp_path, "corpus", tokenizer, SETTINGS) == manifest_for(tokenizer)
    changed = {**SETTINGS, "corpus": {"archives": 3, "tokens": 64}}
    with pytest.raises(ValueError, match="with corpus.archives = 2, this one would have 3: name another directory"):
        finished(tmp_path, "corpus", tokenizer, changed)
    with pytest.raises(ValueError, match="with tokenizer = "):
        finished(tmp_path, "corpus", swapped, SETTINGS)
    with pytest.raises(ValueError, match="is a database of kind corpus, not model"):
        finished(tmp_path, "model", tokenizer, SETTINGS)

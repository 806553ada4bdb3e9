"""A dequantised GGUF file: another engine must get from it the very numbers that ours reads out of the quantised one."""

import json

import ml_dtypes
import numpy as np
import pytest

from models import checkpoint
from models.gguf_copy import quantisation, weight_bytes, write_dequantised
from models.gguf_file import read_header
from models.sources import open_source
from tests.models import gguf_made


@pytest.fixture(scope="module")
def quantised(tiny_checkpoint, tmp_path_factory):
    """A file of Q4_1 with a text, a list and a list of texts among its metadata."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    more = {"general__name": "Tiny", "general__file_type": 3, "general__tags": ["a", "b"], "some__numbers": [1, 2, 3]}
    gguf_made.write(path, tiny_checkpoint, kind="Q4_1", **more)
    return path


def arrays(path):
    source = open_source(path)
    with source.tensors() as tensors:
        everything = {
            name: tensors.read(name, (slice(None),) * len(header.shape)) for name, header in tensors.headers.items()
        }
    return {name: np.asarray(array, np.float32) for name, array in everything.items()}


@pytest.mark.parametrize("kind", ["F32", "BF16"])
def test_numbers_and_metadata_are_those_of_the_quantised_file(quantised, tmp_path, kind):
    path = tmp_path / "copy.gguf"
    write_dequantised(quantised, path, kind)
    ours, theirs = arrays(quantised), arrays(path)
    assert list(ours) == list(theirs)
    for name, array in ours.items():
        rounded = array.astype(ml_dtypes.bfloat16).astype(np.float32) if kind == "BF16" and array.ndim > 1 else array
        np.testing.assert_array_equal(theirs[name], rounded)
    old, new = read_header(quantised), read_header(path)
    assert {tensor.kind for tensor in new.tensors.values() if len(tensor.shape) > 1} == {kind}
    assert {tensor.kind for tensor in new.tensors.values() if len(tensor.shape) == 1} == {"F32"}
    own = {"general.file_type": 0 if kind == "F32" else 32}
    assert {**new.metadata} == {**old.metadata, **own}
    assert checkpoint.read_config(path) == checkpoint.read_config(quantised)


@pytest.mark.parametrize(
    ("kind", "stated", "name"),
    [("Q4_1", 3, "q4_1"), ("Q8_0", 15, "q4_k_m"), ("F32", 0, "f32"), ("Q8_0", None, "q8_0"), ("BF16", 1024, "bf16")],
)
def test_a_file_is_called_by_what_it_says_or_by_most_of_its_bytes(tiny_checkpoint, tmp_path, kind, stated, name):
    path = tmp_path / "tiny.gguf"
    gguf_made.write(path, tiny_checkpoint, kind=kind, **({} if stated is None else {"general__file_type": stated}))
    assert quantisation(path) == name


@pytest.mark.parametrize("tied", [True, False])
def test_bytes_of_a_forward_leave_out_an_embedding_that_is_only_looked_up(make_tiny_checkpoint, tmp_path, tied):
    directory = make_tiny_checkpoint(tie_embeddings=tied)
    gguf_made.write(tmp_path / "tiny.gguf", directory, kind="F32")
    config = json.loads((directory / "config.json").read_text())
    embedding = 4 * config["vocab_size"] * config["hidden_size"]
    layer = 32 * (64 + 32 + 32 + 64) + 3 * 32 * 64 + 2 * 32  # queries, keys, values, output; feed-forward; two norms
    assert weight_bytes(tmp_path / "tiny.gguf") == embedding + 4 * (2 * layer + 32)

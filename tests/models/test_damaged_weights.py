"""Damaged checkpoints, stale copies and indexes that point elsewhere: refused in one line, or loaded right."""

from __future__ import annotations

import json
import random
import struct
import tracemalloc

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from models.checkpoint import export_hf, load_params, read_config
from models.safetensors_io import INDEX, SINGLE
from tests.golden.decoders import write_checkpoint

Q, K = "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.weight"
NORM = "model.norm.weight"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """(Directory of a checkpoint in one file, its config, its weights.)"""
    directory = tmp_path_factory.mktemp("good")
    write_checkpoint("llama2", directory)
    config = read_config(directory)
    return directory, config, load_params(directory, config)


@pytest.fixture
def single(good, tmp_path):
    copy_files(good[0], tmp_path)
    return tmp_path


@pytest.fixture
def split(good, tmp_path):
    export_hf(good[2], good[1], tmp_path, "bfloat16", shard_bytes=8_000)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    return tmp_path


def copy_files(source, target):
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())


def read_index(directory):
    return json.loads((directory / INDEX).read_text())


def write_index(directory, **weight_map):
    index = read_index(directory)
    index["weight_map"] |= weight_map
    (directory / INDEX).write_text(json.dumps(index))


def add_tensor(file, name, value):
    tensors = load_file(file)
    save_file({**tensors, name: value}, file)


def assert_loads(directory, good):
    loaded = load_params(directory, good[1])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), loaded, good[2])


def refusal(directory, good, error=ValueError):
    with pytest.raises(error) as caught:
        load_params(directory, good[1])
    message = str(caught.value)
    assert message.isprintable() and 0 < len(message) < 900, message
    return message


@pytest.mark.parametrize("position", [0, -1])
def test_a_stale_copy_in_another_file_does_not_win_over_the_index(split, good, position, caplog):
    """A tensor that an earlier save left in another shard would be loaded instead of the one that counts."""
    place = read_index(split)["weight_map"]
    others = sorted(set(place.values()) - {place[Q]})
    add_tensor(split / others[position], Q, np.full((32, 32), 7, np.float32))
    assert_loads(split, good)
    assert f"{INDEX} does not place 1 tensors" in caplog.text and f"{Q} in {others[position]}" in caplog.text


def test_a_file_that_the_index_does_not_name_is_not_read(split, good):
    """Shards of an earlier, finer split would mix with those of today."""
    save_file({Q: np.zeros((32, 32), np.float32)}, split / "model-00009-of-00009.safetensors")
    (split / "model-00008-of-00009.safetensors").write_bytes(b"cut")
    assert_loads(split, good)


def test_the_index_places_a_tensor_where_it_is_not(split, good):
    """A file taken from another save would be blamed on the model."""
    place = read_index(split)["weight_map"]
    other = next(file for file in place.values() if file != place[Q])
    write_index(split, **{Q: other})
    assert f"tensor {Q} should be in {other}, which does not hold it" in refusal(split, good)


def test_a_tensor_that_the_index_forgets(split, good):
    """It would be called missing, though everybody can see it in its file."""
    index = read_index(split)
    file = index["weight_map"].pop(Q)
    (split / INDEX).write_text(json.dumps(index))
    message = refusal(split, good)
    assert f"tensor {Q} [32, 32] is missing: {file} holds it, but {INDEX} does not name it" in message


def test_files_without_an_index(split, good):
    """Which of two copies counts nobody can tell; files that complete each other are the checkpoint."""
    (split / INDEX).unlink()
    assert_loads(split, good)
    files = sorted(split.glob("*.safetensors"))
    twice = next(iter(load_file(files[0])))
    add_tensor(files[-1], twice, load_file(files[0])[twice])
    message = refusal(split, good)
    assert f"tensor {twice} is in {files[0].name} and in {files[-1].name}, and there is no {INDEX}" in message


ELSEWHERE = [
    "../outside.safetensors", "/etc/hostname", "sub/inside.safetensors", "..", ".", "", "a\\b.safetensors", "a\0b",
    "./model.safetensors", "x" * 300, "\n", "\ud800/..", "sub/../model.safetensors",
]  # fmt: skip


@pytest.mark.parametrize("name", ELSEWHERE, ids=ascii)
def test_an_index_that_points_out_of_its_directory(split, good, name):
    """A checkpoint from a stranger would make us read any file of the machine."""
    (split / "sub").mkdir()
    place = read_index(split)["weight_map"]
    for target in (split.parent / "outside.safetensors", split / "sub" / "inside.safetensors"):
        target.write_bytes((split / place[Q]).read_bytes())
    write_index(split, **{Q: name})
    message = refusal(split, good, (ValueError, FileNotFoundError))
    assert INDEX in message and Q in message


def test_links_of_the_hub_cache_are_followed(split, good):
    """Every checkpoint that was fetched from the hub consists of links to its blobs."""
    blobs = split.parent / f"{split.name}-blobs"
    blobs.mkdir()
    for file in [*split.glob("*.safetensors"), split / INDEX, split / "config.json"]:
        file.rename(blobs / file.name)
        file.symlink_to(f"../{blobs.name}/{file.name}")
    assert_loads(split, good)


def damaged_index(change):
    """A damage of the index: `change` is its new text, bytes, weight_map, or a function of the whole object."""

    def damage(directory):
        file = directory / INDEX
        if isinstance(change, str | bytes):
            file.write_bytes(change.encode() if isinstance(change, str) else change)
        else:
            index = read_index(directory)
            value = change(index) if callable(change) else {**index, "weight_map": change}
            file.write_text(json.dumps(index if value is None else value))

    return damage


def first(index):
    return next(iter(index["weight_map"]))


INDEX_DAMAGES = {
    "empty": "", "blank": "  \n", "cut": '{"weight_map": {"a"', "list": "[]", "number": "7", "null": "null",
    "nested lists": "[" * 100_000, "nested objects": '{"a":' * 100_000, "nested and closed": "[" * 100_000 + "]" * 100_000,
    "nested weight_map": '{"weight_map": ' * 100_000 + "1" + "}" * 100_000,
    "not UTF-8": b'{"weight_map": {"\xff": "a"}}', "UTF-16": '{"weight_map": {}}'.encode("utf-16"),
    "binary": bytes(range(256)), "infinite": '{"weight_map": Infinity}', "digits": '{"weight_map": ' + "9" * 10_000 + "}",
    "no weight_map": "{}", "empty weight_map": {}, "weight_map list": [["a", "b"]], "weight_map text": "model.safetensors",
    "weight_map null": None, "weight_map number": 3, "weight_map true": True,
    "file number": lambda i: i["weight_map"].update({first(i): 1}),
    "file null": lambda i: i["weight_map"].update({first(i): None}),
    "file list": lambda i: i["weight_map"].update({first(i): ["a"]}),
    "file object": lambda i: i["weight_map"].update({first(i): {"file": "a"}}),
    "file true": lambda i: i["weight_map"].update({first(i): True}),
    "file blank": lambda i: i["weight_map"].update({first(i): " "}),
    "file is config.json": lambda i: i["weight_map"].update({first(i): "config.json"}),
    "file is the index": lambda i: i["weight_map"].update({first(i): INDEX}),
    "strange names": lambda i: i["weight_map"].update({"a\nb\x1b[31m": next(iter(i["weight_map"].values()))}),
    "endless name": lambda i: i["weight_map"].update({"a" * 100_000: next(iter(i["weight_map"].values()))}),
    "empty name": lambda i: i["weight_map"].update({"": next(iter(i["weight_map"].values()))}),
    "all in one file": lambda i: i["weight_map"].update(dict.fromkeys(i["weight_map"], next(iter(i["weight_map"].values())))),
    "many files": lambda i: i["weight_map"].update({f"t{n}": f"f{n}.safetensors" for n in range(50_000)}),
    "names twice": '{"weight_map": {"a": "b", "a": "c"}}', "weight_map twice": '{"weight_map": {}, "weight_map": {"a": "b"}}',
    "metadata odd": lambda i: i.update(metadata=[1, {"x": None}]), "more fields": lambda i: i.update(x=[[]]),
}  # fmt: skip


def damaged_header(change):
    """A damage of the single file's header: bytes, or a function that changes the object and may give the data anew."""

    def damage(directory):
        whole = (directory / SINGLE).read_bytes()
        (length,) = struct.unpack("<Q", whole[:8])
        data = whole[8 + length :]
        header = change
        if callable(change):
            header = json.loads(whole[8 : 8 + length])
            header = change(header) or header
        content = header if isinstance(header, bytes) else json.dumps(header).encode()
        (directory / SINGLE).write_bytes(struct.pack("<Q", len(content)) + content + data)

    return damage


def named(name, **fields):
    return damaged_header(lambda header: header[name].update(fields))


def replaced(old, new, data=None):
    """A damage of the header's bytes."""

    def damage(directory):
        whole = (directory / SINGLE).read_bytes()
        (length,) = struct.unpack("<Q", whole[:8])
        content = whole[8 : 8 + length]
        assert old in content
        content = content.replace(old, new, 1)
        (directory / SINGLE).write_bytes(struct.pack("<Q", len(content)) + content + whole[8 + length :])

    return damage


def length(value):
    return lambda directory: rewrite(directory, lambda whole: struct.pack("<Q", value) + whole[8:])


def rewrite(directory, change):
    (directory / SINGLE).write_bytes(change((directory / SINGLE).read_bytes()))


def cut(kept):
    return lambda directory: rewrite(
        directory, lambda whole: whole[: int(kept * len(whole)) if isinstance(kept, float) else kept]
    )


def flipped(seed):
    """One byte of the header, its length included, becomes another one."""

    def damage(directory):
        def change(whole):
            rng = random.Random(seed)
            (size,) = struct.unpack("<Q", whole[:8])
            at = rng.randrange(8 + size)
            return whole[:at] + bytes([whole[at] ^ rng.randrange(1, 256)]) + whole[at + 1 :]

        rewrite(directory, change)

    return damage


def second_copy(header):
    text = json.dumps(header)
    return (text[:-1] + f', "{Q}": ' + json.dumps({**header[Q], "shape": [16, 64]}) + "}").encode()


HEADER_DAMAGES = {
    **{f"length {value}": length(value) for value in (0, 1, 7, 100, 10**6, 99 * 10**6, 10**9, 2**63 - 1, 2**63, 2**64 - 1)},
    **{f"cut to {kept}": cut(kept) for kept in (0, 1, 7, 8, 9, 100, 0.1, 0.5, 0.9, 0.999, -1, -4)},
    "data added": lambda d: rewrite(d, lambda whole: whole + b"\0" * 64),
    "zeros": lambda d: rewrite(d, lambda whole: bytes(len(whole))),
    "text": lambda d: rewrite(d, lambda whole: b"<!DOCTYPE html><html>" * 100),
    "pickle": lambda d: rewrite(d, lambda whole: b"\x80\x02}q\0" * 100),
    **{f"header {text[:12]!r}": damaged_header(text) for text in (b"[]", b"null", b"7", b"{", b"{}", b'"a"', b"\xff{}")},
    "nested": damaged_header(b"[" * 100_000), "nested objects": damaged_header(b'{"a":' * 100_000),
    "nested shape": replaced(b'"shape":', b'"shape":' + b"[" * 5000 + b"]" * 5000 + b',"x":'),
    **{f"shape {shape!s:.30}": named(Q, shape=shape) for shape in (
        [], [32], [32, -32], [-32, -32], [2**62, 4], [2**63, 2**63], [10**30], [32.0, 32], "32", None, {}, [[32, 32]],
        [0, 32], [True, 1024], [1024], [64, 16], [32, 32] + [1] * 10_000, [2**64 - 1, 2],
    )},
    **{f"dtype {dtype!s:.20}": named(Q, dtype=dtype) for dtype in (
        "F33", "", 3, None, [], "bf16", "F64", "I8", "F8_E4M3", "F4", "F6_E2M3", "I16", "U16", "BOOL", "C64", "x" * 10**5, "\n",
    )},
    **{f"offsets {offsets!s:.30}": named(Q, data_offsets=offsets) for offsets in (
        [], [0], [0, 1, 2], [-1, 2047], [10**9, 10**9 + 2048], [2048, 0], [0, 2**64 - 1], [0, 2**70], "0", None, [0.0, 2048.0], [0, 0],
    )},
    "overlapping": damaged_header(lambda h: h[Q].update(data_offsets=h[K]["data_offsets"])),
    "swapped": damaged_header(lambda h: h[Q].update(data_offsets=h[NORM]["data_offsets"])),
    "entry null": damaged_header(lambda h: h.update({Q: None})),
    "entry list": damaged_header(lambda h: h.update({Q: [1]})),
    "no shape": damaged_header(lambda h: h[Q].pop("shape") and None),
    "no dtype": damaged_header(lambda h: h[Q].pop("dtype") and None),
    "no offsets": damaged_header(lambda h: h[Q].pop("data_offsets") and None),
    "tensor dropped": damaged_header(lambda h: h.pop(Q) and None),
    "metadata list": damaged_header(lambda h: h.update(__metadata__=[])),
    "metadata nested": damaged_header(lambda h: h.update(__metadata__={"a": {"b": 1}})),
    "metadata more": damaged_header(lambda h: h.update(__metadata__={"a": "b\n" * 1000})),
    "strange name": damaged_header(lambda h: h.update({"a\nb\x1b[31m": h.pop(Q)})),
    "endless name": damaged_header(lambda h: h.update({"a" * 10**5: h.pop(Q)})),
    "empty name": damaged_header(lambda h: h.update({"": h.pop(Q)})),
    "twice, with another shape": damaged_header(second_copy),
    "name given to two": damaged_header(lambda h: json.dumps(h).replace(K, Q).encode()),
    "blanks": damaged_header(lambda h: json.dumps(h, indent=3).encode()),
    **{f"flipped byte {seed}": flipped(seed) for seed in range(60)},
}  # fmt: skip


def outcome(directory, good):
    """ "loaded" or the message of the refusal; anything else than equal weights and one short line fails."""
    try:
        load_params(directory, good[1])
    except (ValueError, FileNotFoundError):
        return refusal(directory, good, (ValueError, FileNotFoundError))
    assert_loads(directory, good)
    return "loaded"


def test_every_damaged_header_is_refused_in_one_line(good, single):
    """A damaged download would end in a traceback, in wrong weights, in a hang, or in a claim for all memory."""
    assert len(HEADER_DAMAGES) >= 100
    whole, harmless = (single / SINGLE).read_bytes(), []
    tracemalloc.start()
    for name, damage in HEADER_DAMAGES.items():
        (single / SINGLE).write_bytes(whole)
        damage(single)
        if outcome(single, good) == "loaded":
            harmless.append(name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 2**20, "the size that a header claims was allocated"
    assert {name for name in harmless if not name.startswith("flipped")} <= {"metadata more", "blanks"}


def test_every_damaged_index_is_refused_in_one_line(good, split):
    """The same of the index; what it holds beside the weight_map does no harm."""
    whole, harmless = (split / INDEX).read_bytes(), []
    for name, change in INDEX_DAMAGES.items():
        (split / INDEX).write_bytes(whole)
        damaged_index(change)(split)
        if outcome(split, good) == "loaded":
            harmless.append(name)
    assert harmless == ["metadata odd", "more fields"]


def test_a_directory_in_the_place_of_a_file(good, split):
    """A path that is no file would end in a traceback of the operating system."""
    (split / INDEX).unlink()
    (split / INDEX).mkdir()
    assert INDEX in refusal(split, good)


def test_a_tensor_in_a_dtype_that_is_no_float_is_named(good, single):
    """An 8-bit checkpoint would be read as if its integers were the weights."""
    add_tensor(single / SINGLE, Q, np.zeros((32, 32), ml_dtypes.float8_e4m3fn).view(np.uint8))
    assert f"tensor {Q} has dtype U8; readable: F32, BF16, F16" in refusal(single, good)

"""Documents on disk: the same answers without a prefill, on other meshes, and one line for whatever does not fit."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from rapid_jax.engine.engine import Engine
from rapid_jax.retrieval import chunking
from rapid_jax.saving import directory
from rapid_jax.saving import document as saving
from rapid_jax.saving.checksums import checksum
from rapid_jax.saving.layout import Layout
from rapid_jax.saving.manifest import FILE, read_manifest
from rapid_jax.saving.store import DocumentStore, key_of
from tests.marks import slow

ROOT = Path(__file__).resolve().parents[3]


def loaded(engine_config, engine, **changes):
    other = Engine.load(config=dataclasses.replace(engine_config, **changes))
    other.session.programs = engine.session.programs
    return other


def arrays(document):
    return {name: [np.asarray(x) for x in layers] for name, layers in document.context.held.items()}


@pytest.fixture(scope="module")
def saved(engine, document_text, questions, tmp_path_factory):
    """(directory, the document that was saved there, its answers)."""
    path = tmp_path_factory.mktemp("saved") / "document"
    document = engine.read(document_text)
    answers = {method: document.ask(questions[0], method) for method in ("lc", "sd", "copy")}
    assert document.save(path) == read_manifest(path).nbytes > 0
    return path, document, answers


def test_an_opened_document_answers_as_the_one_that_was_saved(engine, saved, questions, monkeypatch):
    """Token for token and bit for bit, nothing is read or split into chunks again, and earlier answers are there."""
    path, document, answers = saved
    monkeypatch.setattr(chunking.Chunker, "split", lambda *_: pytest.fail("the index is there"))
    monkeypatch.setattr("rapid_jax.engine.contexts.prefill_context", lambda *_, **__: pytest.fail("it has been read"))
    opened = engine.open(path)
    assert opened.is_read and opened.text == document.text and opened.tokenized == document.tokenized
    for name, layers in arrays(document).items():
        for ours, theirs in zip(arrays(opened)[name], layers, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(opened.context.filled, document.context.filled)
    assert opened.copied_before.tokens == document.copied_before.tokens != ()
    np.testing.assert_array_equal(opened.copied_before.shown, document.copied_before.shown)
    monkeypatch.undo()
    for method in ("lc", "sd"):
        answer = opened.ask(questions[0], method)
        assert answer.token_ids == answers[method].token_ids
        assert answer.passages == answers[method].passages
    assert opened.reading_seconds == document.prefill_seconds and opened.prefill_seconds > 0


@pytest.mark.parametrize("kv", ["int8", "planes", slow("int4")])
@pytest.mark.parametrize("meshes", [((1, 1, 1), (1, 2, 2)), slow(((1, 4, 1), (2, 2, 2))), slow(((1, 2, 2), (1, 1, 1)))])
def test_any_format_is_opened_on_any_mesh(engine_config, engine, document_text, questions, tmp_path, kv, meshes):
    """Slots are striped over other shards there; every token must find its own keys."""
    wrote, reads = (loaded(engine_config, engine, kv=kv, mesh=mesh) for mesh in meshes)
    document = wrote.read(document_text)
    document.save(tmp_path / "saved")
    opened, fresh = reads.open(tmp_path / "saved"), reads.read(document_text)
    old, new = (Layout.of(document.num_tokens, 512, one.target.decoder.mesh) for one in (wrote, reads))
    for name, layers in arrays(document).items():
        for ours, theirs in zip(arrays(opened)[name], layers, strict=True):
            np.testing.assert_array_equal(ours[:, :, new.slots], theirs[:, :, old.slots])
    for name, layer in opened.context.held.items():
        assert layer[0].sharding == fresh.context.held[name][0].sharding, name
    np.testing.assert_array_equal(opened.context.filled, fresh.context.filled)
    assert opened.ask(questions[0], "lc").token_ids == document.ask(questions[0], "lc").token_ids
    assert opened.ask(questions[0], "magicdec").token_ids == opened.ask(questions[0], "lc").token_ids


def test_layouts_with_other_chunks_have_other_slots():
    """A mesh stripes every chunk; without one, slots follow the text whatever the chunks are."""
    first, second = Layout(100, 32, 4, 128), Layout(100, 64, 4, 128)
    assert not first.same_as(second) and first.same_as(Layout(100, 32, 4, 128))
    assert Layout(100, 32, 1, 128).same_as(Layout(100, 64, 1, 128)) and not first.same_as(Layout(100, 32, 4, 256))
    assert first.filled.tolist() == [[32, 28, 24, 16]] or first.filled.sum() == 100


def test_who_may_open_it(engine_config, engine, saved, tmp_path, monkeypatch):
    """Keys of other weights, another format or another template mean nothing: one line that says what would be right."""
    path, _, _ = saved
    with pytest.raises(ValueError, match=r'holds keys and values with kv="", this engine was loaded with kv="int8"'):
        loaded(engine_config, engine, kv="int8").open(path)
    with pytest.raises(ValueError, match="was read in float32, this engine computes in bfloat16"):
        loaded(engine_config, engine, dtype="bfloat16").open(path)
    with pytest.raises(ValueError, match="was read by other weights"):
        loaded(engine_config, engine, weights="int8").open(path)
    monkeypatch.setattr(engine.target.tokenizer.hf, "chat_template", "Read this: {{ messages[0].content }}")
    with pytest.raises(ValueError, match="was read with another chat template"):
        engine.open(path)
    monkeypatch.undo()
    monkeypatch.setitem(engine.target.tokenizer.__dict__, "fingerprint", "0" * 64)
    with pytest.raises(ValueError, match="a model of another tokenizer or size"):
        engine.open(path)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="set max_context_tokens higher"):
        loaded(engine_config, engine, max_context_tokens=100).open(path)
    assert engine.open(path).is_read


def test_one_number_of_the_weights_is_another_model(engine):
    """A fine-tuned model has the same shapes and names."""
    weight = engine.target.params["layers_0"]["mlp"]["up_proj"]["kernel"]
    other, turned = weight.at[1, 2].add(1e-3), weight[:, ::-1]
    assert len({checksum(weight), checksum(other), checksum(turned)}) == 3
    assert checksum(weight) == checksum(weight + 0)
    narrow = (100 * weight).astype("int8")
    assert checksum(narrow) != checksum(narrow.at[0, 0].add(1))


DAMAGE = {
    "text": ("document.json", "is damaged or missing"),
    "answers": ("answers.npz", "is damaged or missing"),
    "index": ("index.npz", "is damaged or missing"),
    "arrays": ("arrays", "arrays is (damaged|incomplete or damaged)"),
    "manifest": (None, "manifest.json"),
}


@pytest.mark.parametrize("case", DAMAGE)
@pytest.mark.parametrize("how", ["gone", "changed"])
def test_what_is_damaged_is_refused_in_one_line(engine, saved, tmp_path, case, how):
    """Half a cache would answer, and wrongly."""
    import shutil

    path = tmp_path / "copy"
    shutil.copytree(saved[0], path)
    name, message = DAMAGE[case]
    file = path / FILE if name is None else path / read_manifest(path).folder / name
    if name == "arrays":
        file = max((f for f in file.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    if how == "gone":
        file.unlink()
    else:
        data = bytearray(file.read_bytes())
        for place in range(len(data) // 3, len(data) // 3 + 8):
            data[place] ^= 0x15
        file.write_bytes(bytes(data))
    with pytest.raises((ValueError, FileNotFoundError), match=message if how == "changed" or name else "no saved") as e:
        engine.open(path)
    assert "\n" not in str(e.value)


def test_where_it_is_saved(engine, saved, tmp_path):
    """Nobody's files are removed, a document is replaced whole, and what is no document is named."""
    _, document, _ = saved
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"holds thesis.txt, which is no part of a saved document"):
        document.save(tmp_path / "full")
    with pytest.raises(ValueError, match="is a file"):
        document.save(tmp_path / "full" / "thesis.txt")
    with pytest.raises(FileNotFoundError, match="there is no saved document at"):
        engine.open(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="path must be a path, got 7"):
        document.save(7)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / FILE).write_text('{"kind": "model"}')
    with pytest.raises(ValueError, match="is not the manifest of a saved document"):
        engine.open(tmp_path / "other")
    for _ in range(2):
        document.save(tmp_path / "twice")
    assert len(list((tmp_path / "twice").iterdir())) == 2, "a manifest and one folder"
    newer = json.loads((tmp_path / "twice" / FILE).read_text()) | {"version": 99}
    (tmp_path / "twice" / FILE).write_text(json.dumps(newer))
    with pytest.raises(ValueError, match="was saved in version 99 of the format, this is 1"):
        engine.open(tmp_path / "twice")


@pytest.mark.slow
def test_fifty_rounds_through_the_disk_change_no_byte(engine, saved, tmp_path):
    """A document that is opened and saved for weeks stays what it was."""
    _, document, _ = saved
    before, now = arrays(document), document
    for _ in range(50):
        now.save(tmp_path / "kept")
        now = engine.open(tmp_path / "kept")
    for name, layers in arrays(now).items():
        assert [x.tobytes() for x in layers] == [x.tobytes() for x in before[name]]
    assert now.text == document.text and now.token_ids == document.token_ids
    assert [child.name for child in tmp_path.iterdir()] == ["kept"]


def test_turns_before_a_question_are_not_saved(engine, saved, questions, tmp_path):
    """What is saved is the document; it opens without the conversation."""
    _, document, answers = saved
    behind = document.after([dict(role="user", content="Who?"), dict(role="assistant", content="Odan.")])
    behind.save(tmp_path / "document")
    assert engine.open(tmp_path / "document").ask(questions[0], "lc").token_ids == answers["lc"].token_ids


def test_views_and_conversations_are_not_saved(engine, saved, tmp_path):
    """What they would be opened as is not what they are."""
    _, document, _ = saved
    with pytest.raises(ValueError, match="a view with passages of another text cannot be saved"):
        document.retrieving_from("Another text.").save(tmp_path / "view")
    with pytest.raises(ValueError, match="a conversation cannot be saved"):
        engine.converse([{"role": "user", "content": "Good morning."}]).save(tmp_path / "talk")


def test_a_save_that_fails_leaves_what_was_there(engine, saved, questions, tmp_path, monkeypatch):
    """A full disk in the middle must cost neither the old document nor the disk."""
    _, document, answers = saved
    document.save(tmp_path / "kept")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving, "write_json", full)
    with pytest.raises(OSError, match="No space left on device"):
        document.save(tmp_path / "kept")
    monkeypatch.undo()
    assert len(list((tmp_path / "kept").glob("data-*"))) == 1
    assert engine.open(tmp_path / "kept").ask(questions[0], "lc").token_ids == answers["lc"].token_ids


@pytest.mark.slow
def test_a_process_that_is_killed_while_it_saves(engine, saved, tmp_path, engine_config):
    """kill -9 at any time: what was saved before is opened afterwards."""
    path, document, _ = saved
    document.save(tmp_path / "kept")
    code = f"""
import dataclasses, sys
from rapid_jax.config import EngineConfig
from rapid_jax.engine.engine import Engine
engine = Engine.load(config=EngineConfig(target={engine_config.target!r}, prefill_chunk=512))
document = engine.open({str(tmp_path / "kept")!r})
print("ready", flush=True)
while True:
    document.save({str(tmp_path / "kept")!r})
"""
    for wait in (0.05, 0.2, 0.45):
        environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
        process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment, stdout=subprocess.PIPE)
        assert process.stdout.readline().strip() == b"ready"
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
        opened = engine.open(tmp_path / "kept")
        for ours, theirs in zip(arrays(opened)["k"], arrays(document)["k"], strict=True):
            np.testing.assert_array_equal(ours, theirs)
    document.save(tmp_path / "kept")
    assert len(list((tmp_path / "kept").glob("data-*"))) == 1, "what was half written is gone"


def test_a_document_that_is_kept_is_not_read_again(engine, document_text, questions, tmp_path, monkeypatch, caplog):
    """The same text with the same settings is found; another template, which changes the keys, is not."""
    store = DocumentStore(tmp_path / "store", 10**9)
    document = engine.read(document_text, prefill=False, store=store)
    assert not document.is_read and not document.keep(store), "there is nothing to keep"
    expected = document.ask(questions[0], "lc").token_ids
    assert document.keep(store) and document.keep(store)
    again = engine.read(document_text, prefill=False, store=store)
    assert again.is_read and again.ask(questions[0], "lc").token_ids == expected
    assert not engine.read(document_text, prefill=False, store=store, template="{document} {question}").is_read
    assert not engine.read(document_text + ".", prefill=False, store=store).is_read
    text = store.place(document.key) / read_manifest(store.place(document.key)).folder / "document.json"
    text.write_text("{}")
    damaged = engine.read(document_text, store=store)
    assert damaged.ask(questions[0], "lc").token_ids == expected and "a kept document is not used" in caplog.text
    assert store.find(document.key) is None and damaged.keep(store)
    assert engine.read(document_text, prefill=False, store=store).is_read
    assert not document.keep(DocumentStore(tmp_path / "small", 1000)), "too large for it"


def entry(store, name, size, used, finished=True):
    place = store.place(key_of({"name": name}))
    place.mkdir(parents=True)
    (place / "data-1-1").mkdir()
    (place / "data-1-1" / "x").write_bytes(b"x" * size)
    if finished:
        (place / FILE).write_text("{}")
        os.utime(place / FILE, (used, used))
    else:
        os.utime(place / "data-1-1", (used, used))
        os.utime(place, (used, used))
    return place


def test_what_was_used_longest_ago_goes_first(tmp_path):
    """A limit that is not kept fills a disk; what is not ours is never touched."""
    store, now = DocumentStore(tmp_path, 250), time.time()
    old, used, new = (entry(store, name, 98, now - age) for name, age in (("a", 300), ("b", 200), ("c", 100)))
    stale, fresh = entry(store, "d", 9, now - 7200, finished=False), entry(store, "e", 9, now, finished=False)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_bytes(b"y" * 1000)
    assert store.find(key_of({"name": "a"})) == old and store.find(key_of({"name": "z"})) is None
    assert store.trim() == sorted(x.name for x in (used, stale))
    assert old.exists() and new.exists() and fresh.exists() and not used.exists() and not stale.exists()
    assert (tmp_path / "mine" / "file").exists() and DocumentStore(tmp_path / "nowhere", 1).trim() == []


def test_bytes_are_those_of_all_files(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"12345")
    (tmp_path / "c").write_bytes(b"67")
    assert directory.nbytes(tmp_path) == 7

"""A document that an engine has read, to disk and back."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from models import hosts, orbax_io
from models.cache import ContextCache
from models.formats import KV_FIELDS
from models.language_model import LanguageModel
from models.safetensors_io import naming, write_json
from models.sharding import context_specs
from rapid_jax.copying.drafter import CopiedBefore
from rapid_jax.retrieval.retriever import KnownIndex
from rapid_jax.saving import directory
from rapid_jax.saving.checksums import checksum
from rapid_jax.saving.layout import Layout, moved, with_lengths
from rapid_jax.saving.manifest import FILE, KIND, VERSION, Manifest, read_manifest, sealed

ARRAYS, TEXT, ANSWERS, INDEX = "arrays", "document.json", "answers.npz", "index.npz"


@dataclasses.dataclass(frozen=True)
class SavedDocument:
    """All that a document is made of.

    Attributes:
      text: as it was given.
      tokenized: as the target reads it, JSON; "tokens" are its ids.
      head: tokens before it.
      template, passages_template: user messages around the document, and around its passages.
      chat: what the chat template is given, JSON.
      context: what the target has read.
      prefill_seconds: what that took.
      copied_before: what its answers have left to be copied.
      index: of its chunks; None where it has none.
      retrieval: the settings that the index was made with.
    """

    text: str
    tokenized: Mapping[str, Any]
    head: list[int]
    template: str
    passages_template: str
    chat: Mapping[str, Any]
    context: ContextCache
    prefill_seconds: float
    copied_before: CopiedBefore
    index: KnownIndex | None
    retrieval: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Reader:
    """Who has read a document, or is to open it.

    Attributes:
      target: the model.
      weights: its fingerprint, which takes a while to compute.
      kv: format of its contexts.
      chunk: tokens of a prefill chunk.
      head: (template, chat) -> the tokens before a document.
      retrieval: the settings of an index, JSON.
    """

    target: LanguageModel
    weights: Callable[[], str]
    kv: str
    chunk: int
    head: Callable[[str, Mapping[str, Any]], list[int]]
    retrieval: Mapping[str, Any]


def save(path: Path, saved: SavedDocument, reader: Reader, versions: Mapping[str, str]) -> Manifest:
    """Writes a document into a directory, which is there whole or not at all.

    Args:
      path: the directory; a document that was saved there before is replaced.
      saved: see there.
      reader: that has read it.
      versions: of the packages that matter.

    Raises:
      ValueError: something else lies there.
      OSError: a full disk, or a directory that cannot be written to; one line that names it.
    """
    context, target, weights = saved.context, reader.target, reader.weights()
    tokens = len(saved.head) + len(saved.tokenized["tokens"])
    layout = Layout.of(tokens, reader.chunk, target.decoder.mesh)
    arrays = {
        name: {"dtype": layers[0].dtype.name, "checksums": [checksum(x) for x in layers]}
        for name, layers in context.held.items()
    }
    path = path.absolute()
    with directory.new_folder(path) as folder:
        orbax_io.save(folder / ARRAYS, _numbered(context.held))
        if hosts.is_main():
            with naming(path):
                files = _write_files(folder, saved)
            manifest = Manifest(
                kind=KIND,
                version=VERSION,
                folder=folder.name,
                weights=weights,
                target=str(target.path),
                tokenizer=target.tokenizer.fingerprint,
                kv=reader.kv,
                dtype=np.dtype(target.decoder.dtype).name,
                layers=len(context.k),
                layout=dataclasses.asdict(layout),
                arrays=arrays,
                template=saved.template,
                passages_template=saved.passages_template,
                chat=dict(saved.chat),
                head=saved.head,
                retrieval=dict(saved.retrieval),
                files=files,
                prefill_seconds=float(saved.prefill_seconds),
                nbytes=directory.nbytes(folder),
                versions=dict(versions),
            )
            write_json(path / FILE, sealed(manifest))
    return read_manifest(path)


def open_saved(path: Path, reader: Reader) -> SavedDocument:
    """Reads a document that `save` wrote onto the devices of a target; all that can be refused is refused first.

    Args:
      path: the directory.
      reader: that will answer questions about it.

    Raises:
      FileNotFoundError: no saved document there.
      ValueError: one of another model, tokenizer, chat template or format, or a damaged one; one line.
    """
    manifest = read_manifest(path)
    _check(path, manifest, reader)
    path = path / manifest.folder
    told = json.loads(_whole(path, manifest, TEXT))
    mesh = reader.target.decoder.mesh
    old, new = manifest.slots, Layout.of(manifest.slots.tokens, reader.chunk, mesh)
    if len(manifest.head) + len(told["tokenized"]["tokens"]) != old.tokens:
        raise ValueError(f"{path / TEXT} is damaged: it has other tokens than {FILE} says; save the document again")
    context = _read_arrays(path, manifest, reader.target)
    context = with_lengths(context, new, mesh) if old.same_as(new) else moved(context, old, new, mesh)
    answers = _read_npz(path, manifest, ANSWERS)
    shown = (answers["right"], answers["seen"]) if "seen" in answers else None
    index = None
    if INDEX in manifest.files and manifest.retrieval == reader.retrieval:
        held = _read_npz(path, manifest, INDEX)
        index = KnownIndex(held["bounds"], held.get("vectors"))
    return SavedDocument(
        text=told["text"],
        tokenized=told["tokenized"],
        head=manifest.head,
        template=manifest.template,
        passages_template=manifest.passages_template,
        chat=manifest.chat,
        context=context,
        prefill_seconds=manifest.prefill_seconds,
        copied_before=CopiedBefore(tuple(answers["tokens"].tolist()), shown),
        index=index,
        retrieval=manifest.retrieval,
    )


def _check(path: Path, manifest: Manifest, reader: Reader) -> None:
    """Raises ValueError where another engine has saved it, the cheapest reasons first."""
    target = reader.target
    if manifest.kv != reader.kv:
        raise ValueError(
            f'{path} holds keys and values with kv="{manifest.kv}", this engine was loaded with kv="{reader.kv}": '
            f'load it with kv="{manifest.kv}", or read the document again'
        )
    dtype = np.dtype(target.decoder.dtype).name
    if manifest.dtype != dtype:
        raise ValueError(
            f"{path} was read in {manifest.dtype}, this engine computes in {dtype}: read the document again"
        )
    if manifest.tokenizer != target.tokenizer.fingerprint or manifest.layers != target.config.num_layers:
        raise ValueError(
            f"{path} was read by {manifest.target}, a model of another tokenizer or size than {target.path}: "
            "load that model, or read the document again"
        )
    if reader.head(manifest.template, manifest.chat) != manifest.head:
        raise ValueError(
            f"{path} was read with another chat template than that of {target.path}: read the document again"
        )
    if manifest.weights != reader.weights():
        raise ValueError(
            f"{path} was read by other weights than those of {target.path}: load the model that read it "
            f"({manifest.target}), or read the document again"
        )


def _write_files(folder: Path, saved: SavedDocument) -> dict[str, str]:
    """Writes all but arrays and manifest; their SHA-256 by name."""
    write_json(folder / TEXT, dict(text=saved.text, tokenized=saved.tokenized))
    answers: dict[str, Any] = dict(tokens=np.asarray(saved.copied_before.tokens, np.int32))
    if saved.copied_before.shown is not None:
        answers["right"], answers["seen"] = saved.copied_before.shown
    np.savez(folder / ANSWERS, **answers)
    names = [TEXT, ANSWERS]
    if saved.index is not None:
        index: dict[str, Any] = dict(bounds=saved.index.bounds)
        index |= {} if saved.index.vectors is None else dict(vectors=saved.index.vectors)
        np.savez(folder / INDEX, **index)
        names.append(INDEX)
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def _numbered(held: Mapping[str, tuple[Any, ...]]) -> dict[str, dict[str, Any]]:
    return {name: {f"{layer:04d}": x for layer, x in enumerate(layers)} for name, layers in held.items()}


def _read_arrays(path: Path, manifest: Manifest, target: LanguageModel) -> ContextCache:
    """The arrays in the layout that they were saved in, on the target's devices, compared with their checksums."""
    mesh, specs, layout = target.decoder.mesh, context_specs(1), manifest.slots
    if mesh is not None and layout.capacity % mesh.shape["context"]:
        raise ValueError(
            f"{path} has {layout.capacity} slots, which do not split over context={mesh.shape['context']} of the mesh: "
            "read the document again"
        )
    stored = orbax_io.metadata(path / ARRAYS)
    if set(stored) != set(manifest.arrays) or not set(stored) <= set(KV_FIELDS):
        raise ValueError(f"{path / ARRAYS} is damaged: it holds other arrays than {FILE} says; save the document again")
    c = target.config
    whole = {3: (1, c.num_kv_heads, layout.capacity), 4: (1, c.num_kv_heads, layout.capacity, c.head_dim)}

    def placed(leaf: Any) -> jax.ShapeDtypeStruct:
        dimensions = len(leaf.shape)
        if tuple(leaf.shape) != whole.get(dimensions):
            raise ValueError(
                f"{path / ARRAYS} is damaged: an array has shape {tuple(leaf.shape)}; save the document again"
            )
        if mesh is None:
            return jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0])
            )
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, specs[dimensions]))

    read = orbax_io.restore(path / ARRAYS, jax.tree.map(placed, stored))
    held = {name: tuple(layers[key] for key in sorted(layers)) for name, layers in read.items()}
    for name, layers in held.items():
        told = manifest.arrays[name]
        if [checksum(x) for x in layers] != told["checksums"] or layers[0].dtype.name != told["dtype"]:
            raise ValueError(f"{path / ARRAYS} is damaged: {name} is not what was saved; save the document again")
    nothing = jnp.zeros((1,), jnp.int32)
    return ContextCache(**held, length=nothing, filled=nothing[None])  # both are set by its layout


def _read_npz(path: Path, manifest: Manifest, name: str) -> dict[str, np.ndarray]:
    _whole(path, manifest, name)
    with np.load(path / name, allow_pickle=False) as found:
        return dict(found)


def _whole(path: Path, manifest: Manifest, name: str) -> bytes:
    """A file's bytes, compared with their SHA-256."""
    file = path / name
    data = file.read_bytes() if file.is_file() else b""
    if hashlib.sha256(data).hexdigest() != manifest.files.get(name):
        raise ValueError(f"{file} is damaged or missing; save the document again")
    return data

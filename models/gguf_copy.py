"""A GGUF file written anew with its matrices in another type."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from models.gguf_file import GGUFTensor, read_header

_ABOUT_THE_OLD_FILE = ("GGUF.", "split.", "general.architecture", "general.file_type", "general.alignment")


def quantisation(path: Path) -> str:
    """What a file's matrices are kept in, such as "q4_k_m" or "f32": what it says, or the type of most bytes."""
    from gguf import LlamaFileType

    header = read_header(path)
    stated = header.metadata.get("general.file_type")
    names = {kind.value: kind.name for kind in LlamaFileType if kind != LlamaFileType.GUESSED}
    if isinstance(stated, int) and stated in names:
        return names[stated].partition("_")[2].lower()
    sizes: dict[str, int] = {}
    for tensor in header.tensors.values():
        sizes[tensor.kind] = sizes.get(tensor.kind, 0) + tensor.nbytes
    return max(sizes, key=lambda kind: sizes[kind]).lower()


def weight_bytes(path: Path) -> int:
    """Bytes of the tensors that one forward reads; of an input embedding that is not tied it reads a few rows only."""
    tensors = read_header(path).tensors
    skipped = tensors["token_embd.weight"].nbytes if "output.weight" in tensors else 0
    return sum(tensor.nbytes for tensor in tensors.values()) - skipped


def write_dequantised(source: Path, target: Path, kind: Literal["F32", "BF16"]) -> None:
    """Writes a file, or all parts of a split one, as a single file with matrices of one type.

    Vectors (norms, biases) become float32. Metadata is copied, but for what describes the old file. One tensor is held
    at a time.

    Args:
      source: a GGUF file.
      target: the new one.
      kind: of the matrices.

    Raises:
      ValueError, FileNotFoundError: as `read_header`.
    """
    from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType

    header = read_header(source)
    writer = GGUFWriter(target, header.metadata["general.architecture"])
    for name, field in GGUFReader(source).fields.items():
        value, types = field.contents(), field.types
        if name.startswith(_ABOUT_THE_OLD_FILE) or value is None or value == []:
            continue
        inner = types[-1] if types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(name, value, types[0], sub_type=inner)
    file_types = {"F32": LlamaFileType.ALL_F32, "BF16": LlamaFileType.MOSTLY_BF16}
    writer.add_uint32("general.file_type", file_types[kind].value)
    kinds = {
        name: GGMLQuantizationType[kind if len(tensor.shape) > 1 else "F32"] for name, tensor in header.tensors.items()
    }
    for name, tensor in header.tensors.items():
        width = 4 if kinds[name] == GGMLQuantizationType.F32 else 2
        size = width * int(np.prod(tensor.shape, dtype=np.int64))
        writer.add_tensor_info(name, tensor.shape, np.dtype(np.float32), size, kinds[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, tensor in header.tensors.items():
        writer.write_tensor_data(_converted(tensor, kinds[name]))
    writer.close()


def _converted(tensor: GGUFTensor, kind: int) -> np.ndarray:
    from gguf import GGMLQuantizationType, quants

    rows = slice(0, tensor.shape[0]) if len(tensor.shape) > 1 else slice(0, 1)
    numbers = np.asarray(tensor.read(rows, slice(0, tensor.shape[-1])), np.float32)
    return quants.quantize(numbers, GGMLQuantizationType(kind))

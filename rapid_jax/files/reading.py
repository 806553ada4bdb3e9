"""Files to the text of one document, with what stands where and what could not be read."""

from __future__ import annotations

import codecs
import dataclasses
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from charset_normalizer import from_bytes

from rapid_jax.evaluation.packages import require_package

CONVERTED = {  # by the package of the extra `documents`: ending -> its converter
    ".pdf": "PdfConverter", ".docx": "DocxConverter", ".epub": "EpubConverter", ".html": "HtmlConverter",
    ".htm": "HtmlConverter", ".pptx": "PptxConverter", ".xlsx": "XlsxConverter",
}  # fmt: skip
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16", codecs.BOM_UTF8: "utf-8-sig",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Part:
    """A file in the text: its name, its first character and the one behind its last."""

    name: str
    start: int
    end: int


@dataclasses.dataclass(frozen=True)
class FileText:
    """The text of files.

    Attributes:
      text: of one file as it is; of several, each behind a line with its name.
      parts: in the order of the text.
      notes: what a user should know: files that were left out, encodings that were guessed.
    """

    text: str
    parts: tuple[Part, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FileText:
        """What `to_dict` gave."""
        return cls(values["text"], tuple(Part(**part) for part in values["parts"]), tuple(values["notes"]))

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return dataclasses.asdict(self)

    def name_at(self, start: int) -> str:
        """The file that a character stands in; "" where there is only one."""
        if len(self.parts) < 2:
            return ""
        return next((part.name for part in reversed(self.parts) if part.start <= start), self.parts[0].name)


def read_files(paths: Sequence[str | Path], encoding: str = "") -> FileText:
    """Reads files and folders as one document.

    Args:
      paths: files in any order, or folders, of which all files are taken that can be read, hidden ones left out.
      encoding: of text files, as Python names it; "" finds out.

    Raises:
      FileNotFoundError: no such file.
      ValueError: nothing to read, an unknown encoding, or a file that was named and cannot be read; one line.
    """
    if encoding:
        try:
            codecs.lookup(encoding)
        except LookupError:
            raise ValueError(f"encoding {encoding!r} is unknown; name one such as utf-8, cp1252 or shift_jis") from None
    found: list[tuple[str, str]] = []
    notes: list[str] = []
    for path in map(Path, paths):
        for file, name, wanted in _files_of(path):
            try:
                text, note = read_bytes(file.read_bytes(), name, encoding)
            except (ValueError, OSError) as error:
                if wanted:
                    raise
                notes.append(f"{error}; it is left out")
                continue
            found.append((name, text))
            notes += [note] if note else []
    if not found:
        why = f" ({notes[0]})" if notes else ""
        raise ValueError(f"there is nothing to read in {', '.join(map(str, paths))}{why}")
    if len(found) == 1:
        ((name, text),) = found
        return FileText(text, (Part(name, 0, len(text)),), tuple(notes))
    whole, parts = "", []
    for name, text in found:
        start = len(whole)
        whole += f"File: {name}\n\n{text.rstrip()}\n\n"
        parts.append(Part(name, start, len(whole)))
    return FileText(whole, tuple(parts), tuple(notes))


def _files_of(path: Path) -> Iterator[tuple[Path, str, bool]]:
    """Files, their names, and whether a user has named them."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if not path.is_dir():
        yield path, path.name, True
        return
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path)
        if file.is_file() and not any(part.startswith(".") for part in name.parts):
            yield file, str(name), False


def read_bytes(data: bytes, name: str, encoding: str = "") -> tuple[str, str]:
    """The text of a file.

    Args:
      data: its content.
      name: its name; the ending tells how it is read.
      encoding: of a text file; "" finds out.

    Returns:
      (the text, what a user should know about it or "").

    Raises:
      ValueError: no text, or none that can be read; one line.
    """
    suffix = Path(name).suffix.lower()
    text, note = (_converted(data, name, suffix), "") if suffix in CONVERTED else _decoded(data, name, encoding)
    if not text.strip():
        scanned = "; pages that are pictures would have to be recognised first" if suffix == ".pdf" else ""
        raise ValueError(f"{name} has no text in it{scanned}")
    return text, note


def _decoded(data: bytes, name: str, encoding: str) -> tuple[str, str]:
    known = encoding or next((kind for mark, kind in _MARKS.items() if data.startswith(mark)), "")
    if not known and b"\x00" in data:
        raise ValueError(f"{name} is a binary file; give text, Markdown, HTML, PDF, DOCX or EPUB")
    try:
        return data.decode(known or "utf-8"), ""
    except (UnicodeDecodeError, UnicodeError) as error:
        place = f" (byte {error.start})" if isinstance(error, UnicodeDecodeError) else ""
        if known:
            raise ValueError(f"{name} is not {known} text{place}; name its encoding") from None
    best = from_bytes(data).best()
    if best is None:
        raise ValueError(f"{name} is not UTF-8 text{place}, and its encoding was not found; name it")
    note = f"{name} is not UTF-8{place}: it was read as {best.encoding}; name another encoding if that is wrong"
    return str(best), note


def _converted(data: bytes, name: str, suffix: str) -> str:
    """What a library makes of a file that is no text."""
    require_package("markitdown", f"reading {name}", "documents")
    from markitdown import StreamInfo, converters

    try:  # its own choice would read what is damaged as text
        converter = getattr(converters, CONVERTED[suffix])()
        return converter.convert(io.BytesIO(data), StreamInfo(extension=suffix)).markdown
    except Exception as error:  # of a dozen libraries
        cause = " ".join(str(error).split())[:160]
        raise ValueError(f"{name} cannot be read ({type(error).__name__}: {cause})") from None

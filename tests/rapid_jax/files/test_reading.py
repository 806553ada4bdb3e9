"""Files of every kind: their text, where it stands, what was guessed, and one line for what cannot be read."""

import io
import zipfile

import pytest

from rapid_jax.files.reading import CONVERTED, read_bytes, read_files

STORY = "The ferry Harrow crosses at dawn. Odan Keld keeps the kettle in house 9, and nobody asks why."


def docx(text):
    body = f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>"
    space = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    types = (
        '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        '<Override PartName="/word/document.xml" ContentType="application/vnd.openxmlformats-officedocument.'
        'wordprocessingml.document.main+xml"/></Types>'
    )
    rels = (
        '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="r1" '
        'Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument" '
        'Target="word/document.xml"/></Relationships>'
    )
    return zipped(
        {
            "[Content_Types].xml": types,
            "_rels/.rels": rels,
            "word/document.xml": f"<w:document {space}><w:body>{body}</w:body></w:document>",
        }
    )


def epub(text):
    container = (
        '<container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles><rootfile '
        'full-path="book.opf" media-type="application/oebps-package+xml"/></rootfiles></container>'
    )
    book = (
        '<package xmlns="http://www.idpf.org/2007/opf" version="2.0"><metadata '
        'xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>Ferries</dc:title></metadata><manifest><item id="c" '
        'href="c.xhtml" media-type="application/xhtml+xml"/></manifest><spine><itemref idref="c"/></spine></package>'
    )
    return zipped({
        "mimetype": "application/epub+zip", "META-INF/container.xml": container, "book.opf": book,
        "c.xhtml": f"<html><body><p>{text}</p></body></html>",
    })  # fmt: skip


def zipped(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def pdf(text):
    """One page, one line of Helvetica, with a table of offsets that is right."""
    stream = f"BT /F1 12 Tf 40 700 Td ({text}) Tj ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 900 800] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    data, offsets = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        offsets.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    trailer = b"trailer\n<< /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % len(data)
    return data + b"xref\n0 6\n0000000000 65535 f \n" + table + trailer


MADE = {".pdf": pdf, ".docx": docx, ".epub": epub, ".html": lambda text: f"<p>{text}</p>".encode()}


@pytest.mark.parametrize("suffix", MADE)
def test_files_that_are_no_text(suffix):
    pytest.importorskip("markitdown")
    text, note = read_bytes(MADE[suffix](STORY), f"story{suffix}")
    assert " ".join(text.split()).count("Odan Keld keeps the kettle in house 9") == 1 and note == ""


@pytest.mark.parametrize("suffix", [s for s in CONVERTED if s not in (".html", ".htm")])
def test_damaged_files_are_named_in_one_line(suffix):
    """What a library raises about half a file is for its authors."""
    pytest.importorskip("markitdown")
    with pytest.raises(ValueError, match=rf"^x{suffix} (cannot be read|has no text in it)") as error:
        read_bytes(b"PK\x03\x04 nothing of the kind", f"x{suffix}")
    assert "\n" not in str(error.value)


def test_the_extra_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "markitdown", None)
    with pytest.raises(
        ValueError, match=r'reading a.pdf needs the package markitdown.*pip install "rapid_jax\[documents\]"'
    ):
        read_bytes(b"%PDF-1.4", "a.pdf")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252", "shift_jis", "koi8_r"])
def test_text_is_read_in_its_encoding(encoding):
    """By its mark, because it was named, or found: the note says what was believed."""
    text = {
        "shift_jis": "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。" * 9,
        "koi8_r": "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему. " * 9,
    }.get(encoding, "Zoë hält den Fuchs für einen café-Gänger. Die Öfen glühen über Nacht. " * 9)
    data = text.encode(encoding)
    assert read_bytes(data, "a.txt", encoding if not encoding.startswith("utf-") else "")[0] == text
    found, note = read_bytes(data, "a.txt")
    assert found == text or "was read as" in note
    assert (note == "") == encoding.startswith("utf-")


@pytest.mark.parametrize(
    "data, encoding, message",
    [
        (b"\x7fELF\x02\x00\x00\x01", "", "a.txt is a binary file"),
        (b"  \n\t ", "", "a.txt has no text in it"),
        (b"caf\xe9", "utf-8", r"a.txt is not utf-8 text \(byte 3\); name its encoding"),
        (b"\xff\xfe\x00", "", "a.txt is not utf-16 text"),
    ],
)
def test_what_is_no_text_is_refused_in_one_line(data, encoding, message):
    with pytest.raises(ValueError, match=message) as error:
        read_bytes(data, "a.txt", encoding)
    assert "\n" not in str(error.value)


def test_a_single_file_is_its_text(tmp_path):
    """Offsets of passages are those of the file."""
    (tmp_path / "a.md").write_text("# One\n\nText.\n", encoding="utf-8")
    found = read_files([tmp_path / "a.md"])
    assert found.text == "# One\n\nText.\n" and found.parts[0].end == len(found.text) and found.name_at(3) == ""


def test_several_files_are_one_document_with_their_names(tmp_path):
    """A passage must say which file it is from; what cannot be read is said, and stops nobody in a folder."""
    (tmp_path / "b").mkdir()
    for name, data in {"a.txt": b"First.", "b/c.txt": b"Second.", "b/d.bin": b"\x00\x01", ".git": b"no"}.items():
        (tmp_path / name).write_bytes(data)
    found = read_files([tmp_path])
    assert found.text == "File: a.txt\n\nFirst.\n\nFile: b/c.txt\n\nSecond.\n\n"
    assert found.notes == ("b/d.bin is a binary file; give text, Markdown, HTML, PDF, DOCX or EPUB; it is left out",)
    assert (
        found.name_at(found.text.index("First")) == "a.txt" and found.name_at(found.text.index("Second")) == "b/c.txt"
    )
    both = read_files([tmp_path / "b" / "c.txt", tmp_path / "a.txt"])
    assert [part.name for part in both.parts] == ["c.txt", "a.txt"], "in the order in which they were named"
    assert all(both.text[part.start : part.end].startswith(f"File: {part.name}") for part in both.parts)


def test_files_that_were_named_must_be_readable(tmp_path):
    (tmp_path / "x.bin").write_bytes(b"\x00\x01")
    with pytest.raises(ValueError, match="x.bin is a binary file"):
        read_files([tmp_path / "x.bin"])
    with pytest.raises(FileNotFoundError, match="nowhere.txt: no such file"):
        read_files([tmp_path / "nowhere.txt"])
    with pytest.raises(ValueError, match="there is nothing to read in"):
        read_files([tmp_path])
    with pytest.raises(ValueError, match="encoding 'latin9000' is unknown; name one such as"):
        read_files([tmp_path / "x.bin"], "latin9000")

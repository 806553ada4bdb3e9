"""The notebook: what is committed is what it prints, and it runs."""

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "notebooks" / "rapid_on_colab.ipynb"


@pytest.fixture(scope="module")
def cells():
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def outputs(cells):
    return [output for cell in cells if cell["cell_type"] == "code" for output in cell["outputs"]]


def test_the_committed_notebook_was_run_from_its_first_to_its_last_cell(cells):
    """A reader who does not run it sees what it shows: text, tables, the trace and the picture."""
    counts = [cell["execution_count"] for cell in cells if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1))
    shown = outputs(cells)
    assert not [output for output in shown if output["output_type"] == "error"]
    kinds = {kind for output in shown for kind in output.get("data", {})}
    assert {"text/html", "image/png"} <= kinds
    assert "the same text from all methods: True" in json.dumps(shown)
    assert not re.search(r"/(home|tmp|root|work)/", json.dumps(shown))


def test_the_cells_are_python(cells):
    """Lines that start with % are IPython's."""
    for cell in cells:
        if cell["cell_type"] == "code":
            source = "".join(cell["source"])
            ast.parse(re.sub(r"^(\s*)%.*", r"\1pass", source, flags=re.MULTILINE))


@pytest.mark.real
def test_the_notebook_runs(cells, tmp_path):
    """As in Colab, on whatever device is there."""
    nbformat = pytest.importorskip("nbformat", reason='pip install "rapid_jax[notebook]"')
    nbclient = pytest.importorskip("nbclient", reason='pip install "rapid_jax[notebook]"')
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert "the same text from all methods: True" in json.dumps(notebook)

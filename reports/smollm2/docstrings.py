"""Writes the docstrings of Python's standard library, which are on every machine, as one file of text.

python reports/smollm2/docstrings.py OUTPUT.txt
"""

import ast
import sys
import sysconfig
from pathlib import Path

LEAST = 60  # characters; shorter docstrings say little

standard = Path(sysconfig.get_paths()["stdlib"])
with open(sys.argv[1], "w", encoding="utf-8") as output:
    for path in sorted(standard.rglob("*.py")):
        inside = path.relative_to(standard).parts
        if "site-packages" in inside or "test" in inside or "tests" in inside or "idle_test" in inside:
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue  # samples of damaged files
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node)
                if text and len(text) >= LEAST:
                    output.write(text + "\n\n")

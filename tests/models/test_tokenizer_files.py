"""Tokenizer files of strangers: no code of theirs runs, text is split as they say, and bad patterns are found."""

import ast
import json
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import pre_tokenizers

from models import tokenizer_files
from models.tokenizer import load_tokenizer
from tests.tokenizers_made import LLAMA3_SPLIT, train_byte_level, train_llama2, train_sentencepiece, write_json

ROOT = Path(__file__).parents[2]
CODE = """
from pathlib import Path
Path(__file__).with_name("ran").write_text("")
Path(%r).write_text("")
class Own:
    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        return cls()
"""


def with_code(directory, *, tokenizer_class="OwnTokenizer"):
    """A checkpoint whose tokenizer is a Python file of its own."""
    train_byte_level(directory)
    file = directory / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    auto_map = {"AutoTokenizer": ["own.Own", None]}
    write_json(file, {**settings, "tokenizer_class": tokenizer_class, "auto_map": auto_map})
    write_json(directory / "config.json", {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}})
    (directory / "own.py").write_text(CODE % str(directory.parent / "ran"))
    return directory


def test_code_of_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match="asks for code of the checkpoint's own, which is never run; give a tokenizer"
    ) as e:
        load_tokenizer(with_code(tmp_path / "model"))
    assert "\n" not in str(e.value) and not (tmp_path / "ran").exists()


def test_code_of_a_checkpoint_is_refused_at_a_terminal_too(tmp_path):
    """transformers asks there, and after "y" the file would run."""
    directory = with_code(tmp_path / "model")
    program = f"from models.tokenizer import load_tokenizer\ntry: load_tokenizer({str(directory)!r})\nexcept ValueError as e: print('REFUSED', e)"
    terminal, end = pty.openpty()
    ends = dict(stdin=end, stdout=end, stderr=end, start_new_session=True)
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, **ends)
    os.close(end)
    said, deadline = b"", time.monotonic() + 120
    while time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.5)[0]:
            try:
                part = os.read(terminal, 4096)
            except OSError:  # the other end is closed
                break
            said += part
            if b"[y/N]" in said:
                os.write(terminal, b"y\n")
    os.close(terminal)
    process.wait(timeout=60)
    assert b"REFUSED" in said and b"never run" in said and b"y/N" not in said
    assert not (tmp_path / "ran").exists()


def test_code_that_is_not_needed_is_not_run(tmp_path):
    """Qwen's early checkpoints name code of their own beside a class that transformers knows."""
    directory = with_code(tmp_path / "model", tokenizer_class="PreTrainedTokenizerFast")
    write_json(directory / "config.json", {"model_type": "qwen2", "auto_map": {"AutoConfig": "own.Own"}})
    assert load_tokenizer(directory).vocab_size > 300
    assert not (tmp_path / "ran").exists()


def test_every_loader_of_transformers_is_told_to_run_no_code():
    """A loader that is added later must be told as well."""
    calls = []
    for folder in ("models", "rapid_jax", "launch"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "from_pretrained":
                    named = {k.arg: k.value for k in node.keywords}
                    told = named.get("trust_remote_code")
                    spread = None in named  # **settings
                    calls.append((file.name, spread or (isinstance(told, ast.Constant) and told.value is False)))
    assert len(calls) >= 4
    assert not [name for name, told in calls if not told]


def test_text_is_split_as_tokenizer_json_says(tmp_path):
    """Some classes of transformers are rebuilt from the vocabulary, without the file's own pre-tokenizer."""
    directory = train_sentencepiece(tmp_path / "model")
    hf = load_tokenizer(directory).hf
    backend = Backend.from_str(hf.backend_tokenizer.to_str())
    metaspace = pre_tokenizers.Metaspace(prepend_scheme="never", split=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([metaspace, pre_tokenizers.Split("a", "isolated")])
    backend.save(str(directory / "tokenizer.json"))
    settings = json.loads((directory / "tokenizer_config.json").read_text())
    write_json(directory / "tokenizer_config.json", {**settings, "chat_template": "{{ messages[0].content }}"})
    tokenizer = load_tokenizer(directory)
    text = "Mira stood in the harbour"
    own = backend.encode(text, add_special_tokens=False).ids
    assert own != hf(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.encode(text) == own == tokenizer.hf(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.stop_ids == (2,) and tokenizer.bos_id == 1 and tokenizer.render_chat("Who?") == "Who?"


def test_llama2_puts_its_blank_behind_bos_as_the_file_says(tmp_path):
    """transformers' own class does not, and the model was trained with it."""
    tokenizer = load_tokenizer(train_llama2(tmp_path / "model"))
    file = Backend.from_file(str(tmp_path / "model" / "tokenizer.json"))
    expected = file.encode("<s>the lamp", add_special_tokens=False).ids
    assert expected[1] == file.token_to_id("▁the") or file.id_to_token(expected[1]).startswith("▁")
    assert tokenizer.encode("<s>the lamp", special_tokens=True) == expected


def test_files_that_disagree_about_ids_are_refused(tmp_path):
    directory = train_byte_level(tmp_path / "model")
    backend = Backend.from_file(str(directory / "tokenizer.json"))

    class Other:
        """A tokenizer with another id for one token, and another way to split."""

        added_tokens_decoder = {5: backend.get_added_tokens_decoder()[1]}
        chat_template = None

        def __call__(self, text, **_):
            return {"input_ids": []}

    with pytest.raises(ValueError, match="disagree about the id of '<|im_start|>'"):
        tokenizer_files.as_file_says(Other(), directory / "tokenizer.json")


@pytest.mark.parametrize("split", [r"(\w+\s?)+$|\S+|\s+", r"(a|aa)+$|.", r"(x+x+)+y|."])
def test_a_pattern_that_backtracks_without_end_is_refused(tmp_path, split):
    """Splitting a page of text would end in a panic or in no time at all."""
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"the tokenizer fails on ordinary texts|takes too long") as caught:
        load_tokenizer(pattern_only(tmp_path / "model", split))
    assert "\n" not in str(caught.value) and time.monotonic() - start < 60


@pytest.mark.slow
def test_a_pattern_that_is_quadratic_is_refused(tmp_path):
    """No error comes: each position reads on to the end of the document, which takes minutes for a long one."""
    with pytest.raises(ValueError, match="splitting a text of 60,000 characters takes too long; it is the pattern"):
        load_tokenizer(pattern_only(tmp_path / "model", r"(?m)(?=.*\x00).|\S"))


def pattern_only(directory, split):
    """A tokenizer with a bad pattern; it cannot be trained with it."""
    train_byte_level(directory)
    values = json.loads((directory / "tokenizer.json").read_text())
    bad = {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False}
    values["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [bad, values["pre_tokenizer"]]}
    write_json(directory / "tokenizer.json", values)
    return directory


def test_published_patterns_need_no_trial(tmp_path, monkeypatch):
    """Loading a LLaMA or Qwen must not start another process."""
    monkeypatch.setattr(tokenizer_files.subprocess, "run", None)
    load_tokenizer(train_byte_level(tmp_path / "model", split=LLAMA3_SPLIT))


def test_other_patterns_pass_their_trial(tmp_path):
    assert load_tokenizer(train_byte_level(tmp_path / "model", split=r"\w+|\W")).encode("Mira stood")


@pytest.mark.parametrize(
    "content",
    ["{}", "[]", "1", "{", '{"model": {"type": "BPE"}, "pre_tokenizer": ' + "[" * 100000 + "]" * 100000 + "}"],
)
def test_a_damaged_file_ends_in_one_line(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    write_json(tmp_path / "config.json", {"model_type": "llama"})
    with pytest.raises(ValueError) as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value) and "tokenizer" in str(caught.value)

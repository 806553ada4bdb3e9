"""The tokenizers of transformers, also beside a torch that does not work.

transformers imports a torch that it finds, although its tokenizers need none, and one with a missing CUDA library, say,
would stop it. Where that happens torch is hidden, for this process, and transformers is imported anew.
"""

from __future__ import annotations

import importlib.util
import sys

from absl import logging

try:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if sys.modules.get("torch") is not None:
        from torch import Tensor as _Tensor  # noqa: F401  (part of an installation may be gone, and asked for later)
except Exception as error:
    if importlib.util.find_spec("torch") is None:
        raise
    logging.warning(
        "torch is installed but cannot be imported (%s: %s); it is not needed and is left alone",
        type(error).__name__,
        " ".join(str(error).split())[:200],
    )
    for _name in [name for name in sys.modules if name.split(".")[0] in ("torch", "transformers")]:
        del sys.modules[_name]
    sys.modules["torch"] = None  # type: ignore[assignment]  # how Python is told that a module is not there
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

__all__ = ["AutoTokenizer", "PreTrainedTokenizerFast"]

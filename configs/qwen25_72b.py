r"""Qwen2.5-72B drafting for itself; its config.json must enable YaRN for documents beyond 32,768 tokens.

    python -m launch.generate --config=configs/qwen25_72b.py \
        --target=PATH \
        --context_file=FILE --query=QUESTION

Settings of the RAPID paper (arXiv 2502.20330, section 4.1): gamma 10,
eta 10 of {5, 10, 20} for self-speculation, temperature 0.1.
The mesh is (data, context, model) = (1, 1, 8): eight devices that share heads, ffn and vocabulary.
"""

from configs import base


def get_config():
    return base.paper("Qwen/Qwen2.5-72B-Instruct", mesh=(1, 1, 8))

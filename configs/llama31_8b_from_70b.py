r"""LLaMA-3.1-70B drafts for LLaMA-3.1-8B: RAPID's upward speculation, where the larger model reads only the passages.

    python -m launch.generate --config=configs/llama31_8b_from_70b.py \
        --target=PATH --drafter=PATH \
        --context_file=FILE --query=QUESTION

Settings of the RAPID paper (arXiv 2502.20330, section 4.1): gamma 10,
eta 40 of {40, 50} for a larger drafter, temperature 0.1.
The mesh is (data, context, model) = (1, 1, 8): eight devices that share heads, ffn and vocabulary.
"""

from configs import base


def get_config():
    return base.paper(
        "meta-llama/Llama-3.1-8B-Instruct", drafter="meta-llama/Llama-3.1-70B-Instruct", eta=40.0, mesh=(1, 1, 8)
    )

r"""LLaMA-3.1-8B drafting for itself: RAPID's self-speculation over up to 120,000 document tokens.

    python -m launch.generate --config=configs/llama31_8b.py \
        --target=PATH \
        --context_file=FILE --query=QUESTION

Settings of the RAPID paper (arXiv 2502.20330, section 4.1): gamma 10,
eta 10 of {5, 10, 20} for self-speculation, temperature 0.1.
One device; --config.mesh=1,1,4 shares heads, ffn and vocabulary over four.
"""

from configs import base


def get_config():
    return base.paper("meta-llama/Llama-3.1-8B-Instruct", mesh=(1, 1, 1))

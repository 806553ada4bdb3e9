"""Records encoder_bert.npz and encoder_xlm_roberta.npz beside this file: python tests/golden/make_encoder.py

Each file holds a tiny random checkpoint, token ids of rows of different lengths, and what Hugging Face transformers
computes for them in float32: hidden states, and mean and CLS vectors of unit norm. Needs torch.
"""

from pathlib import Path

import numpy as np
import torch
import transformers

SIZES = {
    "vocab_size": 48,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 24,
}
LENGTHS = (17, 3, 9, 1)


def build(kind: str, seed: int = 0) -> transformers.PreTrainedModel:
    """A tiny encoder whose every parameter is random, with weights large enough that each one shows."""
    torch.manual_seed(seed)
    if kind == "bert":
        config = transformers.BertConfig(**SIZES, pad_token_id=0, layer_norm_eps=1e-12, type_vocab_size=2)
        model = transformers.BertModel(config, add_pooling_layer=False)
    else:
        config = transformers.XLMRobertaConfig(**SIZES, pad_token_id=1, layer_norm_eps=1e-5, type_vocab_size=1)
        model = transformers.XLMRobertaModel(config, add_pooling_layer=False)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(mean=1.0 if name.endswith("LayerNorm.weight") else 0.0, std=0.3)
    return model.eval()


def make_batch(pad_token_id: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Token ids [B, T], padded behind each row's length, and the mask [B, T] of real tokens."""
    rng = np.random.default_rng(seed)
    mask = np.arange(max(LENGTHS))[None, :] < np.array(LENGTHS)[:, None]
    return np.where(mask, rng.integers(4, SIZES["vocab_size"], mask.shape), pad_token_id), mask


def run(model: transformers.PreTrainedModel, token_ids: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """What transformers computes: hidden [B, T, D], mean [B, D] and cls [B, D], the latter two of unit norm."""
    with torch.no_grad():
        hidden = model(torch.tensor(token_ids), attention_mask=torch.tensor(mask).long()).last_hidden_state
    real = torch.tensor(mask)[:, :, None].float()
    mean = (hidden * real).sum(1) / real.sum(1)
    normalize = torch.nn.functional.normalize
    return {"hidden": hidden.numpy(), "mean": normalize(mean).numpy(), "cls": normalize(hidden[:, 0]).numpy()}


def main() -> None:
    for kind in ("bert", "xlm_roberta"):
        model = build(kind)
        token_ids, mask = make_batch(model.config.pad_token_id)
        tensors = {f"tensor:{name}": value.numpy() for name, value in model.state_dict().items()}
        path = Path(__file__).with_name(f"encoder_{kind}.npz")
        np.savez_compressed(path, token_ids=token_ids, mask=mask, **run(model, token_ids, mask), **tensors)


if __name__ == "__main__":
    main()

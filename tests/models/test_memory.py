"""Bytes of a token's keys and values, and what is free."""

import types

import jax
import numpy as np
import pytest

from models import ModelConfig
from models.memory import free_bytes, kv_bytes_per_token

CONFIG = ModelConfig(
    family="llama", vocab_size=8, width=16, ffn_width=16, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=8,
    max_position=64,
)  # fmt: skip


@pytest.mark.parametrize("dtype, kv, head", [("float32", "", 32), ("bfloat16", "", 16), ("bfloat16", "int8", 8 + 4)])
def test_a_token_has_a_key_and_a_value_of_each_head_in_each_layer(dtype, kv, head):
    """Half of it would let a batch in that does not fit."""
    assert kv_bytes_per_token(CONFIG, np.dtype(dtype), kv) == 2 * 3 * 2 * head


def device(limit=None, used=0):
    stats = None if limit is None else dict(bytes_limit=limit, bytes_in_use=used)
    return types.SimpleNamespace(memory_stats=lambda: stats)


def test_the_fullest_device_counts(monkeypatch):
    """One that is full stops all; a platform that does not say is not guessed at."""
    devices = [device(100, 30), device(100, 60), device()]
    assert free_bytes(types.SimpleNamespace(local_devices=devices)) == 40
    assert free_bytes(types.SimpleNamespace(local_devices=[device()])) is None
    assert free_bytes(types.SimpleNamespace(local_devices=[device(10, 11)])) == 0
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    assert free_bytes() == 70, "without a mesh the default device's"

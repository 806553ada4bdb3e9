"""What is said of the machine: figures from a busy one must not pass for figures of the program."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from rapid_jax.benchmarking.bandwidth import Bandwidth
from rapid_jax.benchmarking.hardware import OtherLoad, hardware


@pytest.fixture
def host(monkeypatch):
    """A function: /proc/stat's ticks of user, nice, system, idle, iowait, irq, softirq, steal; this process's ticks."""
    state = {}

    def say(ticks, own):
        state.update(stat="cpu  " + " ".join(map(str, ticks)) + " 0 0\ncpu0 1 2 3\n", own=own / hertz)

    hertz = os.sysconf("SC_CLK_TCK")
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: state["stat"])
    monkeypatch.setattr(os, "times", lambda: SimpleNamespace(user=state["own"], system=0.0))
    return say


def test_what_others_take_is_told_from_what_this_process_takes(host):
    """Of 200 ticks 100 are idle; of the busy 100 this process has 60, others and the hypervisor 40."""
    host([1000, 0, 0, 5000, 10, 0, 0, 0], own=500)
    load = OtherLoad()
    host([1070, 5, 15, 5090, 20, 2, 3, 5], own=560)
    assert load.share() == pytest.approx(0.2)
    host([1060, 0, 0, 5140, 10, 0, 0, 0], own=560)
    assert load.share() == pytest.approx(0)


def test_a_system_that_does_not_tell_is_not_guessed_at(monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    assert OtherLoad().share() is None


def test_the_hardware_is_named():
    said = hardware(2, Bandwidth("read", 100, 3e9))
    assert said["devices"] == 2 and said["device"].startswith("cpu") and said["processor"] and said["cores"] >= 1
    assert said["bandwidth"] == {"kind": "read", "array_bytes": 100, "gigabytes_per_second": 3.0}

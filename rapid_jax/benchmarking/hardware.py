"""What a number was measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import jax

from rapid_jax.benchmarking.bandwidth import Bandwidth


def hardware(devices: int, bandwidth: Bandwidth) -> dict[str, Any]:
    """A JSON object: the accelerator and how many of it are used, the host's processor, and the measured bandwidth."""
    device = jax.devices()[0]
    return {
        "device": f"{device.platform}: {device.device_kind}",
        "devices": devices,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "bandwidth": bandwidth.to_dict(),
    }


def _processor() -> str:
    """The processor's name as Linux knows it, else what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


class OtherLoad:
    """What other processes take of the host's processor from now on; a figure measured on a busy host misleads."""

    def __init__(self) -> None:
        self._start = self._seconds()

    def share(self) -> float | None:
        """The share of all cores' time, in [0, 1]; None where the system does not tell."""
        if self._start is None or (now := self._seconds()) is None:
            return None
        others, whole = now[0] - self._start[0], now[1] - self._start[1]
        return min(max(others / whole, 0.0), 1.0) if whole > 0 else None

    @staticmethod
    def _seconds() -> tuple[float, float] | None:
        """Processor seconds of everybody else, and of all cores together, since the system started."""
        try:
            line = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0]
            ticks = [int(field) / os.sysconf("SC_CLK_TCK") for field in line.split()[1:9]]
        except (OSError, ValueError):
            return None
        own = os.times()
        return sum(ticks) - ticks[3] - ticks[4] - own.user - own.system, sum(ticks)  # fields 3 and 4 are idle

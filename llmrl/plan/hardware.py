"""GPUs by name with what their data sheets promise, and how many of them there are."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmrl.errors import RecipeError, did_you_mean, shown

DATA = Path(__file__).with_name("hardware.toml")
CPU = "cpu"

ASKED = re.compile(r"(?:(?P<count>[1-9][0-9]{0,4})x)?(?P<name>\w+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One GPU, or one core of a machine without any; hardware.toml has the units and sources."""

    name: str
    memory_gb: float
    memory_tb_s: float
    bf16: float
    fp32: float
    link_gb_s: float
    host_gb_s: float
    network_gb_s: float

    @property
    def memory(self) -> float:
        """Bytes of memory in total, used or not; 0 for a core."""
        return self.memory_gb * 1e9

    @property
    def is_gpu(self) -> bool:
        """False for the core of a machine without GPUs."""
        return self.name != CPU

    def flops(self, dtype: str) -> float:
        """FLOP/s of matrix products at best."""
        return (self.bf16 if dtype == "bfloat16" else self.fp32) * 1e12


@dataclass(frozen=True, slots=True, kw_only=True)
class Machines:
    """A number of equal nodes."""

    device: Device
    per_node: int
    nodes: int = 1

    @property
    def devices(self) -> int:
        """Devices of all nodes."""
        return self.per_node * self.nodes

    def hold(self, widths: Sequence[int]) -> bool:
        """Whether processes of these widths in devices find room, none of them on two nodes."""
        free = [self.per_node] * self.nodes
        for width in sorted(widths, reverse=True):
            node = next((number for number, left in enumerate(free) if left >= width), None)
            if node is None:
                return False
            free[node] -= width
        return True

    def __str__(self) -> str:
        nodes = f" on {self.nodes} nodes" if self.nodes > 1 else ""
        return f"{self.devices} x {self.device.name}{nodes}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Efficiency:
    """Shares of a device's peaks that are reached; hardware.toml says of which, and how that is known."""

    read: float
    decode: float
    train: float
    score: float
    experts: float
    link: float
    network: float
    host: float
    copy_gb_s: float
    decode_step_ms: float
    sequence_us: float
    reduce_us: float
    update_ms: float
    sync_ms: float
    tensor_ms: float


def read_devices() -> dict[str, Device]:
    """Every device of hardware.toml by name."""
    return {name: Device(name=name, **numbers) for name, numbers in _tables()["devices"].items()}


def read_efficiency(device: Device) -> Efficiency:
    """The efficiency that such a device is known to reach."""
    return Efficiency(**_tables()["efficiency"]["gpu" if device.is_gpu else "cpu"])


def find_machines(asked: str, *, nodes: int, default: int) -> Machines:
    """Machines as the command line names them.

    Args:
        asked: ``8xH100`` (eight on every node), ``H100``, or ``cpu``.
        nodes: how many such nodes.
        default: devices of a node where ``asked`` does not say.

    Raises:
        RecipeError: no such device, or no such form.
    """
    devices, found = read_devices(), ASKED.fullmatch(asked)
    if found is None:
        raise RecipeError(f"--gpus: expected a number and a name such as 8xH100, got {shown(asked)}.")
    names = {name.lower(): name for name in devices}
    name = names.get(found["name"].lower())
    if name is None:
        raise RecipeError(
            f"--gpus: no device named {shown(found['name'])}.{did_you_mean(found['name'], devices)}"
        )
    return Machines(device=devices[name], per_node=int(found["count"] or default), nodes=nodes)


def _tables() -> dict[str, dict[str, dict[str, float]]]:
    return tomllib.loads(DATA.read_text(encoding="utf-8"))


def host_memory_bytes() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

"""How fast one device really is: its peaks times what is reached of them, or what was measured."""

from __future__ import annotations

from dataclasses import dataclass

from llmrl.plan.hardware import Device, Efficiency


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Bytes and FLOPs a second of one device, and what everything costs besides them."""

    said: str
    """Where they are from, for the output."""
    read: float
    """Bytes/s of weights, while decoding."""
    cache: float
    """Bytes/s of KV cache, while decoding."""
    decode: float
    """FLOP/s, while decoding."""
    prefill: float
    """FLOP/s, while prompts are read."""
    train: float
    """FLOP/s, in a training pass."""
    score: float
    """FLOP/s, in a forward pass for logprobs."""
    experts: float
    """Share of everything above that is reached where tokens choose their experts."""
    link: float
    """Bytes/s between devices of a node."""
    network: float
    """Bytes/s between nodes."""
    host: float
    """Bytes/s between device and host."""
    copy: float
    """Bytes/s through the object store."""
    memory: float
    """Bytes/s of the device's own memory."""
    step_s: float
    """Seconds of one decode step."""
    sequence_s: float
    """Seconds of one sequence in a decode step."""
    reduce_s: float
    """Seconds of one all-reduce between the GPUs of an engine."""
    update_s: float
    """Seconds of one optimizer update."""
    sync_s: float
    """Seconds of one weight sync."""
    tensor_s: float
    """Seconds of one tensor that an engine loads."""
    contention: float = 1.0
    """Factor by which generation and training slow each other down where they share caches and cores."""


def estimated(device: Device, reached: Efficiency, *, dtype: str) -> Rates:
    """Rates from the data sheet and from what is usually reached of it."""
    flops, memory = device.flops(dtype), device.memory_tb_s * 1e12
    return Rates(
        said=f"estimated from the data sheet of {device.name}"
        if device.is_gpu
        else "estimated for a CPU core",
        read=reached.read * memory,
        cache=reached.read * memory,
        decode=reached.decode * flops,
        prefill=reached.decode * flops,
        train=reached.train * flops,
        score=reached.score * flops,
        experts=reached.experts,
        link=reached.link * device.link_gb_s * 1e9,
        network=reached.network * device.network_gb_s * 1e9,
        host=reached.host * device.host_gb_s * 1e9,
        copy=reached.copy_gb_s * 1e9,
        memory=memory,
        step_s=reached.decode_step_ms / 1e3,
        sequence_s=reached.sequence_us / 1e6,
        reduce_s=reached.reduce_us / 1e6,
        update_s=reached.update_ms / 1e3,
        sync_s=reached.sync_ms / 1e3,
        tensor_s=reached.tensor_ms / 1e3,
    )

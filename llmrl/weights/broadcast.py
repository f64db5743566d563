"""Trainer side of a broadcast: each version is packed at once, and sent when every engine is there for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext

import torch

from llmrl.weights.bundle import Broadcast, WeightBundle
from llmrl.weights.group import Group
from llmrl.weights.packed import Packed
from llmrl.weights.parcel import Parcel
from llmrl.weights.store import Written


class BroadcastStore:
    """Sends in a thread of its own, so that neither the policy nor the engines wait for each other."""

    def __init__(self, group: Group, *, device: torch.device) -> None:
        self._group, self._device = group, device
        self._packed = Packed(device)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="broadcast")
        self._sent: dict[int, Future[None]] = {}

    def write(self, version: int, buckets: Iterable[Sequence[Parcel]]) -> Written:
        """Pack the version into the copy that is sent."""
        return Written(specs=self._packed.write(version, buckets), way=Broadcast())

    def seal(self, bundle: WeightBundle) -> None:
        """Queue the version to be sent after those before it."""
        self._sent[bundle.version] = self._thread.submit(self._send, bundle.version)

    def release(self, version: int) -> None:
        """Free the copy: every engine has it, or the group was given up and the engines have reported why."""
        self._sent.pop(version).exception()
        self._packed.release(version)

    def _send(self, version: int) -> None:
        with _aside(self._device):
            self._group.meet()
            for block in self._packed.blocks(version):
                self._group.broadcast(block)


def _aside(device: torch.device) -> AbstractContextManager[object]:
    """On a GPU, a stream apart from the one on which the policy trains meanwhile."""
    return torch.cuda.stream(torch.cuda.Stream(device)) if device.type == "cuda" else nullcontext()

"""The process group that weights are broadcast in: rank 0 of the policy, and every worker of every engine.

It is apart from any default group, and lives until a member fails: then all of them give it up.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import (  # torch documents them under these names
    PrefixStore,  # pyright: ignore[reportPrivateImportUsage]
    Store,  # pyright: ignore[reportPrivateImportUsage]
    TCPStore,  # pyright: ignore[reportPrivateImportUsage]
)

from llmrl.errors import DisconnectedError
from llmrl.weights.seat import ABANDONED, Seat

COLLECTIVE = timedelta(seconds=120)
"""Longest time for one broadcast once all members have met."""

ERRORS = "TORCH_NCCL_ASYNC_ERROR_HANDLING"

THERE, REASON = "there", "reason"
"""Keys of the store: how often members have met, and why they never will again."""


class Group:
    """A member: it meets the others before every broadcast, so that no collective waits for a straggler."""

    def __init__(self, seat: Seat, *, device: torch.device, listener: int | None = None) -> None:
        """Join the group; returns when all members have come.

        Args:
            seat: this member's seat.
            device: device of the tensors; ``cpu`` talks gloo, ``cuda`` NCCL.
            listener: rank 0's listening socket, for the others to meet at.
        """
        self._seat, self._meetings = seat, 0
        self._store = _store(seat.address, listener=listener)
        try:
            self._group = _collectives(PrefixStore("group", self._store), seat, device)
        except RuntimeError as error:
            raise DisconnectedError(f"rank {seat.rank} did not get into the group: {error}") from error
        # NCCL connects with its first collective: better here, where a member that is missing has a deadline.
        self.meet()
        self.broadcast(torch.zeros(1, dtype=torch.uint8, device=device))

    def meet(self) -> None:
        """Wait until every member has called this as often as this one.

        Raises:
            DisconnectedError: a member never will.
        """
        self._meetings += 1
        wanted = self._seat.size * self._meetings
        deadline_s = self._seat.deadline_s
        with self._or_nobody():
            self._store.add(THERE, 1)
            wait = _Wait(deadline_s, what=f"the other members did not come within {deadline_s:g} s")
            while self._store.add(THERE, 0) < wanted:
                self._rest(wait)

    def broadcast(self, bucket: Tensor) -> None:
        """Copy rank 0's bytes into the bucket of every member.

        Raises:
            DisconnectedError: a member is gone or stands still.
        """
        deadline_s = COLLECTIVE.total_seconds()
        with self._or_nobody():
            work = self._group.broadcast(bucket, 0, COLLECTIVE)
            wait = _Wait(deadline_s, what=f"{bucket.nbytes} bytes were not sent within {deadline_s:g} s")
            while not work.is_completed():
                self._rest(wait)
            # Given a time it raises what went wrong; without one NCCL's would only let the stream wait.
            work.wait(COLLECTIVE)

    def _rest(self, wait: _Wait) -> None:
        if self._store.check([REASON]):
            raise DisconnectedError(self._store.get(REASON).decode())
        wait.rest()

    @contextmanager
    def _or_nobody(self) -> Generator[None]:
        """Give up the group for all members on an error in the block."""
        try:
            yield
        except (RuntimeError, TimeoutError) as error:  # torch's own, gloo's and NCCL's are RuntimeErrors
            reason = _give_up(self._store, f"rank {self._seat.rank}: {str(error).splitlines()[0]}")
            self._group.abort()
            raise DisconnectedError(f"{ABANDONED} ({reason})") from error


class _Wait:
    """A poll with growing pauses, each a twentieth of the time waited so far."""

    def __init__(self, deadline_s: float, *, what: str) -> None:
        self._began, self._deadline_s, self._what = time.monotonic(), deadline_s, what

    def rest(self) -> None:
        waited = time.monotonic() - self._began
        if waited > self._deadline_s:
            raise TimeoutError(self._what)
        time.sleep(min(0.1, max(0.0001, waited / 20)))


def hang_up(address: str, reason: str) -> None:
    """Have all members of a group give it up, as one member will not come."""
    try:
        _give_up(_store(address, listener=None), reason)
    except dist.DistError:
        return  # rank 0 is gone, and every member connected to it knows


def _give_up(store: Store, reason: str) -> str:
    """Post the reason unless one is posted; returns the first one."""
    try:
        return store.compare_set(REASON, "", reason).decode()
    except dist.DistError:
        return f"{reason}; rank 0 is gone too"


def _store(address: str, *, listener: int | None) -> TCPStore:
    host, port = address.rsplit(":", 1)
    return TCPStore(
        host,
        int(port),
        is_master=listener is not None,
        wait_for_workers=False,
        timeout=COLLECTIVE,
        master_listen_fd=listener,
    )


def _collectives(store: Store, seat: Seat, device: torch.device) -> Any:
    if device.type == "cpu":
        return dist.ProcessGroupGloo(store, seat.rank, seat.size, COLLECTIVE)
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = 2 * COLLECTIVE
    # Its watchdog would end the process for what only ends this group; read when a group is made.
    before = os.environ.get(ERRORS)
    os.environ[ERRORS] = "0"
    try:
        return dist.ProcessGroupNCCL(store, seat.rank, seat.size, options)
    finally:
        os.environ.pop(ERRORS)
        if before is not None:
            os.environ[ERRORS] = before

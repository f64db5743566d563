"""What a local run's Ray leaves to others: nothing, neither on the network nor on the disk."""

from __future__ import annotations

import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import ray

from llmrl.cluster.connection import connect
from llmrl.recipe.schema import Cluster

LOOPBACK = {"127.0.0.1", "::ffff:127.0.0.1"}


def heard_at() -> set[str]:
    """Addresses at which what this process has started takes connections."""
    sockets: list[Any] = []
    for one in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            sockets += one.net_connections(kind="tcp")
    return {socket.laddr.ip for socket in sockets if socket.status == psutil.CONN_LISTEN}


def test_a_local_cluster_starts_no_process_that_nobody_uses() -> None:
    with connect(Cluster()):
        time.sleep(3)  # those that Ray starts for its first driver are there after one
        named = [" ".join(one.cmdline()) for one in psutil.Process().children(recursive=True)]

    assert [name for name in named if name.startswith("ray::IDLE")] == []


def test_a_local_cluster_listens_on_loopback_and_its_logs_are_private_and_go_with_it() -> None:
    with connect(Cluster()):
        session = Path(ray.nodes()[0]["ObjectStoreSocketName"]).parents[1]
        private = session.parents[1]
        deadline = time.monotonic() + 20
        while not heard_at() >= LOOPBACK and time.monotonic() < deadline:
            time.sleep(0.1)  # some of them listen a moment after Ray says that it is there

        assert heard_at() == LOOPBACK
        assert (session / "logs").is_dir()
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert not private.exists()

"""What a local run's Ray leaves to others: nothing, neither on the network nor on the disk."""

from __future__ import annotations

import stat
from pathlib import Path

import psutil
import ray

from llmrl.cluster.connection import connect
from llmrl.recipe.schema import Cluster


def test_a_local_cluster_listens_on_loopback_and_its_logs_are_private_and_go_with_it() -> None:
    with connect(Cluster()):
        session = Path(ray.nodes()[0]["ObjectStoreSocketName"]).parents[1]
        private = session.parents[1]
        family = psutil.Process().children(recursive=True)
        sockets = [socket for one in family for socket in one.net_connections(kind="tcp")]
        heard_at = {socket.laddr.ip for socket in sockets if socket.status == psutil.CONN_LISTEN}

        assert heard_at == {"127.0.0.1", "::ffff:127.0.0.1"}
        assert (session / "logs").is_dir()
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert not private.exists()

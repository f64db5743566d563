"""This process's connection to Ray: a cluster of its own on this machine, or one that runs already."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from tempfile import TemporaryDirectory
from typing import Any

import ray
from ray._private import ray_constants
from ray.exceptions import AuthenticationError

from llmrl.errors import PlacementError, shown
from llmrl.recipe.schema import Cluster

LOCAL_CPUS = 64
"""CPUs that a local cluster offers its scheduler: a laptop's few cores are shared by more processes."""

SHIPPED = ("NCCL_", "GLOO_", "HF_", "VLLM_", "RAY_AUTH_", "LLMRL_", "CUDA_LAUNCH_", "TORCH_")
"""Prefixes of the driver's environment variables that reach every process on every node, except tokens: Ray's
dashboard shows them to every user, so the nodes of a cluster get theirs by other means."""

LOOPBACK = "127.0.0.1"


@contextmanager
def connect(cluster: Cluster) -> Generator[None]:
    """Keep a connection to Ray for as long as the block runs.

    Raises:
        PlacementError: nothing answers at ``cluster.address``, or it does not let this process in.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False, "include_dashboard": False}
    there: dict[str, Any] = {"address": cluster.address}
    with _alone() if cluster.address == "local" else nullcontext(there) as where:
        try:
            ray.init(**quiet, **where)
        except ConnectionError as error:
            raise PlacementError(
                f"cluster.address: no Ray cluster answers at '{cluster.address}' ({error}); "
                "start one with launch/."
            ) from error
        except (AuthenticationError, RuntimeError) as error:  # the second is another version of Ray or Python
            if cluster.address == "local":
                raise
            raise PlacementError(
                f"cluster.address: the Ray cluster at '{cluster.address}' does not let this process in "
                f"({shown(str(error))}); it needs the token of the cluster (RAY_AUTH_MODE, RAY_AUTH_TOKEN), "
                "and the same versions of Ray and Python."
            ) from error
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def _alone() -> Generator[dict[str, Any]]:
    """Options for a cluster that Ray starts for this run alone, which no other machine can reach.

    Ray takes ``LOOPBACK`` for a mistake and then listens on every interface, where all that reach it can run
    code. On systems where Ray supports only one machine it obeys; this is its switch for them. Ray's
    logs, which all users of the machine may read, have the environment of every process, so they lie in a
    folder that others cannot enter.
    """
    constants: Any = ray_constants
    before, constants.ENABLE_RAY_CLUSTER = constants.ENABLE_RAY_CLUSTER, False
    # Not below TMPDIR: a socket's path has at most 107 bytes.
    below = os.environ.get("RAY_TMPDIR", "/tmp")
    try:
        with TemporaryDirectory(prefix="llmrl-", dir=below, ignore_cleanup_errors=True) as private:
            yield {
                "address": "local",
                "_node_ip_address": LOOPBACK,
                "_temp_dir": f"{private}/ray",  # which Ray opens to everybody
                "num_cpus": LOCAL_CPUS,
                # Ours have environments of their own: what Ray starts beforehand would never be used.
                "_system_config": {"prestart_worker_first_driver": False},
            }
    finally:
        constants.ENABLE_RAY_CLUSTER = before


def process_environment(cluster: Cluster, *, device: str) -> dict[str, str]:
    """Environment variables of every process: the driver's by prefix, then the recipe's."""
    env = {
        key: value
        for key, value in os.environ.items()
        if key.startswith(SHIPPED) and not key.endswith("TOKEN")
    }
    # Plugins are imported by name in every process, also those that lie where the run was started.
    env["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    env |= {
        "OMP_NUM_THREADS": str(cluster.threads_per_process),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    if device == "cpu":
        env |= {
            "DS_ACCELERATOR": "cpu",
            "TORCH_COMPILE_DISABLE": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }
    if cluster.address == "local":
        env = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"} | env
    return env | cluster.environment


def head_address() -> str:
    """IP address of the cluster's head; every process can reach it."""
    context: Any = ray.get_runtime_context()
    address = str(context.gcs_address)
    return address.rsplit(":", 1)[0]

"""Waits until the Ray cluster at RAY_ADDRESS has so many nodes: ``wait.py NODES [DEADLINE_S]``."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from typing import Any, cast

import ray


def head_answers(address: str) -> bool:
    """Whether something listens there; asking Ray itself before that costs five seconds and a warning."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=5):
            return True
    except OSError:
        return False


def nodes_there(address: str) -> list[str]:
    """The nodes that have joined."""
    if not ray.is_initialized():
        if not head_answers(address):
            return []
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    nodes = cast("list[dict[str, Any]]", ray.nodes())
    alive = [node for node in nodes if node["Alive"]]
    return sorted(f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}" for node in alive)


def main(wanted: int, deadline_s: float) -> str:
    """What is missing at the deadline, in a sentence; empty if nothing is."""
    until = time.monotonic() + deadline_s
    there: list[str] = []
    while time.monotonic() < until:
        there = nodes_there(os.environ["RAY_ADDRESS"])
        if len(there) >= wanted:
            return ""
        time.sleep(0.5)
    names = ", ".join(there) or "none"
    return f"llmrl: after {deadline_s:g} s only {len(there)} of {wanted} Ray nodes have joined: {names}."


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 300.0) or None)

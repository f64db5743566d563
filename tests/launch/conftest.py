"""How the tests of launch/ run a script: marking every process it starts, to see whether one is left."""

from __future__ import annotations

import os
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
Start = Callable[..., "subprocess.Popen[str]"]


def left_over(mark: str) -> list[str]:
    """Command lines of living processes whose environment holds ``mark``."""
    found: list[str] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:  # it has ended, or it is not ours
            continue
    return [line for line in found if line]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a script of launch/; after the test nothing that it started may be alive."""
    mark = f"llmrl-test-{uuid.uuid4().hex}"
    started: list[subprocess.Popen[str]] = []

    def run(script: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        env = os.environ | {"LLMRL_TEST_MARK": mark} | environment
        env.pop("RAY_TMPDIR", None)
        process = subprocess.Popen(
            [str(ROOT / "launch" / script), *arguments],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=60)
    until = time.monotonic() + 20
    while left_over(mark) and time.monotonic() < until:
        time.sleep(0.2)
    assert left_over(mark) == []

"""Docker as a sandbox: one container for each run, which takes about a second; jails take milliseconds."""

from __future__ import annotations

import os
import secrets
import select
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from llmrl.errors import RewardError
from llmrl.sandbox.contract import Ending, Limits, Run, try_out

LONGEST_PROGRAM = 2**17 - 1
"""Most bytes of an argument that Linux passes on."""
NOT_STARTED = 125
"""Exit status of docker where it could start no container."""
_CLIENT_S = 30.0
"""Deadline for docker's answers about itself."""
_CHUNK = 2**16
_LAST_WORDS = 2000
_FOLDER = Path(__file__).parent
_SHARED = ("guest.py", "plain.py")
"""Modules that our programs import in there, from a folder without anything else of llmrl."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Docker:
    """Runs programs in containers without network, privileges or any writable folder but a small /tmp."""

    image: str = "python:3.11-slim"
    """Name of an image that must be present: nothing is pulled."""

    def start(self) -> None:
        """Look for docker and the image, and try them out.

        Raises:
            RewardError: one of them is missing, or runs no Python.
        """
        self._look()
        try_out(self, Limits(seconds=_CLIENT_S))

    def _look(self) -> None:
        if shutil.which("docker") is None:
            raise RewardError("sandbox: isolation 'docker' needs docker; install it, or use 'kernel'.")
        asked = ["docker", "image", "inspect", self.image]
        try:
            found = subprocess.run(asked, capture_output=True, text=True, timeout=_CLIENT_S, check=False)
        except subprocess.TimeoutExpired:
            raise RewardError(
                f"sandbox: docker did not answer within {_CLIENT_S:g} s; start its daemon, or use 'kernel'."
            ) from None
        if found.returncode:
            raise RewardError(
                f"sandbox: docker has no image '{self.image}' ({found.stderr.strip()}); "
                f"run docker pull {self.image}, or name another with the option image."
            )

    def close(self) -> None:
        """No-op: nothing runs between two programs."""

    def run(self, program: str, *, stdin: str, limits: Limits) -> Run:
        """Run a program in a container of its own, which is removed afterwards.

        Raises:
            RewardError: docker or the image disappeared meanwhile.
        """
        if len(program.encode()) > LONGEST_PROGRAM:
            return Run(ending="failed", output="", errors=f"a program longer than {LONGEST_PROGRAM} bytes")
        name = f"llmrl-{secrets.token_hex(8)}"
        file = os.memfd_create(name)
        os.pwrite(file, stdin.encode(errors="replace"), 0)
        command = self.command(name, program, limits)
        with (
            os.fdopen(file) as given,
            subprocess.Popen(command, stdin=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process,
        ):
            try:
                run = _watch(process, limits)
                if process.poll() == NOT_STARTED:
                    self._look()  # a program may end with this status, too
                return run
            finally:
                _remove(name)
                process.kill()

    def command(self, name: str, program: str, limits: Limits) -> list[str]:
        """The command that runs a program in a container called ``name``."""
        options = {
            "--name": name,
            "--network": "none",
            "--user": "65534:65534",
            "--cap-drop": "ALL",
            "--security-opt": "no-new-privileges",
            "--pids-limit": f"{limits.threads}",
            "--memory": f"{limits.memory_mib}m",
            "--memory-swap": f"{limits.memory_mib}m",
            "--log-driver": "none",
            "--tmpfs": f"/tmp:rw,noexec,nosuid,nodev,size={limits.disk_mib}m",
            "--workdir": "/tmp",
            "--env": "PYTHONPATH=/llmrl",
        }
        ulimits = [f"--ulimit={text}" for text in ("core=0", "nofile=64", f"fsize={limits.disk_mib * 2**20}")]
        mounts = [f"--volume={_FOLDER}/{file}:/llmrl/llmrl/sandbox/{file}:ro" for file in _SHARED]
        given = [text for option in options.items() for text in option]
        fixed = ["--rm", "--interactive", "--read-only", "--init", "--pull=never", *ulimits, *mounts]
        return ["docker", "run", *given, *fixed, self.image, "python", "-s", "-c", program]


def _watch(process: subprocess.Popen[bytes], limits: Limits) -> Run:
    """Read until the program ends, its time is over, or it has written too much."""
    assert process.stdout is not None  # promised by Popen
    assert process.stderr is not None
    said: dict[IO[bytes], bytes] = {process.stdout: b"", process.stderr: b""}
    open_ends = list(said)
    until, most = time.monotonic() + limits.seconds, limits.output_kib * 1024
    while open_ends and len(said[process.stdout]) <= most:
        ready, _, _ = select.select(open_ends, [], [], max(until - time.monotonic(), 0))
        if not ready:
            return _run("late", said)
        for end in ready:
            chunk = os.read(end.fileno(), _CHUNK)
            said[end] += chunk
            if not chunk:
                open_ends.remove(end)
        said[process.stderr] = said[process.stderr][-_LAST_WORDS:]
    if open_ends:
        return _run("overflow", said)
    return _run("failed" if process.wait(_CLIENT_S) else "ended", said)


def _run(ending: Ending, said: dict[IO[bytes], bytes]) -> Run:
    output, errors = (said[end].decode(errors="replace") for end in said)
    return Run(ending=ending, output=output, errors=errors)


def _remove(name: str) -> None:
    """End a container itself, as ending the client does not."""
    asked = ["docker", "rm", "--force", name]
    subprocess.run(asked, capture_output=True, timeout=_CLIENT_S, check=False)

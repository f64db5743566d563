"""SandboxFusion as a sandbox: ByteDance's service, by its HTTP interface (POST /run_code)."""

from __future__ import annotations

import base64
import json
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from llmrl.errors import RewardError, shown
from llmrl.sandbox.contract import Ending, Limits, Run, try_out

_SLACK_S = 10.0
"""Seconds for its queue and the network, on top of a program's own time."""
_LONGEST_ANSWER = 2**25
_FOLDER = Path(__file__).parent
_SHARED = ("guest.py", "plain.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fusion:
    """Runs programs on a server; runs are idempotent, and so are repeated requests."""

    url: str
    """URL of the server, such as ``http://sandbox:8080``."""

    def start(self) -> None:
        """Check that the server runs a program.

        Raises:
            RewardError: the server does not answer, or cannot run it.
        """
        try_out(self, Limits())

    def close(self) -> None:
        """No-op: nothing runs between two programs."""

    def run(self, program: str, *, stdin: str, limits: Limits) -> Run:
        """Run a program on the server.

        Raises:
            RewardError: the server cannot be reached, or failed itself.
        """
        answer = self._ask(
            {
                "code": program,
                "language": "python",
                "stdin": stdin,
                "run_timeout": limits.seconds,
                "memory_limit_MB": limits.memory_mib,
                "files": _files(),
            },
            limits.seconds + _SLACK_S,
        )
        if answer.get("status") == "SandboxError" or not isinstance(answer.get("run_result"), dict):
            raise RewardError(f"sandbox: the sandbox at {self.url} failed: {shown(answer.get('message'))}.")
        result: dict[str, Any] = answer["run_result"]
        output = result.get("stdout") or ""
        return Run(
            ending=_ending(result, len(output) > limits.output_kib * 1024),
            output=output[: limits.output_kib * 1024],
            errors=result.get("stderr") or "",
        )

    def _ask(self, question: dict[str, Any], seconds: float) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{self.url.rstrip('/')}/run_code",
            json.dumps(question).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=seconds) as response:
                answer = json.loads(response.read(_LONGEST_ANSWER))
        except (OSError, ValueError) as error:
            raise RewardError(f"sandbox: the sandbox at {self.url} does not answer: {error}.") from None
        if not isinstance(answer, dict):
            raise RewardError(f"sandbox: the sandbox at {self.url} answered {shown(answer)}, no object.")
        return cast("dict[str, Any]", answer)


def _ending(result: dict[str, Any], too_long: bool) -> Ending:
    if too_long:
        return "overflow"
    if result.get("status") == "TimeLimitExceeded":
        return "late"
    return "ended" if result.get("return_code") == 0 else "failed"


def _files() -> dict[str, str]:
    """The files that our programs import there, in a folder without anything else of llmrl."""
    return {
        f"llmrl/sandbox/{name}": base64.b64encode((_FOLDER / name).read_bytes()).decode() for name in _SHARED
    }

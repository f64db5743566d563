"""Docker's command line, and SandboxFusion's interface spoken by a server on loopback."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from llmrl.errors import RewardError
from llmrl.sandbox import Docker, Fusion, Limits
from llmrl.sandbox.task import Calls, Programs

LIMITS = Limits(seconds=20, memory_mib=300, output_kib=4, disk_mib=8, threads=9)


class Service(BaseHTTPRequestHandler):
    """SandboxFusion's /run_code: runs Python in a folder with the files that it is sent."""

    answers: dict[str, Any] = {}  # noqa: RUF012  set by a test to be sent instead
    folder = Path()
    asked: dict[str, Any] = {}  # noqa: RUF012

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).asked = {"path": self.path, **question}
        body = json.dumps(self.answers or self.run(question)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def run(self, question: dict[str, Any]) -> dict[str, Any]:
        for name, content in question["files"].items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(base64.b64decode(content))
        (self.folder / "main.py").write_text(question["code"])
        result: dict[str, Any] = {"status": "Finished", "execution_time": 0.1}
        try:
            ended = subprocess.run(
                [sys.executable, "main.py"],
                cwd=self.folder,
                env={},
                input=question["stdin"],
                capture_output=True,
                text=True,
                timeout=question["run_timeout"],
                check=False,
            )
            result |= {"return_code": ended.returncode, "stdout": ended.stdout, "stderr": ended.stderr}
        except subprocess.TimeoutExpired:
            result |= {"status": "TimeLimitExceeded", "return_code": None, "stdout": "", "stderr": ""}
        status = "Success" if result["return_code"] == 0 else "Failed"
        return {"status": status, "message": "", "compile_result": None, "run_result": result, "files": {}}

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Fusion]:
    Service.folder, Service.answers = tmp_path, {}
    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Fusion(url=f"http://127.0.0.1:{server.server_port}/")
        server.shutdown()
        thread.join(5)


def test_a_service_is_asked_in_its_own_words(service: Fusion) -> None:
    run = service.run("print(input())", stdin="hello", limits=LIMITS)

    assert (run.ending, run.output, run.errors) == ("ended", "hello\n", "")
    asked = {
        name: Service.asked[name] for name in ("path", "language", "run_timeout", "memory_limit_MB", "stdin")
    }
    assert asked == {
        "path": "/run_code",
        "language": "python",
        "run_timeout": 20,
        "memory_limit_MB": 300,
        "stdin": "hello",
    }


def test_a_service_says_how_a_program_ended(service: Fusion) -> None:
    assert service.run("1 / 0", stdin="", limits=LIMITS).ending == "failed"
    assert service.run("print('x' * 5000)", stdin="", limits=LIMITS).ending == "overflow"
    late = service.run("while True: pass", stdin="", limits=Limits(seconds=0.3))
    assert late.ending == "late"


def test_programs_and_calls_are_judged_by_a_service_too(service: Fusion) -> None:
    programs = Programs(inputs=("1", "2"), outputs=("1", "3"))
    calls = Calls(function="add", arguments=([1, 2], [[1], [2]], [1, "a"]), outputs=(3, [1, 2], 0))

    assert programs.judge("print(input())", service, LIMITS, tolerance=0).passed == (True, False)
    candidate = "print('noise')\ndef add(a, b): return a + b"
    assert calls.judge(candidate, service, LIMITS, tolerance=0).passed == (True, True, False)


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ({"status": "SandboxError", "message": "no runner"}, "failed: 'no runner'."),
        ({"status": "Success", "message": "", "run_result": None}, "failed: ''."),
        (["x"], r"answered \['x'\], no object."),
    ],
)
def test_a_service_that_fails_is_an_error_and_no_verdict(
    service: Fusion, answer: Any, complaint: str
) -> None:
    Service.answers = answer

    with pytest.raises(RewardError, match=complaint):
        service.start()


def test_a_service_that_runs_nothing_is_refused_at_the_start(service: Fusion) -> None:
    service.start()

    Service.answers = {
        "status": "Failed",
        "message": "",
        "run_result": {"return_code": 127, "stderr": "no python"},
    }
    with pytest.raises(RewardError, match=r"the sandbox runs no Python: .* failed with '' and 'no python'"):
        service.start()


def test_a_service_that_is_not_there_is_an_error() -> None:
    with pytest.raises(RewardError, match=r"the sandbox at http://127\.0\.0\.1:9 does not answer"):
        Fusion(url="http://127.0.0.1:9").start()


def test_a_container_has_no_network_no_privileges_and_limits() -> None:
    command = Docker(image="python:3.12").command("box", "print(1)", LIMITS)

    assert command[:2] == ["docker", "run"]
    assert command[-5:] == ["python:3.12", "python", "-s", "-c", "print(1)"]
    pairs = set(pairwise(command))
    assert {
        ("--name", "box"),
        ("--network", "none"),
        ("--user", "65534:65534"),
        ("--cap-drop", "ALL"),
        ("--security-opt", "no-new-privileges"),
        ("--pids-limit", "9"),
        ("--memory", "300m"),
        ("--memory-swap", "300m"),
        ("--tmpfs", "/tmp:rw,noexec,nosuid,nodev,size=8m"),
    } <= pairs
    assert {"--rm", "--read-only", "--pull=never", "--ulimit=fsize=8388608"} <= set(command)
    mounts = [option for option in command if option.startswith("--volume=")]
    assert [mount.rpartition(":")[2] for mount in mounts] == ["ro", "ro"]


def test_without_docker_or_its_image_the_reason_is_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RewardError, match="isolation 'docker' needs docker; install it, or use 'kernel'"):
        Docker().start()

    # A client that answers as docker does for an image that is not there.
    (tmp_path / "docker").write_text("#!/bin/sh\necho 'No such image: box' >&2\nexit 1\n")
    (tmp_path / "docker").chmod(0o755)
    with pytest.raises(
        RewardError, match=r"docker has no image 'box' \(No such image: box\); run docker pull box"
    ):
        Docker(image="box").start()


@pytest.fixture
def box(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Docker:
    """Docker whose client runs the program right here, with the files that a container would be given."""
    root = Path(__file__).resolve().parents[3]
    python = f'env -i PYTHONPATH={root} {sys.executable} -c "${{@: -1}}"'
    client = f'#!/bin/bash\n[ "$1" = run ] || exit 0\nexec {python}\n'
    (tmp_path / "docker").write_text(client)
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return Docker()


def test_a_container_is_watched_and_its_output_bounded(box: Docker) -> None:
    box.start()

    run = box.run("print(input())", stdin="5", limits=LIMITS)
    assert (run.ending, run.output) == ("ended", "5\n")
    assert box.run("1 / 0", stdin="", limits=LIMITS).errors.endswith("ZeroDivisionError: division by zero\n")
    assert box.run("while True: print('x' * 999)", stdin="", limits=LIMITS).ending == "overflow"
    assert box.run("while True: pass", stdin="", limits=Limits(seconds=0.5)).ending == "late"
    assert box.run("#" * 200_000, stdin="", limits=LIMITS).errors == "a program longer than 131071 bytes"


def test_a_container_that_could_not_start_is_no_program_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "docker"
    # It answers as docker does: `run` with the status in RUN, `image inspect` with that in INSPECT.
    script.write_text('#!/bin/sh\ncase "$1" in run) exit $RUN ;; image) exit $INSPECT ;; esac\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("RUN", "125")
    monkeypatch.setenv("INSPECT", "1")

    with pytest.raises(RewardError, match=r"docker has no image 'python:3\.11-slim'"):
        Docker().run("print(1)", stdin="", limits=LIMITS)
    monkeypatch.setenv("INSPECT", "0")  # the program itself ended with this status
    assert Docker().run("print(1)", stdin="", limits=LIMITS).ending == "failed"

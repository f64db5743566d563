"""No program gets out, hangs, stays, or passes a test without solving it; and the next verdict is right."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from llmrl.sandbox import Exam, Jails, Limits
from llmrl.sandbox.task import Calls, UnitTests

ATTACKS: dict[str, str] = {
    name: table["code"]
    for name, table in tomllib.loads((Path(__file__).parent / "attacks.toml").read_text()).items()
}

SECRET = "the-secret-of-the-world-outside"
SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP)

SECONDS = 0.3
LIMITS = Limits(seconds=SECONDS, memory_mib=512)
PATIENT = Limits(seconds=30, memory_mib=512)

TESTS = ["assert solve(2, 3) == 5", "assert abs(solve(20, 30) - 50) < 1e-6", "assert solve(7, 1) in [8]"]
EXAM = UnitTests(exam=Exam(setup="", tests=TESTS))
NEXT = UnitTests(exam=Exam(setup="", tests=["assert solve(2, 3) == 5", "assert solve(2, 3) == 6"]))
CALLS = Calls(function="solve", arguments=([2, 3], [20, 30]), outputs=(5, 50))

RIGHT = "def solve(a, b):\n    return a + b\n"
MAIN = "\nprint(solve(*map(int, input().split())))\n"


@dataclass(slots=True, kw_only=True)
class World:
    """What lies outside: a file, an environment, servers, and a process that could be signalled."""

    canary: Path
    tcp: socket.socket
    unix: socket.socket
    mailbox: socket.socket
    signals: list[int] = field(default_factory=list[int])

    def aimed(self, attack: str) -> str:
        """The attack with the addresses of this world in it."""
        for name, value in (
            ("CANARY", self.canary),
            ("JUDGE", os.getpid()),
            ("PORT", self.tcp.getsockname()[1]),
            ("SOCKET", self.unix.getsockname()),
            ("MAILBOX", self.mailbox.getsockname()),
        ):
            attack = attack.replace(name, str(value))
        return attack

    def harm(self) -> list[str]:
        """What has been done to it."""
        found = [f"signal {number}" for number in self.signals]
        file = self.canary.stat()
        if self.canary.read_text() != SECRET or (file.st_nlink, file.st_mode & 0o777) != (1, 0o644):
            found.append("the canary was touched")
        if [path for path in self.canary.parent.iterdir() if path.name.startswith("canary.")]:
            found.append("the canary was copied")
        for server in (self.tcp, self.unix):
            try:
                server.accept()[0].close()
                found.append("a connection")
            except BlockingIOError:
                pass
        with suppress(BlockingIOError):
            found.append(f"a letter: {self.mailbox.recv(99)!r}")
        return found


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("outside")
    canary = folder / "canary"
    canary.write_text(SECRET)
    canary.chmod(0o644)
    for path in (folder, *folder.parents):
        if path.stat().st_uid == os.getuid() and path.is_relative_to("/tmp") and path != Path("/tmp"):
            path.chmod(0o755)
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as unix,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as mailbox,
    ):
        for server, name in ((unix, "socket"), (mailbox, "mailbox")):
            server.bind(str(folder / name))
            (folder / name).chmod(0o777)
        unix.listen()
        for server in (tcp, unix, mailbox):
            server.setblocking(False)
        made = World(canary=canary, tcp=tcp, unix=unix, mailbox=mailbox)
        old = {number: signal.signal(number, lambda got, _: made.signals.append(got)) for number in SIGNALS}
        yield made
        for number, handler in old.items():
            signal.signal(number, handler)


def children(pid: int) -> set[int]:
    """All that a process has started and those have started, dead and unburied ones included."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def assert_nothing_happened(jails: Jails, world: World, before: set[int]) -> None:
    assert world.harm() == []
    assert children(os.getpid()) - before == set()
    assert NEXT.judge(RIGHT, jails, PATIENT, tolerance=0).passed == (True, False)


@pytest.mark.parametrize("name", ATTACKS)
def test_no_attack_passes_or_harms_anything(name: str, jails: Jails, world: World) -> None:
    attack, before, start = world.aimed(ATTACKS[name]), children(os.getpid()), time.monotonic()

    verdict = EXAM.judge(attack, jails, LIMITS, tolerance=1e-6)
    calls = CALLS.judge(attack, jails, LIMITS, tolerance=1e-6)
    run = jails.run(attack + MAIN, stdin="2 3\n", limits=LIMITS)

    assert time.monotonic() - start < 3 * SECONDS + 5
    assert (verdict.passed, calls.passed) == ((False, False, False), (False, False))
    assert run.output.strip() != "5"
    assert SECRET not in run.output + run.errors + calls.note + verdict.note
    assert "typed" not in run.output
    assert "wrote" not in run.output
    assert_nothing_happened(jails, world, before)


@pytest.mark.parametrize(
    "name", ["exit-at-import", "os-exit-in-the-call", "exit-in-the-call", "always-equal-int"]
)
def test_the_same_attack_passes_where_code_and_tests_share_an_interpreter(name: str) -> None:
    together = "\n".join([ATTACKS[name], *TESTS])

    ended = subprocess.run([sys.executable, "-I", "-c", together], timeout=30, check=False)

    assert ended.returncode == 0


ORDINARY = """
import json, sys
from llmrl.sandbox import Exam, Jails, Limits
from llmrl.sandbox.task import UnitTests
task = json.load(sys.stdin)
exam = UnitTests(exam=Exam(setup="", tests=task["tests"]))
with Jails() as jails:
    for program in task["programs"]:
        for code, seconds in ((program, 0.2), (task["right"], 30)):
            verdict = exam.judge(code, jails, Limits(seconds=seconds, memory_mib=512), tolerance=0)
            print(json.dumps(verdict.passed))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="these tests run as an ordinary user anyway")
def test_an_ordinary_user_without_any_privilege_is_as_safe(world: World) -> None:
    """Root has other ways into its jails, so the corpus is run once more as somebody else."""
    python = Path(f"/usr/bin/python3.{sys.version_info.minor}")
    if not python.exists():
        pytest.skip(f"there is no {python}, which another user could execute")
    task = {"tests": TESTS, "right": RIGHT, "programs": [world.aimed(attack) for attack in ATTACKS.values()]}
    path = os.pathsep.join([str(Path(__file__).parents[3]), sysconfig.get_path("purelib")])

    ended = subprocess.run(
        [python, "-c", ORDINARY],
        input=json.dumps(task),
        env={"PYTHONPATH": path, "LLMRL_TEST_SECRET": SECRET},
        capture_output=True,
        text=True,
        timeout=200,
        user=12345,
        group=12345,
        extra_groups=[],
        cwd="/",
        check=False,
    )

    assert (ended.returncode, SECRET in ended.stdout + ended.stderr) == (0, False), ended.stderr
    verdicts = [json.loads(line) for line in ended.stdout.splitlines()]
    assert verdicts == [[False] * 3, [True] * 3] * len(ATTACKS)
    assert world.harm() == []

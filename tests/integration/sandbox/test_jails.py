"""What an honest program may do, what each limit does, and what is left when anybody dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from llmrl.errors import RewardError
from llmrl.sandbox import Exam, Jails, Limits
from llmrl.sandbox.task import Calls, Programs

ROOT = Path(__file__).resolve().parents[3]
PATIENT = Limits(seconds=30)

HONEST = {
    "input and output": ("a, b = map(int, input().split())\nprint(a + b)", "2 3\n", "5\n"),
    "all of the input": ("import sys\nprint(len(sys.stdin.read()))", "x" * 200_000, "200000\n"),
    "input by descriptor": ("print(sum(map(int, open(0).read().split())))", "1\n2\n3", "6\n"),
    "unread input": ("print('done')", "x" * 4_000_000, "done\n"),
    "text beyond ASCII": ("print(input()[::-1])", "caf\u00e9 \u4e2d", "\u4e2d \u00e9fac\n"),
    "exit functions": ("import atexit\natexit.register(print, 'last')\nprint('first')", "", "first\nlast\n"),
    "a thread that nobody joins": (
        "import threading, time\nthreading.Thread(target=lambda: (time.sleep(.05), print('t'))).start()",
        "",
        "t\n",
    ),
    "exit with 0": ("import sys\nprint(1)\nsys.exit(0)\nprint(2)", "", "1\n"),
    "exit without site": ("print(1)\nexit()", "", "1\n"),
    "the main block": ("if __name__ == '__main__':\n    print(__name__)", "", "__main__\n"),
    "asyncio": ("import asyncio\nasyncio.run(asyncio.sleep(0.01))\nprint(1)", "", "1\n"),
    "a database": (
        "import sqlite3\nprint(sqlite3.connect(':memory:').execute('select 6 * 7').fetchone())",
        "",
        "(42,)\n",
    ),
    "numbers": (
        "import decimal, fractions\nprint(decimal.Decimal(1) / 8, fractions.Fraction(1, 3))",
        "",
        "0.125 1/3\n",
    ),
    "time zones": (
        "import zoneinfo, datetime\nprint(datetime.datetime(2024, 1, 1).isoformat())",
        "",
        "2024-01-01T00:00:00\n",
    ),
    "random numbers": (
        "import random, secrets\nprint(0 <= random.random() < 1, len(secrets.token_hex(4)))",
        "",
        "True 8\n",
    ),
    "dataclasses": (
        "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\nprint(A(1))",
        "",
        "A(x=1)\n",
    ),
    "a large stack": (
        "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(2**26)\n"
        "def f(n): return n and 1 + f(n - 1)\n"
        "t = threading.Thread(target=lambda: print(f(50000)))\nt.start()\nt.join()",
        "",
        "50000\n",
    ),
}


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone_within(seconds: float, pids: set[int]) -> bool:
    end = time.monotonic() + seconds
    while any(map(runs, pids)) and time.monotonic() < end:
        time.sleep(0.01)
    return not any(map(runs, pids))


def below(pid: int) -> set[int]:
    """The processes that one has started, and those that they have."""
    children = {
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    }
    return children.union(*map(below, children))


@pytest.mark.parametrize("what", HONEST)
def test_an_honest_program_runs_as_it_would_outside(what: str, jails: Jails) -> None:
    program, given, wanted = HONEST[what]

    run = jails.run(program, stdin=given, limits=PATIENT)

    assert (run.ending, run.output, run.errors) == ("ended", wanted, "")


def test_files_are_kept_for_one_run_and_no_longer(all_jails: dict[str, Jails]) -> None:
    write = "open('note', 'w').write('x' * 10)\nprint(open('/tmp/note').read())"

    assert all_jails["kernel"].run(write, stdin="", limits=PATIENT).output == "xxxxxxxxxx\n"
    look = all_jails["kernel"].run("import os\nprint(os.listdir('/tmp'))", stdin="", limits=PATIENT)
    assert look.output == "[]\n"


def test_an_exception_fails_with_a_traceback_of_the_program_only(jails: Jails) -> None:
    run = jails.run("x = 1\nprint(x)\n1 / 0\n", stdin="", limits=PATIENT)

    assert (run.ending, run.output) == ("failed", "1\n")
    assert run.errors.splitlines()[0] == "Traceback (most recent call last):"
    assert run.errors.splitlines()[1:3] == ['  File "main.py", line 3, in <module>', "    1 / 0"]
    assert run.errors.splitlines()[-1] == "ZeroDivisionError: division by zero"


@pytest.mark.parametrize(
    ("program", "limits", "ending"),
    [
        ("while True: pass", Limits(seconds=0.5), "late"),
        ("import time\ntime.sleep(60)", Limits(seconds=0.5), "late"),
        ("print('x' * 5000)", Limits(output_kib=4), "overflow"),
        ("print('x' * 3000)", Limits(output_kib=4), "ended"),
        ("x = bytearray(300 * 2**20)", Limits(memory_mib=256), "failed"),
        ("x = bytearray(100 * 2**20)", Limits(memory_mib=256), "ended"),
        ("open('/tmp/x', 'wb').write(bytes(3 * 2**20))", Limits(disk_mib=2), "failed"),
        ("open('/tmp/x', 'wb').write(bytes(2**20))", Limits(disk_mib=2), "ended"),
        ("for i in range(4): open(f'/tmp/{i}', 'wb').write(bytes(2**20))", Limits(disk_mib=2), "failed"),
        ("import sys\nsys.exit(3)", PATIENT, "failed"),
        ("import sys\nsys.exit('no')", PATIENT, "failed"),
    ],
)
def test_a_limit_ends_what_exceeds_it_and_nothing_else(
    program: str, limits: Limits, ending: str, all_jails: dict[str, Jails]
) -> None:
    assert all_jails["kernel"].run(program, stdin="", limits=limits).ending == ending


LONG = 3 * 2**20


@pytest.mark.parametrize(
    ("task", "program"),
    [
        (Programs(inputs=("",), outputs=("x" * LONG,)), f"print('x' * {LONG})"),
        (Programs(inputs=("",), outputs=("x" * 20 * 2**20,)), f"print('x' * {20 * 2**20})"),
        (Calls(function="f", arguments=([],), outputs=("x" * LONG,)), f"def f(): return 'x' * {LONG}"),
        (
            Calls(function="f", arguments=([],), outputs=([[1, 2]] * 300_000,)),
            "def f(): return [(1, 2)] * 300_000",
        ),
    ],
)
def test_what_a_row_expects_is_never_too_long(
    task: Programs | Calls, program: str, all_jails: dict[str, Jails]
) -> None:
    verdict = task.judge(program, all_jails["kernel"], PATIENT, tolerance=0)

    assert (verdict.passed, verdict.note) == ((True,), "")


def test_a_late_program_is_dead_when_its_verdict_comes(all_jails: dict[str, Jails]) -> None:
    start = time.monotonic()

    run = all_jails["kernel"].run("while True: pass", stdin="", limits=Limits(seconds=0.5))

    assert run.ending == "late"
    assert 0.5 <= time.monotonic() - start < 5.5


def test_values_of_every_plain_type_reach_the_tests_as_they_were(jails: Jails) -> None:
    values = [
        "None",
        "True",
        "-3",
        "2**200",
        "1.5",
        "1j",
        "'a\u00e9'",
        "b'x'",
        "[1, (2,)]",
        "{1: {'a'}}",
        "range(3)",
    ]
    tests = [
        f"assert give({value!r}) == {value} and type(give({value!r})) is type({value})" for value in values
    ]

    marks = jails.examine("def give(text): return eval(text)", Exam(setup="", tests=tests), limits=PATIENT)

    assert marks.passed == (True,) * len(values)


def test_tests_see_helpers_exceptions_and_iterators_of_a_candidate(jails: Jails) -> None:
    candidate = "def fail(): raise ValueError('no')\ndef count(n):\n    yield from range(n)\n"
    tests = [
        "try: fail()\nexcept ValueError as error: assert str(error) == 'no'\nelse: assert False",
        "assert list(count(3)) == [0, 1, 2]",
        "assert double(len(list(count(2)))) == 4",
        "assert fail() is None",
    ]

    marks = jails.examine(candidate, Exam(setup="def double(x): return 2 * x", tests=tests), limits=PATIENT)

    assert marks.passed == (True, True, True, False)
    assert "ValueError: no at: assert fail() is None" in marks.note


def test_a_test_that_catches_everything_does_not_pass_without_a_candidate(jails: Jails) -> None:
    tests = ["try: solve()\nexcept BaseException: pass", "assert True"]

    marks = jails.examine("import os\ndef solve(): os._exit(0)", Exam(setup="", tests=tests), limits=PATIENT)

    assert marks.passed == (False, False)


def test_a_killed_zygote_is_an_error_of_one_run_and_replaced(world_jails: Jails) -> None:
    pid = world_jails._process.pid  # type: ignore[union-attr]
    family = {pid, *below(pid)}
    for each in family:
        with suppress(ProcessLookupError):  # the inner one dies of the outer one's end
            os.kill(each, signal.SIGKILL)

    with pytest.raises(
        RewardError, match="the process that makes sandboxes is gone; the next run starts another"
    ):
        world_jails.run("print(1)", stdin="", limits=PATIENT)

    assert gone_within(5, family)
    assert world_jails.run("print(1)", stdin="", limits=PATIENT).output == "1\n"


@pytest.fixture(params=["kernel", "process"])
def world_jails(request: pytest.FixtureRequest, all_jails: dict[str, Jails]) -> Iterator[Jails]:
    """Jails of their own, to be killed."""
    if request.param not in all_jails:
        pytest.skip(f"this machine allows no sandbox of isolation '{request.param}'")
    with Jails(request.param) as jails:
        yield jails


@pytest.mark.parametrize("isolation", ["kernel", "process"])
def test_when_the_judge_is_killed_its_jails_go_with_it(isolation: str, all_jails: dict[str, Jails]) -> None:
    if isolation not in all_jails:
        pytest.skip(f"this machine allows no sandbox of isolation '{isolation}'")
    script = (
        "import sys\nfrom llmrl.sandbox import Jails, Limits\n"
        f"with Jails('{isolation}') as jails:\n"
        "    print('ready', flush=True)\n"
        "    jails.run('while True: pass', stdin='', limits=Limits(seconds=60))\n"
    )
    judge = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=ROOT)
    assert judge.stdout is not None
    judge.stdout.readline()
    end = time.monotonic() + 20
    jailed = 3 if isolation == "kernel" else 2
    while len(family := below(judge.pid)) < jailed and time.monotonic() < end:
        time.sleep(0.02)

    judge.kill()

    judge.wait(5)
    judge.stdout.close()
    assert len(family) == jailed
    assert gone_within(5, family)


def denied(call: int, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script where a filter around the judge denies a system call, as containers do."""
    script = (
        "import struct\n"
        "from llmrl.sandbox import Jails, kernel, survey\n"
        f"steps = [(0x20, 0, 0, 0), (0x15, 0, 1, {call}), (0x06, 0, 0, 0x50001), (0x06, 0, 0, 0x7FFF0000)]\n"
        "kernel.forbid_new_privileges()\n"
        "kernel.filter_calls(b''.join(struct.pack('=HBBI', *step) for step in steps))\n"
    ) + script
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )


UNSHARE, MOUNT_SETATTR, LANDLOCK = (272 if os.uname().machine == "x86_64" else 97), 442, 444


@pytest.mark.parametrize(
    ("call", "isolation", "primitive"),
    [
        (UNSHARE, "kernel", "namespace: Operation not permitted"),
        (MOUNT_SETATTR, "kernel", "mount_setattr of /"),
        (LANDLOCK, "process", "Landlock: Operation not permitted"),
    ],
)
def test_a_missing_primitive_is_refused_by_its_name(call: int, isolation: str, primitive: str) -> None:
    ended = denied(call, f"with Jails('{isolation}'): print('works')")

    assert "works" not in ended.stdout
    assert primitive in ended.stderr
    assert "model-written code is not run without a sandbox." in ended.stderr
    assert ("isolation = 'process'" in ended.stderr) == (isolation == "kernel")


def test_where_namespaces_are_denied_the_weaker_level_works_if_it_is_named() -> None:
    assert denied(UNSHARE, "with Jails('process'): print('works')").stdout == "works\n"


def test_a_survey_tries_every_level_and_says_what_is_missing() -> None:
    script = "for level in survey(): print(level.isolation, level.refusal.partition(':')[2])"

    kernel, process = denied(UNSHARE, script).stdout.splitlines()

    assert kernel.startswith("kernel  this machine allows no sandbox of isolation 'kernel': ")
    assert "namespace: Operation not permitted. Allow it (docs/sandbox.md says how)" in kernel
    assert process == "process "


def test_a_running_jail_is_what_the_docs_say(all_jails: dict[str, Jails]) -> None:
    jails, ended = all_jails["kernel"], list[str]()
    limits = Limits(seconds=3)
    runner = threading.Thread(
        target=lambda: ended.append(jails.run("import time\ntime.sleep(60)", stdin="", limits=limits).ending)
    )
    runner.start()
    keeper = jails._process.pid  # type: ignore[union-attr]
    end = time.monotonic() + 2.5
    while not (found := [pid for pid in below(keeper) if jailed(pid)]) and time.monotonic() < end:
        time.sleep(0.01)
    (pid,) = found
    status = dict(line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    shared = [
        kind
        for kind in ("user", "pid", "mnt", "net", "ipc", "uts", "cgroup")
        if os.readlink(f"/proc/{pid}/ns/{kind}") == os.readlink(f"/proc/self/ns/{kind}")
    ]
    descriptors = sorted(path.name for path in Path(f"/proc/{pid}/fd").iterdir())
    environment = Path(f"/proc/{pid}/environ").read_bytes()
    runner.join(10)

    assert ended == ["late"]
    assert shared == []
    assert descriptors == ["0", "1", "2"]
    assert environment.strip(b"\0") == b""
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert "0" not in status["Uid"].split()
    assert status["NSpid"].split()[-1] == "1"


def jailed(pid: int) -> bool:
    """Whether a process has the filter on and sleeps, as its program does."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return "\nSeccomp:\t2\n" in status and "\nState:\tS" in status


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give up a part of its powers")
def test_root_without_the_power_to_mount_gets_jails_as_an_ordinary_user_does() -> None:
    """As the root of a container is, whose interpreter everybody may read."""
    python, setpriv = Path(f"/usr/bin/python3.{sys.version_info.minor}"), Path("/usr/bin/setpriv")
    if not python.exists() or not setpriv.exists():
        pytest.skip(f"there is no {python} or no {setpriv}")
    script = (
        "from llmrl.sandbox import Jails, Limits\n"
        "with Jails() as jails: print(jails.run('print(input())', stdin='in', limits=Limits()).output)\n"
    )
    path = os.pathsep.join([str(ROOT), sysconfig.get_path("purelib")])

    ended = subprocess.run(
        [setpriv, "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin", python, "-c", script],
        env={"PYTHONPATH": path},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (ended.stdout, ended.stderr) == ("in\n\n", "")

"""A program as an agent: what it is told, what it may say, and that nothing of it is left behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmrl.errors import DeadlineError, EngineError, RecipeError
from llmrl.prompts.example import Message
from llmrl.prompts.prompt import Prompt
from llmrl.rollouts.environments import environment
from llmrl.rollouts.environments.program import Program

PROMPT = Prompt(
    id="sums/7",
    tokens=np.array([3, 4], dtype=np.int32),
    text="37+5=",
    answer='{"total": 42}',
    source="sums",
    messages=(Message(role="user", content="37+5="),),
)
WITHIN_S = 10.0


@pytest.fixture
def programs() -> Iterator[list[Program]]:
    """Those of a test; closed after it."""
    made: list[Program] = []
    yield made
    for one in made:
        one.close()


def shell(made: list[Program], script: str, **options: Any) -> Program:
    made.append(Program(command=("sh", "-c", script), **options))
    return made[-1]


def python(made: list[Program], script: str, **options: Any) -> Program:
    made.append(Program(command=(sys.executable, "-c", script), **options))
    return made[-1]


def run(program: Program, key: str = "key") -> float | None:
    return program.run(PROMPT, base_url="http://127.0.0.1:1/v1", api_key=key, seed=2**53 + 5)


def gone(pid: int) -> bool:
    """Whether a process has ended, or does within the time."""
    until = time.monotonic() + WITHIN_S
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def test_a_program_reads_its_row_and_its_last_outcome_counts(programs: list[Program], tmp_path: Path) -> None:
    program = shell(programs, f'cat > {tmp_path}/row; echo thinking; echo {{\\"outcome\\": 0.5}}')

    outcome = run(program)

    assert outcome == 0.5
    assert json.loads((tmp_path / "row").read_text()) == {
        "base_url": "http://127.0.0.1:1/v1",
        "api_key": "key",
        "model": "policy",
        "seed": 5,
        "id": "sums/7",
        "prompt": "37+5=",
        "messages": [{"role": "user", "content": "37+5="}],
        "answer": '{"total": 42}',
    }


def test_a_program_has_the_variables_that_the_recipe_names_and_no_others(
    programs: list[Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("PROXY", "here")
    script = "import json, os; print(json.dumps({'error': ' '.join(sorted(os.environ))}))"
    program = python(programs, script, variables={"MODE": "test"}, inherit=["PROXY", "ABSENT"])

    with pytest.raises(EngineError) as error:
        run(program)

    # Python adds LC_CTYPE to its own environment where there is no other.
    names = str(error.value).rpartition("says: ")[2].replace("LC_CTYPE ", "")
    assert names == "MODE OPENAI_API_KEY OPENAI_BASE_URL PROXY"


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ("echo hello; echo no such tool >&2; exit 3", "ended with status 3 and without an outcome"),
        ("echo hello", "ended with status 0 and without an outcome; its last words: 'hello'."),
        ("true", "without an outcome; it said nothing."),
        ("kill -9 $$", "ended with SIGKILL and without an outcome"),
        ("echo '{\"outcome\": 1}'; exit 1", "ended with status 1; its last words: '{\"outcome\": 1}'."),
        ('echo \'{"error": "the browser crashed"}\'', "says: the browser crashed"),
        ("echo '[\"outcome\"]'", "without an outcome"),
    ],
)
def test_a_program_that_does_not_end_well_is_an_error_with_its_last_words(
    programs: list[Program], script: str, sentence: str
) -> None:
    with pytest.raises(EngineError, match=rf"'sh -c .*{re.escape(sentence)}"):
        run(shell(programs, script))


@pytest.mark.parametrize(
    ("said", "outcome"),
    [('{"abstain": "no display"}', None), ('{"outcome": null}', None), ('{"outcome": -2}', -2)],
)
def test_a_program_may_abstain(programs: list[Program], said: str, outcome: float | None) -> None:
    assert run(shell(programs, f"printf '%s' '{said}'")) == outcome  # the last line needs no end


def test_a_program_is_killed_with_its_children_at_the_deadline(
    programs: list[Program], tmp_path: Path
) -> None:
    script = f"sleep 60 & echo $! > {tmp_path}/child; echo waiting for it; wait"
    began = time.monotonic()

    with pytest.raises(
        DeadlineError, match=r"did not end within deadline_s = 2; its last words: 'waiting for it'\."
    ):
        run(shell(programs, script, deadline_s=2))

    assert time.monotonic() - began < WITHIN_S
    assert gone(int((tmp_path / "child").read_text()))


def test_what_a_program_leaves_running_ends_with_it(programs: list[Program], tmp_path: Path) -> None:
    # The child holds the output open, so only the end of the program itself can tell that it is done.
    script = f"sleep 60 & echo $! > {tmp_path}/child; echo '{{\"outcome\": 1}}'"

    assert run(shell(programs, script)) == 1
    assert gone(int((tmp_path / "child").read_text()))


def test_output_without_an_end_is_not_kept(programs: list[Program]) -> None:
    # 256 MiB without a newline, then the outcome.
    script = "import sys\nfor _ in range(256): sys.stdout.write('x' * 2**20)\nprint('\\n{\"outcome\": 1}')"
    tracemalloc.start()
    try:
        assert run(python(programs, script)) == 1
        assert tracemalloc.get_traced_memory()[1] < 10 * 2**20  # at its peak
    finally:
        tracemalloc.stop()


SERVER = """
import json, os, sys
for number, line in enumerate(sys.stdin):
    row = json.loads(line)
    print("row", number, file=sys.stderr)
    print(json.dumps({"outcome": os.getpid() + number / 4} if row["api_key"] != "bad" else {"error": "bad"}),
          flush=True)
    if row["api_key"] == "leave":
        sys.exit(3)
"""


def test_a_program_of_many_rows_is_started_once_and_again_when_it_has_ended(programs: list[Program]) -> None:
    program = python(programs, SERVER, rows="many")

    first, second = run(program), run(program)
    with pytest.raises(EngineError, match="says: bad"):
        run(program, "bad")
    third = run(program, "leave")
    assert gone(int(first or 0))
    other = run(program)

    assert first is not None
    assert (second, third) == (first + 0.25, first + 0.75)
    assert other is not None
    assert other != first
    assert other == int(other)  # its first row


@pytest.mark.parametrize("late", ["", "time.sleep(0.2); "])
def test_a_program_that_says_more_than_one_outcome_of_a_row_gets_no_other_row(
    programs: list[Program], late: str
) -> None:
    script = (
        "import sys, time\nfor number, _ in enumerate(sys.stdin):\n"
        "    print('{\"outcome\": %d}' % number, flush=True)\n"
        f"    {late}print('{{\"error\": null}}', flush=True)\n"
    )
    program = python(programs, script, rows="many")

    assert run(program) == 0
    for _ in range(2):
        time.sleep(0.6)
        assert run(program) == 0  # each time the first row of a new process


def test_a_program_that_answers_before_it_has_read_its_row_gets_no_other_row(programs: list[Program]) -> None:
    said = "'{\"outcome\": %d}' % os.getpid(), flush=True"
    script = f"import os, time; os.read(0, 1); print({said}); time.sleep(60)"
    program = python(programs, script, rows="many")
    long = replace(PROMPT, answer="x" * 2**20)  # more than a pipe holds

    first, second = (program.run(long, base_url="", api_key="", seed=0) for _ in range(2))

    assert first != second
    assert gone(int(first or 0))


def test_rows_at_the_same_time_have_a_process_each(programs: list[Program]) -> None:
    program = python(
        programs, SERVER.replace("    row =", "    import time; time.sleep(0.3); row ="), rows="many"
    )

    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda _: run(program), range(4)))
        again = list(threads.map(lambda _: run(program), range(4)))

    assert len(set(together)) == 4
    assert {int(one or 0) for one in again} == {int(one or 0) for one in together}


def test_a_program_of_many_rows_has_no_key_but_those_of_its_rows(programs: list[Program]) -> None:
    script = SERVER.replace("os.getpid()", "float('OPENAI_API_KEY' in os.environ)")

    assert run(python(programs, script, rows="many")) == 0


SLEEPER = """
import os, sys, time
open(sys.argv[1] + f"/{os.getpid()}", "w").close()
for row in sys.stdin:
    if "slow" in row:
        open(sys.argv[1] + "/0", "w").close()
        time.sleep(60)
    print('{"outcome": 1}', flush=True)
"""


def test_closing_ends_those_at_work_and_those_that_wait(tmp_path: Path) -> None:
    program = Program(command=(sys.executable, "-c", SLEEPER, str(tmp_path)), rows="many", at_once=None)
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda _: run(program), range(3)))
        slow = threads.submit(run, program, "slow")
        until = time.monotonic() + WITHIN_S
        while not (tmp_path / "0").exists():
            assert time.monotonic() < until
            time.sleep(0.02)
        program.close()
        error = slow.exception(timeout=WITHIN_S)

    assert isinstance(error, EngineError)
    assert "ended with SIGKILL" in str(error)
    assert all(gone(int(file.name)) for file in tmp_path.iterdir() if file.name != "0")


OWNER = """
import sys, threading, time
sys.path[:] = {path!r}
from llmrl.rollouts.agents.process import AgentProcess
script = "sleep 60 & echo $$ $! > {file}; wait"
one = AgentProcess(["sh", "-c", script], folder=".", variables={{}}, many=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a kernel that signals a group when a pipe closes")
def test_a_program_does_not_outlive_the_process_that_started_it(tmp_path: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER.format(path=sys.path, file=tmp_path / "pids")], env=dict(os.environ)
    )
    until = time.monotonic() + 60
    while not (tmp_path / "pids").exists() or not (tmp_path / "pids").read_text().strip():
        assert time.monotonic() < until
        time.sleep(0.05)

    owner.kill()
    owner.wait()

    assert all(gone(int(pid)) for pid in (tmp_path / "pids").read_text().split())


def test_a_program_or_folder_that_is_not_there_is_refused_before_the_first_row(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("#!/bin/sh\n")
    (tmp_path / "mine").chmod(0o755)

    Program(command=("./mine",), folder=str(tmp_path)).warm_up()
    with pytest.raises(RecipeError, match=r"options\.command: there is no program 'no-such-program' here"):
        Program(command=("no-such-program",)).warm_up()
    with pytest.raises(RecipeError, match=r"options\.folder: there is no folder '/no/such' here"):
        Program(command=("sh",), folder="/no/such").warm_up()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"command": []}, "command must begin with a program, got none"),
        ({"command": "python agent.py"}, "environment.options.command: "),
        ({"command": ["sh"], "rows": "all"}, "environment.options.rows: "),
        ({}, "environment.options.command: this key is missing"),
    ],
)
def test_options_are_checked_with_the_recipe(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(sentence)):
        environment.build("program", options, key="environment")

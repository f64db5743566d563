"""An environment that cannot get ready says so before a run takes anything, in a process of its own."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import psutil
import pytest

from llmrl.errors import DataError, DeadlineError, LlmrlError, PluginError, RecipeError
from llmrl.recipe.schema import Choice
from llmrl.rollouts.rehearsal import rehearse

HARD = """
import os, time
from dataclasses import dataclass
from llmrl.rollouts.environments import Environment, environment

@environment("hard")
@dataclass(frozen=True, slots=True, kw_only=True)
class Hard(Environment):
    does: str

    def warm_up(self):
        print("loading")
        exec(self.does)

    def close(self):
        open(os.environ["CLOSED"], "w").close()
"""


def tried(chosen: Choice, folder: Path, *, deadline_s: float = 60) -> None:
    (folder / "hard_world.py").write_text(HARD)
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    variables = {"PYTHONPATH": path, "CLOSED": str(folder / "closed")}
    rehearse(chosen, ["hard_world"], door="http://x", variables=variables, deadline_s=deadline_s)


def test_what_a_warm_up_starts_may_print(tmp_path: Path) -> None:
    tried(Choice(name="hard", options={"does": "os.system('echo pulled')"}), tmp_path)

    assert (tmp_path / "closed").exists()


def test_nothing_that_a_warm_up_starts_outlives_it(tmp_path: Path) -> None:
    file = tmp_path / "server"
    server = f"sleep 300 >/dev/null 2>&1 & echo $! > {file}"

    tried(Choice(name="hard", options={"does": f"os.system({server!r})"}), tmp_path)

    deadline = time.monotonic() + 10
    while psutil.pid_exists(int(file.read_text())) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not psutil.pid_exists(int(file.read_text()))


@pytest.mark.parametrize(
    ("chosen", "kind", "sentence"),
    [
        (
            Choice(name="program", options={"command": ["no-such-program"]}),
            RecipeError,
            "environment.options.command: there is no program 'no-such-program' here",
        ),
        (
            Choice(
                name="tools", options={"tools": {"s": {"name": "search", "options": {"file": "/no.jsonl"}}}}
            ),
            DataError,
            "/no.jsonl: the documents of a search cannot be read",
        ),
        (
            Choice(name="dialogue", options={"url": "http://y/v1", "token_from": "NO_SUCH_TOKEN"}),
            RecipeError,
            "the environment variable NO_SUCH_TOKEN",
        ),
        (
            Choice(name="hard", options={"does": "1 / 0"}),
            PluginError,
            "environment: warm_up of 'hard' failed: ZeroDivisionError: division by zero.",
        ),
        (
            Choice(name="hard", options={"does": "os._exit(3)"}),
            PluginError,
            "environment: warm_up of 'hard' ended its process with status 3.",
        ),
    ],
)
def test_what_an_environment_misses_is_said_in_its_own_words(
    tmp_path: Path, chosen: Choice, kind: type[LlmrlError], sentence: str
) -> None:
    with pytest.raises(kind, match=re.escape(sentence)):
        tried(chosen, tmp_path)


def test_one_that_gets_ready_is_closed_again_and_nothing_stays_here(tmp_path: Path) -> None:
    tried(Choice(name="hard", options={"does": "import fractions"}), tmp_path)

    assert (tmp_path / "closed").exists()


def test_one_that_takes_too_long_names_the_key(tmp_path: Path) -> None:
    with pytest.raises(DeadlineError, match=r"not ready within 2 s \(cluster\.start_deadline_s\)"):
        tried(Choice(name="hard", options={"does": "time.sleep(60)"}), tmp_path, deadline_s=2)

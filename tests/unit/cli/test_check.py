"""``llmrl check`` as a user meets it: a line for each verdict, and the exit status that a script reads."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from llmrl.check import check_all
from llmrl.cli import app
from llmrl.objectives.contract import objective
from llmrl.testing import CHECKS

SWAPPED = """
from dataclasses import dataclass

from llmrl.objectives import objective
from llmrl.objectives.grpo import GRPO
from llmrl.objectives.terms import clipped


@objective("swapped")
@dataclass(frozen=True, slots=True, kw_only=True)
class Swapped(GRPO):
    def surrogate(self, ratio, advantage):
        return clipped(ratio, advantage, self.clip_high, self.clip_low)
"""


def check(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["check", *arguments])


def check_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, which alone knows the plugin."""
    command = [sys.executable, "-m", "llmrl.cli", "check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=folder)


def test_an_objective_that_keeps_the_contract_exits_0() -> None:
    ran = check("objective", "grpo", "clip_low=0.1", 'mean_over="tokens"')

    assert ran.exit_code == 0
    assert "passed    micro-batches" in ran.stdout
    assert ran.stdout.splitlines()[-1].startswith("1 objective keeps the contract (")


def test_a_plugin_with_a_fault_exits_1_and_names_it(tmp_path: Path) -> None:
    (tmp_path / "swapped.py").write_text(SWAPPED)

    ran = check_in(tmp_path, "objective", "swapped", "clip_high=0.4", "--plugin", "swapped")

    assert ran.returncode == 1
    assert "failed    clip bounds            clip_low and clip_high are swapped" in ran.stdout
    assert ran.stdout.splitlines()[-1].startswith("1 of 1 break the contract (")


def test_a_check_that_is_broken_on_purpose_can_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "swapped.py").write_text(SWAPPED)

    plugin = ("--plugin", "swapped", "--leave-out", "clip bounds")
    ran = check_in(tmp_path, "objective", "swapped", "clip_high=0.4", *plugin)

    assert ran.returncode == 0
    assert "left out  clip bounds            left out on request." in ran.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "RecipeError: check objective needs the name of an objective, or --all.\n"),
        (["grpo", "--all"], "RecipeError: check objective needs the name of an objective, or --all.\n"),
        (["gspoo"], "RecipeError: objective.name: no objective named 'gspoo'. Did you mean 'gspo'?"),
        (["grpo", "clip_hi=1"], "RecipeError: objective.options: no key named 'clip_hi'. Did you mean"),
        (["grpo", "fast"], "RecipeError: option 'fast': expected key=value, such as clip_high=0.28.\n"),
        (["grpo", "kl=k9"], "RecipeError: objective.options.kl: expected one of 'k1'"),
        (["grpo", "--plugin", "no_such_file"], "PluginError: plugins: 'no_such_file' cannot be imported"),
        (["grpo", "--leave-out", "raks"], "RecipeError: no check named 'raks'. Did you mean 'ranks'?"),
        (["--all", "--leave-out", "raks"], "RecipeError: no check named 'raks'. Did you mean 'ranks'?"),
    ],
)
def test_wrong_input_is_one_sentence_and_status_2(arguments: list[str], message: str) -> None:
    ran = check("objective", *arguments)

    assert ran.exit_code == 2
    assert ran.stderr.startswith(message)


def test_what_is_left_out_is_left_out_of_all() -> None:
    first = next(check_all(leave_out=CHECKS))

    assert re.fullmatch(rf"{objective.names[0]} +{len(CHECKS)} left out \(.* s\)", first.text)


def test_vectors_are_a_line_each_and_a_failure_is_status_1(tmp_path: Path) -> None:
    wrong = '{"config": {"beta": 0.5}, "inputs": {"theta": [1.0], "theta_bar": [0.0]}, "outputs": %s}'
    (tmp_path / "nash_ema_right.json").write_text(wrong % '{"theta_bar_next": [0.5]}')
    right = check("vectors", str(tmp_path))
    (tmp_path / "nash_ema_wrong.json").write_text(wrong % '{"theta_bar_next": [0.6]}')
    ran = check("vectors", str(tmp_path))

    assert right.exit_code == 0
    assert right.stdout.splitlines()[-1] == "1 vectors: 1 ok. Shown are the largest differences."
    assert ran.exit_code == 1
    assert ran.stdout.splitlines()[1].split()[:2] == ["FAIL", "nash_ema_wrong"]
    assert "other 1.0e-01  differs: theta_bar_next  rollouts.opponent.move_average" in ran.stdout


def test_a_folder_that_is_not_there_is_status_2(tmp_path: Path) -> None:
    ran = check("vectors", str(tmp_path / "nowhere"))

    assert ran.exit_code == 2
    assert ran.stderr.startswith("DataError: ")

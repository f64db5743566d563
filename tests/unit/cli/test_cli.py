"""The command line as a user meets it: fast, light, and wrong input ends in one clean message."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from llmrl.cli import _clean_errors
from llmrl.errors import DeadlineError, RewardError

RECIPE = Path(__file__).resolve().parents[3] / "recipes" / "quickstart" / "digits.toml"
HEAVY = ("torch", "ray", "vllm", "deepspeed", "transformers", "datasets", "accelerate")


def llmrl(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llmrl.cli", *arguments]
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1"}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, cwd=cwd, env=environment
    )


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["show", str(RECIPE)], ["plan", str(RECIPE)], ["show", "--reference"], ["doctor"]],
)
def test_looking_loads_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    code = (
        "import sys\nfrom llmrl.cli import main\n"
        "try:\n    main()\nfinally:\n"
        f"    print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
    )

    assert ran.stdout
    assert ran.stderr.splitlines()[-1] == "HEAVY []"


def test_help_lists_the_commands_that_exist() -> None:
    text = llmrl("--help").stdout

    commands = ["train", "show", "plan", "check", "report", "export", "doctor"]
    assert [word for word in commands if f"\n  {word} " in text] == commands


def test_a_wrong_recipe_is_one_message_and_status_2() -> None:
    ran = llmrl("train", str(RECIPE), "optimizer.lr=fast")

    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr == (
        f"RecipeError: {RECIPE}: optimizer.lr (from an override): expected a number, got 'fast'.\n"
    )


def test_debug_shows_the_traceback() -> None:
    ran = llmrl("train", "--debug", str(RECIPE), "optimizer.lr=fast")

    assert ran.returncode == 2
    assert ran.stderr.startswith("Traceback (most recent call last):")
    assert ran.stderr.splitlines()[-1].startswith("RecipeError: ")


def test_a_missing_plugin_is_status_2() -> None:
    ran = llmrl("show", str(RECIPE), 'plugins=["no_such_losses"]')

    assert ran.returncode == 2
    assert ran.stderr.startswith(
        "PluginError: plugins: 'no_such_losses' cannot be imported: ModuleNotFoundError"
    )


def test_resume_and_fresh_contradict_each_other() -> None:
    ran = llmrl("train", "--resume", "--fresh", str(RECIPE))

    assert (ran.returncode, ran.stderr) == (
        2,
        "RecipeError: --resume and --fresh contradict each other; give one of them.\n",
    )


def test_nothing_is_left_behind_by_a_recipe_that_is_refused(tmp_path: Path) -> None:
    assert llmrl("train", str(RECIPE), "rollouts.per_prompt=1", cwd=tmp_path).returncode == 2
    assert list(tmp_path.iterdir()) == []


def test_show_prints_json_for_programs() -> None:
    told = json.loads(llmrl("show", "--json", str(RECIPE), "run.seed=7").stdout)

    assert told["recipe"]["run"]["seed"] == 7
    assert told["origins"]["run.seed"] == "override"


def test_show_prints_what_differs_from_another_recipe(tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text(RECIPE.read_text())

    assert llmrl("show", str(RECIPE), "--diff", str(other)).stdout == "No value differs.\n"
    assert "run.seed" in llmrl("show", str(RECIPE), "run.seed=7", "--diff", str(other)).stdout


@pytest.mark.parametrize("other", [["--json"], ["--reference"]])
def test_show_ignores_no_difference_that_was_asked_for(other: list[str]) -> None:
    ran = llmrl("show", str(RECIPE), *other, "--diff", str(RECIPE))

    assert (ran.returncode, ran.stderr) == (
        2,
        "RecipeError: --reference, --json and --diff contradict each other; give one of them.\n",
    )


@pytest.mark.parametrize("file", ["out/c.json", "."])
def test_nothing_is_measured_for_a_file_that_cannot_be_written(file: str, tmp_path: Path) -> None:
    ran = llmrl("plan", str(RECIPE), "--measure", "--calibration", file, cwd=tmp_path)

    assert ran.returncode == 2
    assert ran.stderr == (
        f"DataError: --calibration: '{file}' cannot be written; "
        "name a file in a folder that is here and may be written to.\n"
    )


def test_an_export_of_no_run_is_status_2_and_leaves_nothing(tmp_path: Path) -> None:
    ran = llmrl("export", "runs/none", "out/model", cwd=tmp_path)

    assert (ran.returncode, ran.stderr) == (
        2,
        f"DataError: {tmp_path}/runs/none: no run is here; "
        "name a run's folder, or a stage or checkpoint inside it.\n",
    )
    assert list(tmp_path.iterdir()) == []


def test_show_without_a_recipe_says_what_it_needs() -> None:
    ran = llmrl("show")

    assert (ran.returncode, ran.stderr) == (2, "RecipeError: show needs a recipe file, or --reference.\n")


def test_report_of_a_folder_without_a_run_is_status_2(tmp_path: Path) -> None:
    ran = llmrl("report", str(tmp_path))

    assert ran.returncode == 2
    assert ran.stderr.startswith(f"DataError: {tmp_path}: ")


def test_the_version_is_printed() -> None:
    assert llmrl("--version").stdout.startswith("llmrl 0.")


def test_a_disk_that_is_full_ends_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended, _clean_errors(debug=False):
        raise OSError(errno.ENOSPC, "No space left on device", "runs/a/ledger.jsonl")

    assert ended.value.exit_code == 70
    assert "No space left on device: 'runs/a/ledger.jsonl'; make room; a run goes on with --resume." in (
        capsys.readouterr().err
    )


def test_what_did_not_answer_in_time_is_named_in_one_sentence_like_all_errors_of_ours(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(typer.Exit) as ended, _clean_errors(debug=False):
        raise DeadlineError("engine-0.generate did not answer within 1800 s.")

    assert ended.value.exit_code == 70
    assert capsys.readouterr().err == "DeadlineError: engine-0.generate did not answer within 1800 s.\n"


def test_any_other_error_of_the_system_keeps_its_traceback() -> None:
    with pytest.raises(FileNotFoundError), _clean_errors(debug=False):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "x")


def test_what_others_wrote_does_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit), _clean_errors(debug=False):
        raise RewardError("cannot parse \x1b]0;owned\x07\x9b2J\r,\n\tor \u4e2d\u202e")

    assert capsys.readouterr().err == (
        "RewardError: cannot parse \\x1b]0;owned\\x07\\x9b2J\\r,\n\tor \u4e2d\\u202e\n"
    )

"""The example plugin is short, keeps the contract, passes its own tests, and is what the page shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "recipes" / "plugins"
PAGE = ROOT / "docs" / "your-own-loss.md"


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Python in the example's folder, as a stranger has it."""
    quiet = {"PYTHONDONTWRITEBYTECODE": "1", "PYTEST_ADDOPTS": "-p no:cacheprovider"}
    return subprocess.run(
        [sys.executable, *command],
        cwd=EXAMPLE,
        env=os.environ | quiet,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_the_loss_has_at_most_30_lines() -> None:
    assert len((EXAMPLE / "topr.py").read_text().splitlines()) <= 30


def test_the_kit_finds_no_fault_in_it() -> None:
    ran = run("-m", "llmrl.cli", "check", "objective", "topr", "most=0.5", "--plugin", "topr")

    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.splitlines()[-1].startswith("1 objective keeps the contract (")


def test_its_own_tests_pass() -> None:
    (command,) = re.findall(r"`python (.* test_topr\.py)`", PAGE.read_text())

    ran = run(*command.split())

    assert ran.returncode == 0, ran.stdout
    assert "2 passed" in ran.stdout


@pytest.mark.parametrize("name", ["topr.py", "test_topr.py", "digits-topr.toml"])
def test_the_page_shows_its_files(name: str) -> None:
    assert (EXAMPLE / name).read_text() in PAGE.read_text()

"""Two runs in one folder would ruin each other, so the second one does not begin."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llmrl.errors import RecipeError
from llmrl.run.lock import alone_in

OTHER = """
import sys
from pathlib import Path
from llmrl.run.lock import alone_in
with alone_in(Path(sys.argv[1])):
    pass
"""


def other_run(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", OTHER, str(folder)], capture_output=True, text=True, timeout=60, check=False
    )


def test_one_run_at_a_time_works_in_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "a"

    with alone_in(folder):
        refused = other_run(folder)
        assert other_run(tmp_path / "runs" / "b").returncode == 0

    assert f"RecipeError: run.name: another llmrl is at work in {folder}" in refused.stderr
    assert other_run(folder).returncode == 0
    assert list((tmp_path / "runs").iterdir()) == []  # nothing is left of it


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with (
        pytest.raises(RecipeError, match=rf"^run\.folder: nothing can be written into {tmp_path}/file "),
        alone_in(tmp_path / "file" / "a"),
    ):
        pass

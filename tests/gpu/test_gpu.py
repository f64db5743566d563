"""The proofs of `prove.py`: on a GPU in full, elsewhere their fallbacks at tiny sizes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

ABSENT = ("vllm", "ray", "deepspeed", "peft", "datasets", "accelerate", "math_verify")
"""What the machine with the GPU may lack; None in sys.modules makes an import fail."""


def prove(device: str, timeout_s: int) -> subprocess.CompletedProcess[str]:
    script = (
        "import runpy, sys; "
        f"sys.modules.update(dict.fromkeys({ABSENT!r})); sys.argv = ['prove', '--device', {device!r}]; "
        "runpy.run_module('tests.gpu.prove', run_name='__main__')"
    )
    command = [sys.executable, "-c", script]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False)


def test_the_proofs_hold_on_a_cpu_without_any_of_the_big_libraries():
    done = prove("cpu", 200)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAILED" not in done.stdout
    assert done.stdout.count("| ok |") == 13, done.stdout


def test_the_head_is_not_measured_without_a_gpu():
    command = [sys.executable, "-m", "tests.gpu.head"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False
    )

    assert (done.returncode, done.stdout) == (0, "skipped: R3 measures a GPU, and torch finds none here.\n")


@pytest.mark.gpu
@pytest.mark.timeout(900)
def test_the_proofs_hold_on_this_gpu():
    done = prove("cuda", 880)

    sys.stdout.write(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "(kernel), bf16" in done.stdout


@pytest.mark.gpu
@pytest.mark.timeout(1000)
def test_a_whole_run_takes_turns_on_this_gpu():
    command = [sys.executable, "-m", "tests.gpu.turns"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=960, check=False)

    sys.stdout.write(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr

"""The proofs of `prove.py`: on a GPU in full, elsewhere their fallbacks at tiny sizes."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
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


def script(name: str, *options: str, gpu: bool, timeout_s: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"tests.gpu.{name}", *options]
    environment = os.environ | ({} if gpu else {"CUDA_VISIBLE_DEVICES": ""})
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
    )


MEASURES = {"ceilings": "R1", "learner": "R2", "head": "R3", "decode": "R4"}


@pytest.fixture(scope="module")
def without_gpu() -> dict[str, subprocess.CompletedProcess[str]]:
    """What came of each script that measures a GPU; all at once, as they only import."""
    with ThreadPoolExecutor() as threads:
        done = threads.map(lambda name: script(name, gpu=False, timeout_s=250), MEASURES)
        return dict(zip(MEASURES, done, strict=True))


@pytest.mark.parametrize(("name", "run"), MEASURES.items())
def test_what_measures_a_gpu_says_so_without_one(
    without_gpu: dict[str, subprocess.CompletedProcess[str]], name: str, run: str
):
    done = without_gpu[name]

    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]  # DeepSpeed may say before that it found none either
    assert last == f"skipped: {run} measures a GPU, and torch finds none here."


@pytest.mark.parametrize(("name", "rows"), [("ceilings", 9), ("learner", 8), ("decode", 5)])
def test_what_measures_a_gpu_runs_on_a_cpu_in_tiny_sizes(name: str, rows: int):
    done = script(name, "--device", "cpu", gpu=False, timeout_s=250)

    assert done.returncode == 0, done.stdout + done.stderr
    assert sum(line.startswith("| ") for line in done.stdout.splitlines()) == 1 + rows


@pytest.mark.gpu
@pytest.mark.timeout(900)
def test_the_proofs_hold_on_this_gpu():
    done = prove("cuda", 880)

    sys.stdout.write(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "(kernel), bf16" in done.stdout


@pytest.mark.gpu
@pytest.mark.timeout(1000)
@pytest.mark.parametrize("name", ["turns", "ceilings", "learner", "head", "decode"])
def test_the_runs_reach_their_targets_on_this_gpu(name: str):
    done = script(name, gpu=True, timeout_s=960)

    sys.stdout.write(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr

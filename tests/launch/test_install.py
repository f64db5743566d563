"""The installation: its pins agree with pyproject.toml, and each way to fail says what to do."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
UNWANTED = ("torchvision", "torchaudio", "torchcodec")


def pins(extra: str) -> dict[str, Version]:
    lines = (ROOT / "constraints" / f"{extra}.txt").read_text().splitlines()
    wanted = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {pin.name: Version(next(iter(pin.specifier)).version) for pin in wanted}


@pytest.mark.parametrize("extra", ["cpu", "cuda"])
def test_every_requirement_is_pinned_within_its_tested_range(extra: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    pinned = pins(extra)

    for text in [*project["dependencies"], *extras[extra], *extras["dev"]]:
        wanted = Requirement(text)
        assert pinned[wanted.name] in wanted.specifier, text


def test_what_breaks_transformers_without_a_gpu_is_neither_pinned_nor_installed() -> None:
    pinned = pins("cpu")

    assert [name for name in UNWANTED if name in pinned] == []
    if (Path(sys.prefix) / "llmrl-accelerator").exists() and "cpu" in (
        Path(sys.prefix) / "llmrl-accelerator"
    ).read_text():
        assert [name for name in UNWANTED if find_spec(name)] == []


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files that install.sh reads, in a folder of their own, so that no test can touch .venv."""
    (tmp_path / "launch").mkdir()
    shutil.copy(ROOT / "launch" / "install.sh", tmp_path / "launch")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "constraints", tmp_path / "constraints")
    return tmp_path


def install(checkout: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    env = {
        "PATH": os.environ["PATH"],
        "LLMRL_PYTHON": sys.executable,
        "LLMRL_ACCELERATOR": "cpu",
    } | environment
    script = str(checkout / "launch" / "install.sh")
    done = subprocess.run(
        [script, *arguments], env=env, capture_output=True, text=True, timeout=240, check=False
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        ((), {"LLMRL_ACCELERATOR": "tpu"}, "LLMRL_ACCELERATOR must be cpu or cuda, got 'tpu'."),
        (("--fast",), {}, "unknown option '--fast'; the only one is --without-dev."),
        ((), {"LLMRL_PYTHON": "python9.9"}, "no Python 3.11, 3.12 or 3.13 on PATH; install one"),
    ],
)
def test_a_wrong_call_is_refused_in_one_sentence(
    arguments: tuple[str, ...], environment: dict[str, str], said: str, checkout: Path
) -> None:
    status, err = install(checkout, *arguments, **environment)

    assert status == 1
    assert err.startswith(f"llmrl: {said}")
    assert err.count("\n") == 1


def test_a_driver_that_is_too_old_for_cuda_is_named_before_anything_is_fetched(checkout: Path) -> None:
    tool = checkout / "tools" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho 570.124.06\n")
    tool.chmod(0o755)

    status, err = install(checkout, LLMRL_ACCELERATOR="cuda", PATH=f"{tool.parent}:{os.environ['PATH']}")

    assert (status, err.count("\n")) == (1, 1)
    assert "CUDA 13 needs NVIDIA driver 580 or newer, and this machine has 570.124.06" in err


def test_an_interpreter_without_ensurepip_is_named_with_the_package_that_mends_it(checkout: Path) -> None:
    (checkout / "ensurepip.py").write_text("raise ImportError('planted')")
    bare = checkout / "bin"
    bare.mkdir()
    for name in ("bash", "dirname", "cat", "cksum", "flock", "rm", "head"):
        (bare / name).symlink_to(shutil.which(name) or name)

    status, err = install(checkout, PYTHONPATH=str(checkout), PATH=str(bare))

    package = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
    assert status == 1
    assert "cannot make virtual environments (no ensurepip)" in err
    assert err.endswith(f"apt install {package}.\n")


def test_torch_from_nowhere_is_named_with_both_places_that_were_tried(checkout: Path) -> None:
    offline = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}

    status, err = install(checkout, **offline)

    assert status == 1
    assert re.search(
        r"torch==\S+\+cpu for Python \S+ is neither in pip's configured sources nor to be had from", err
    )
    assert "https://download.pytorch.org/whl/cpu; make one of them reachable" in err
    assert not (checkout / ".venv" / "llmrl-installed").exists()


@pytest.fixture
def machine(checkout: Path) -> str:
    """PATH of one without a GPU and without libnuma, whose .venv has a pip that installs nothing."""
    stubs = {
        checkout / ".venv" / "bin" / "python": f"""case "$*" in
            *libnuma*) exit 1 ;;
            "-m pip "*) exit 0 ;;
        esac
        exec {sys.executable} "$@"
        """,
        checkout / "tools" / "nvidia-smi": "exit 9",
    }
    for path, script in stubs.items():
        path.parent.mkdir(parents=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    return f"{checkout / 'tools'}:{os.environ['PATH']}"


@pytest.mark.parametrize(("held", "kept"), [("cuda", "cuda"), ("cpu", "cpu"), (None, "cpu")])
def test_where_there_is_no_gpu_an_installation_stays_what_it_is(
    held: str | None, kept: str, checkout: Path, machine: str
) -> None:
    if held:
        (checkout / ".venv" / "llmrl-accelerator").write_text(f"{held}\n")
    (checkout / ".venv" / "in-use").touch()

    status, err = install(checkout, LLMRL_ACCELERATOR="", PATH=machine)

    assert (status, f"installing for {kept} into .venv" in err) == (0, True)
    assert (checkout / ".venv" / "in-use").exists()
    assert err.endswith("apt install libnuma1.\n") == (kept == "cpu")


def test_what_is_installed_already_is_left_alone_until_an_input_changes(checkout: Path) -> None:
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "python").symlink_to(sys.executable)
    inputs = [checkout / "pyproject.toml", *sorted((checkout / "constraints").glob("*.txt"))]
    text = b"".join(path.read_bytes() for path in [*inputs, checkout / "launch" / "install.sh"])
    checksum = subprocess.run(
        ["cksum"], input=text, capture_output=True, timeout=60, check=True
    ).stdout.decode()
    (checkout / ".venv" / "llmrl-installed").write_text(f"cpu,dev {checkout} {checksum}")

    assert install(checkout) == (0, "")

    (checkout / "pyproject.toml").write_text("[project]\n")
    status, err = install(checkout, PIP_NO_INDEX="1", PIP_CONFIG_FILE=os.devnull)
    assert (status, "installing for cpu" in err) == (1, True)
    assert not (checkout / ".venv" / "llmrl-installed").exists()

"""The launchers without a cluster: they parse, they agree, and they hold no training settings."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmrl.recipe.schema import Stage

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "launch"
SCRIPTS = [*sorted(LAUNCH.glob("*.sh")), LAUNCH / "slurm.sbatch", ROOT / ".ci" / "run"]
PLACES = {"cluster", "run"}
"""Tables of a recipe that a launcher may set: where, not what."""


@pytest.fixture(scope="module")
def ray_job() -> dict[str, Any]:
    return yaml.safe_load((LAUNCH / "kuberay.yaml").read_text())


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_parses(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=60)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_say(script: Path) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")

    said = subprocess.run(
        ["shellcheck", "--external-sources", str(script)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert said.stdout == ""


def test_no_launcher_holds_a_training_setting() -> None:
    tables = "|".join(set(Stage.model_fields) - PLACES)
    setting = re.compile(rf"\b(?:{tables})\.[a-z_]+ *=")

    found = {
        path.name: setting.findall(path.read_text("utf-8"))
        for path in LAUNCH.iterdir()
        if path.is_file() and path.suffix != ".py"
    }

    assert {name: settings for name, settings in found.items() if settings} == {}


def test_the_ray_job_trains_on_the_cluster_that_it_makes(ray_job: dict[str, Any]) -> None:
    spec = ray_job["spec"]

    assert ray_job["kind"] == "RayJob"
    assert spec["entrypoint"].startswith("llmrl train ")
    assert {"--resume", "cluster.address=auto"} <= set(spec["entrypoint"].split())
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}


def test_every_pod_of_the_ray_job_has_the_same_image_and_the_pinned_ray(ray_job: dict[str, Any]) -> None:
    cluster = ray_job["spec"]["rayClusterSpec"]
    pods = [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    pinned = re.search(r"^ray==(.+)$", (ROOT / "constraints" / "cuda.txt").read_text(), re.MULTILINE)

    assert len({pod["containers"][0]["image"] for pod in pods}) == 1
    assert all(
        {"recipe", "runs", "shared-memory"} == {volume["name"] for volume in pod["volumes"]} for pod in pods
    )
    assert pinned is not None
    assert cluster["rayVersion"] == pinned[1]


def test_the_image_has_the_library_that_vllm_on_cpu_loads() -> None:
    (packages,) = re.findall(r"apt-get install (.+)", (ROOT / "Dockerfile").read_text())

    assert "libnuma1" in packages.split()


@pytest.mark.parametrize(("mine", "patience_s"), [({}, "1800"), ({"RAY_JOB_STOP_WAIT_TIME_S": "60"}, "60")])
def test_a_job_ships_the_allowed_environment_and_no_secret(
    mine: dict[str, str], patience_s: str, tmp_path: Path
) -> None:
    # .venv comes first on PATH, and the job needs no other interpreter.
    shutil.copytree(LAUNCH, tmp_path / "launch")
    found = tmp_path / ".venv" / "bin"
    found.mkdir(parents=True)
    (found / "ray").write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n')
    (found / "ray").chmod(0o755)
    mine |= {"NCCL_DEBUG": "INFO", "HF_TOKEN": "secret", "RAY_AUTH_TOKEN": "secret", "UNRELATED": "1"}

    said = subprocess.run(
        [str(tmp_path / "launch" / "ray-job.sh"), "http://head:8265", "recipes/mine.toml", "run.name=x"],
        env={"PATH": os.environ["PATH"]} | mine,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout.splitlines()

    shipped = json.loads(said[said.index("--runtime-env-json") + 1])["env_vars"]
    assert shipped == {"NCCL_DEBUG": "INFO", "RAY_JOB_STOP_WAIT_TIME_S": patience_s}
    command = said[said.index("--") + 1 :]
    assert command == ["llmrl", "train", "recipes/mine.toml", "run.name=x", "cluster.address=auto"]


def test_a_node_in_a_fresh_clone_finds_the_interpreter_of_its_venv(tmp_path: Path) -> None:
    shutil.copytree(LAUNCH, tmp_path / "launch")
    bare, found = tmp_path / "bin", tmp_path / ".venv" / "bin"
    for folder, name in ((bare, "bash"), (bare, "dirname"), (found, "python")):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(sys.executable if name == "python" else shutil.which(name) or name)

    said = subprocess.run(
        [str(bare / "bash"), str(tmp_path / "launch" / "node.sh"), "address"],
        env={"PATH": str(bare)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert "command not found" not in said.stderr

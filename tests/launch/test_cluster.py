"""The launchers start a cluster, run a command on it, pass its end on, and leave nothing behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
Start = Callable[..., "subprocess.Popen[str]"]

# What a driver sees: the nodes, and the environment of a process on each of them.
LOOK = """
import json, os, ray
ray.init(address="auto", logging_level=40, log_to_driver=False)

@ray.remote(num_cpus=1, scheduling_strategy="SPREAD")
def look():
    import time
    time.sleep(1)
    names = ["NCCL_DEBUG", "UNRELATED", "RAY_AUTH_MODE"]
    return ray.get_runtime_context().get_node_id(), {name: os.environ.get(name) for name in names}

seen = ray.get([look.remote() for _ in range(2)], timeout=60)
cpus = [node["Resources"]["CPU"] for node in ray.nodes()]
print(json.dumps({"cpus": cpus, "seen": dict(seen), "folder": os.environ["RAY_TMPDIR"]}))
"""

# Stands in for Slurm's: the same command as the tasks of two nodes, with no more environment than it names.
SRUN = """#!/usr/bin/env python3
import os, signal, subprocess, sys
options = [a for a in sys.argv[1:] if a.startswith("--")]
names = next(o for o in options if o.startswith("--export=")).split("=")[1].split(",")
env = {n: os.environ[n] for n in [*names, "LLMRL_TEST_MARK"]}
with open(sys.argv[0] + ".log", "a") as log:
    print(*options[:1], *sys.argv[1 + len(options) :], file=log)
tasks = [subprocess.Popen(sys.argv[1 + len(options):], env=env | {"SLURM_NODEID": str(i)}) for i in range(2)]
signal.signal(signal.SIGTERM, lambda *_: [task.terminate() for task in tasks])
sys.exit(max(task.wait() for task in tasks))
"""


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def test_local_joins_two_nodes_ships_the_environment_and_clears_up(start: Start) -> None:
    process = start("local.sh", "--nodes", "2", "--cpus", "1", sys.executable, "-c", LOOK, NCCL_DEBUG="INFO")

    status, out, err = finish(process)

    assert status == 0, err
    said = json.loads(out)
    assert said["cpus"] == [1.0, 1.0]
    assert len(said["seen"]) == 2
    assert all(
        env["NCCL_DEBUG"] == "INFO" and env["RAY_AUTH_MODE"] == "token" for env in said["seen"].values()
    )
    assert not Path(said["folder"]).exists()


def test_local_passes_the_end_of_the_command_on_and_keeps_the_logs_of_a_failure(start: Start) -> None:
    status, _, err = finish(start("local.sh", sys.executable, "-c", "raise SystemExit(70)"))

    folder = Path(err.strip().removesuffix(".").split()[-1])
    assert status == 70
    assert "the command ended with status 70; Ray's own logs are in" in err
    assert (folder / "nodes.log").is_file()
    subprocess.run(["rm", "-r", str(folder)], check=True, timeout=60)


def test_a_signal_reaches_the_command_which_saves_and_ends_well(start: Start, tmp_path: Path) -> None:
    saving = f"""
import signal, sys, time, pathlib
def save(*_):
    time.sleep(1)
    pathlib.Path({str(tmp_path / "saved")!r}).touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
pathlib.Path({str(tmp_path / "running")!r}).touch()
time.sleep(120)
"""
    process = start("local.sh", sys.executable, "-c", saving)
    until = time.monotonic() + 90
    while not (tmp_path / "running").exists() and time.monotonic() < until:
        time.sleep(0.2)

    process.send_signal(signal.SIGTERM)
    status, _, err = finish(process)

    assert (status, (tmp_path / "saved").exists()) == (0, True), err


def test_ctrl_c_ends_a_command_that_has_no_handler_for_it(start: Start, tmp_path: Path) -> None:
    # A test runner in the background may ignore it, and would leave that to the launcher.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = start("local.sh", "bash", "-c", f"touch {tmp_path / 'running'}; exec sleep 60")
    signal.signal(signal.SIGINT, before)
    until = time.monotonic() + 90
    while not (tmp_path / "running").exists() and time.monotonic() < until:
        time.sleep(0.2)

    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    status, _, err = finish(process)

    assert (status, time.monotonic() - began < 45) == (130, True), err


def test_slurm_makes_node_0_the_head_and_ships_only_what_is_allowed(start: Start, tmp_path: Path) -> None:
    (tmp_path / "srun").write_text(SRUN)
    (tmp_path / "srun").chmod(0o755)
    slurm = {
        "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_JOB_NUM_NODES": "2",
        "UNRELATED": "1",
        "NCCL_DEBUG": "INFO",
    }
    path = f"{tmp_path}:{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"

    process = start("slurm.sbatch", sys.executable, "-c", LOOK, **slurm, PATH=path, LLMRL_NODE_IP="127.0.0.2")
    status, out, err = finish(process)

    assert status == 0, err
    last = (tmp_path / "srun.log").read_text().splitlines()[-1]
    assert last == f"--nodes=2 rm -rf {json.loads(out)['folder']}"  # on every node, not on the first alone
    seen = json.loads(out)["seen"]
    assert len(seen) == 2
    assert all(
        env == {"NCCL_DEBUG": "INFO", "UNRELATED": None, "RAY_AUTH_MODE": "token"} for env in seen.values()
    )

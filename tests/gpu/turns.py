"""A whole run on one GPU: Ray, vLLM and DeepSpeed take turns on it, and this watches its memory meanwhile.

    python -m tests.gpu.turns [--device cuda|cpu] [--steps 6]        (from the repository's root)

Prints what was used while engines generate and while the policy trains, and ends with 1 if a turn leaves
memory behind. A random model of the shape of Qwen2.5-0.5B; on a CPU a tiny one and the memory of the whole
machine, which only proves that the script runs. Needs all of llmrl's dependencies, and nvidia-smi.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.gpu.finding import Row

DEADLINE_S = 900
PAUSE_S = 0.05
RECIPE = """
[run]
name = "turns"
folder = "{folder}"
[model]
characters = "0123456789+=,#"
context_tokens = 256
dtype = "bfloat16"
[model.config]
model_type = "qwen3"
hidden_size = {hidden}
intermediate_size = {inner}
num_hidden_layers = {layers}
num_attention_heads = 14
num_key_value_heads = 2
head_dim = 64
vocab_size = {vocabulary}
tie_word_embeddings = true
[prompts]
sources = [{{ task = "digit_sum", rows = 4096 }}]
per_step = 16
max_tokens = 16
[rollouts]
per_prompt = 8
max_tokens = {tokens}
[rewards.ended]
kind = "finished"
[objective]
name = "grpo"
options = {{ kl_weight = 0.01 }}
[optimizer]
steps = {steps}
[cluster]
placement = "shared"
device = "{device}"
[report]
trackers = []
timeline_steps = {steps}
"""
FULL = {"hidden": 896, "inner": 4864, "layers": 24, "vocabulary": 151936, "tokens": 192}
TINY = {"hidden": 112, "inner": 224, "layers": 2, "vocabulary": 64, "tokens": 32}

Samples = list[tuple[float, float]]
"""Time in us, as the timeline has it, and MiB in use."""


def gpu_mib() -> float:
    """In use on the first GPU that the run sees, by all processes."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    command = ["nvidia-smi", f"--id={first}", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def host_mib() -> float:
    """In use on this machine."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return (kib["MemTotal"] - kib["MemAvailable"]) / 1024


def watched(command: list[str], used_mib: Callable[[], float]) -> tuple[int, Samples]:
    """The exit status of a command, and what was in use while it ran."""
    samples: Samples = []
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(PAUSE_S):
            samples.append((time.monotonic_ns() / 1e3, used_mib()))

    watcher = threading.Thread(target=sample, daemon=True)
    watcher.start()
    try:
        return subprocess.run(command, timeout=DEADLINE_S, stdout=sys.stderr, check=False).returncode, samples
    finally:
        ended.set()
        watcher.join()


def during(timeline: Path, samples: Samples, word: str) -> list[float]:
    """Median of what was in use while spans that begin with ``word`` lasted, for each step of the run."""
    # A list that nobody closes: readers of timelines do not ask for its end.
    events: list[dict[str, Any]] = json.loads(timeline.read_text().rstrip().rstrip(",") + "]")
    spans = [(e["ts"], e["ts"] + e["dur"]) for e in events if e["ph"] == "X" and e["name"].startswith(word)]
    inside = [[used for at, used in samples if began <= at <= ended] for began, ended in spans]
    return [statistics.median(one) for one in inside if one]


def rows(device: str, steps: int) -> list[Row]:
    """What the turns of one run left behind."""
    with TemporaryDirectory(prefix="llmrl-turns-") as scratch:
        path, sizes = Path(scratch) / "turns.toml", FULL if device == "cuda" else TINY
        path.write_text(RECIPE.format(folder=scratch, device=device, steps=steps, **sizes))
        command = [sys.executable, "-m", "llmrl.cli", "train", str(path)]
        status, samples = watched(command, gpu_mib if device == "cuda" else host_mib)
        if status:
            return [Row(what="exit status of the run", got=status, limit=0)]
        timeline = Path(scratch) / "turns" / "0-train" / "timeline.json"
        generating, training = during(timeline, samples, "train "), during(timeline, samples, "step ")
    only_gpu = device == "cuda"
    return [
        Row(what="exit status of the run", got=status, limit=0),
        Row(what="in use before anything started", got=samples[0][1], unit="MiB"),
        Row(what="in use while engines generate, at most", got=max(generating), unit="MiB"),
        Row(what="in use while the policy trains, at most", got=max(training), unit="MiB"),
        Row(
            what="training over generating: the KV cache is away",
            got=max(training) / max(generating),
            limit=0.6 if only_gpu else None,
        ),
        Row(
            what="last over second turn of the engines: nothing stays",
            got=generating[-1] / generating[len(generating) // steps],
            limit=1.03 if only_gpu else None,
        ),
        Row(
            what="last over second turn of the policy: nothing stays",
            got=training[-1] / training[min(1, len(training) - 1)],
            limit=1.03 if only_gpu else None,
        ),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--steps", type=int, default=6)
    asked = parser.parse_args()
    if asked.device == "cuda" and shutil.which("nvidia-smi") is None:
        sys.stdout.write("skipped: no nvidia-smi, so no GPU here\n")
        return 0
    sys.stdout.write("| what | found | limit | |\n|---|---|---|---|\n")
    found = rows(asked.device, asked.steps)
    sys.stdout.writelines(f"{row}\n" for row in found)
    return int(not all(row.holds for row in found))


if __name__ == "__main__":
    sys.exit(main())

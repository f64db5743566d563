"""One rank of the gathering test: sends the weights of a sharded model and watches its own memory meanwhile.

python gather_rank.py RANK RANKS FOLDER        (FOLDER holds stage.json and the model)
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from parting import part

from llmrl.policy.gather import gathered
from llmrl.policy.tensors import pieces
from llmrl.policy.worker import PolicyWorker
from llmrl.recipe.schema import Stage
from llmrl.weights.bundle import Mapped

DEADLINE_S = 120
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_kib() -> int:
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1])


def met(worker: PolicyWorker, rank: int, folder: Path) -> PolicyWorker:
    meeting = folder / "meeting"
    if rank == 0:
        meeting.with_suffix(".tmp").write_text(worker.open_meeting("127.0.0.1"))
        meeting.with_suffix(".tmp").rename(meeting)
    deadline = time.monotonic() + DEADLINE_S
    while not meeting.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    worker.start(meeting.read_text())
    return worker


def complete_at_once(worker: PolicyWorker, bucket_mib: int) -> list[int]:
    """Bytes of all sharded parameters that are whole, while each bucket is."""
    zero = worker._zero
    parameters: list[Any] = list(zero.module.parameters())  # DeepSpeed says at each whether it stays whole
    return [
        sum(p.numel() * p.element_size() for p in parameters if not p.ds_persist)
        for _ in gathered(zero, pieces(zero.module.model), bucket_mib=bucket_mib)
    ]


def main(rank: int, ranks: int, folder: Path) -> None:
    stage = Stage.model_validate_json((folder / "stage.json").read_text())
    worker = met(PolicyWorker(stage, "cpu", rank), rank, folder)
    CLEAR.write_text("5")
    before = peak_kib()
    complete = complete_at_once(worker, stage.weights.bucket_mib)
    found = {"grown_mib": (peak_kib() - before) / 1024, "complete": complete}
    (folder / f"found-{rank}.json").write_text(json.dumps(found))
    if rank == 0:
        worker.open_outbox(False)
    bundle = worker.weights(0)
    if bundle is not None:
        assert isinstance(bundle.way, Mapped)
        arrays = bundle.way.arrays(bundle.specs)
        tensors = {s.name: data.view(np.float32).reshape(s.shape) for s, data in arrays}
        np.savez(folder / "sent.npz", allow_pickle=False, **tensors)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
    part()

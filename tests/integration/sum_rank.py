"""The only rank of the test of sums: how large a gradient is, once and as the sum of many micro-batches.

python sum_rank.py FOLDER TIMES        (FOLDER holds cells.json and the model; found.json is written there)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from parting import part

from llmrl.batches.collate import Inputs
from llmrl.policy.worker import PolicyWorker
from llmrl.policy.zero import Meeting, join_group
from llmrl.recipe.schema import Stage

INPUTS = Inputs(
    tokens=torch.tensor([[3, 4, 5, 6]]),
    positions=torch.arange(4)[None],
    cu_seqlens=torch.tensor([0, 4], dtype=torch.int32),
    max_length=4,
    predict_at=torch.arange(3),
    targets=torch.tensor([4, 5, 6]),
)


def main(folder: Path, times: int) -> None:
    meeting = Meeting("127.0.0.1")
    join_group(meeting.address, rank=0, ranks=1, device="cpu", meeting=meeting, timeout_s=120)
    found: dict[str, list[float]] = {}
    for name, stage in json.loads((folder / "cells.json").read_text()).items():
        worker = PolicyWorker(Stage.model_validate(stage), "cpu", 0)
        worker.load()
        found[name] = [norm(worker, 1), norm(worker, times)]
    (folder / "found.json").write_text(json.dumps(found))


def norm(worker: PolicyWorker, times: int) -> float:
    """Of the gradient of so many equal micro-batches; the weights stay as they are."""
    for _ in range(times):
        logp, _ = worker._zero(INPUTS, temperature=1.0)
        worker._zero.backward(logp.sum() / 1024)
    return worker._zero.step(lr=0.0, skip=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
    part()

"""The only rank of the skipping test: a policy that meets broken steps, beside one that never does.

python skip_rank.py FOLDER        (FOLDER holds cells.json and the model; found.json is written there)
"""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import torch
from parting import part

from llmrl.experience.columns import Columns
from llmrl.policy.worker import PolicyWorker
from llmrl.policy.zero import Meeting, join_group
from llmrl.recipe.schema import Stage


def main(folder: Path) -> None:
    steps = pickle.loads((folder / "steps.pickle").read_bytes())
    healthy = Columns.of(steps.pop("healthy"))
    cells = json.loads((folder / "cells.json").read_text())
    meeting = Meeting("127.0.0.1")
    join_group(meeting.address, rank=0, ranks=1, device="cpu", meeting=meeting, timeout_s=120)
    found: dict[str, object] = {}
    for name, stage in cells.items():
        spared, hit = (PolicyWorker(Stage.model_validate(stage), "cpu", 0) for _ in range(2))
        spared.load()
        hit.load()
        broken = {kind: hit.update(Columns.of(rows), 0) for kind, rows in steps.items()}
        unmoved = all(map(torch.equal, trained(hit), trained(spared)))
        spared.update(healthy, 0)
        after = hit.update(healthy, 0)
        found[name] = {
            "broken": broken,
            "unmoved": unmoved,
            "healthy": after,
            "equal": all(map(torch.equal, trained(hit), trained(spared))),
            "adam": sorted({float(state["step"]) for state in states(hit)}),
        }
    (folder / "found.json").write_text(json.dumps(found))


def trained(worker: PolicyWorker) -> list[torch.Tensor]:
    with worker._zero.whole(worker._zero.module.parameters()):
        return [p.detach().clone() for p in worker._zero.module.parameters() if p.requires_grad]


def states(worker: PolicyWorker) -> list[dict[str, torch.Tensor]]:
    return list(worker._zero._optimizer.state.values())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    part()

"""One rank of the gradient test: runs every cell in one process group and writes the weights after one step.

python gradient_rank.py RANK RANKS FOLDER        (FOLDER holds cells.json and the model)
"""

from __future__ import annotations

import json
import pickle
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from parting import part

from llmrl.batches.step import Step
from llmrl.experience.columns import Columns
from llmrl.policy.worker import PolicyWorker
from llmrl.policy.zero import join_group
from llmrl.recipe.schema import Stage
from llmrl.weights.bundle import Mapped

DEADLINE_S = 120


def main(rank: int, ranks: int, folder: Path) -> None:
    cells = json.loads((folder / "cells.json").read_text())
    experiences = pickle.loads((folder / "experiences.pickle").read_bytes())
    first = PolicyWorker(Stage.model_validate(cells[0]["stage"]), "cpu", rank)
    meeting_file = folder / f"meeting-{ranks}"
    if rank == 0:
        meeting_file.with_suffix(".tmp").write_text(first.open_meeting("127.0.0.1"))
        meeting_file.with_suffix(".tmp").rename(meeting_file)
    deadline = time.monotonic() + DEADLINE_S
    while not meeting_file.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    join_group(
        meeting_file.read_text(),
        rank=rank,
        ranks=ranks,
        device="cpu",
        meeting=first._meeting,
        timeout_s=DEADLINE_S,
    )
    for cell in cells:
        worker = PolicyWorker(Stage.model_validate(cell["stage"]), "cpu", rank)
        worker.load()
        worker._learner = replace(worker._learner, scope=cell.get("scope", worker._learner.scope))
        for some in cell.get("ahead", []):
            worker.score_ahead(Columns.of([experiences[number] for number in some]))
        metrics = worker.update(Columns.of(experiences), 0)
        assert worker._ahead.missing(Step(Columns.of(experiences))) == list(range(len(experiences)))
        worker.open_outbox(False)
        bundle = worker.weights(1)
        if bundle is not None:
            assert isinstance(bundle.way, Mapped)
            arrays = bundle.way.arrays(bundle.specs)
            tensors = {s.name: data.view(np.float32).reshape(s.shape) for s, data in arrays}
            np.savez(folder / f"{cell['name']}.npz", allow_pickle=False, **tensors)
            (folder / f"{cell['name']}.json").write_text(json.dumps(metrics))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
    part()

"""One rank of the attic test: two steps at every ZeRO stage, with the device left between them and without.

python attic_rank.py RANK RANKS FOLDER        (FOLDER holds stage.json and the model)
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path

import numpy as np
import torch
from gather_rank import met
from parting import part

from llmrl.experience.columns import Columns
from llmrl.policy.attic import Attic
from llmrl.policy.probe import probe_experience
from llmrl.policy.worker import PolicyWorker
from llmrl.recipe.schema import Stage
from llmrl.weights.bundle import Mapped

STEPS = 2


def resident(but: Attic | None = None) -> int:
    """Bytes of the tensors that Python knows of, without those that an attic keeps on the host."""
    gc.collect()
    tensors = [one for one in gc.get_objects() if isinstance(one, torch.Tensor) and one.device.type == "cpu"]
    storages = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}
    for _, slices in but._away if but else ():
        for one in slices:
            del storages[one.data_ptr()]
    return sum(storages.values())


def trained(worker: PolicyWorker, *, leaves: bool) -> tuple[dict[str, np.ndarray], list[float]]:
    """Weights after all steps, and bytes for each parameter before and after leaving."""
    others = resident() if leaves else 0
    found: list[float] = []
    worker.load()
    zero = worker._zero
    parameters = sum(zero.full_size(one) for one in zero.module.parameters()) / 2  # of bfloat16
    columns = Columns.of([probe_experience(worker._vocabulary, context_tokens=64)] * 2)
    for step in range(STEPS):
        worker.update(columns, step)
        if leaves:
            before = resident()
            worker.leave()
            found = [(bytes_ - others) / parameters for bytes_ in (before, resident(worker._attic))]
            worker.come_back()
    worker.open_outbox(False)
    bundle = worker.weights(STEPS)
    if bundle is None:
        return {}, found
    assert isinstance(bundle.way, Mapped)
    return {spec.name: data.copy() for spec, data in bundle.way.arrays(bundle.specs)}, found


def main(rank: int, ranks: int, folder: Path) -> None:
    stage = Stage.model_validate_json((folder / "stage.json").read_text())
    workers, told = [met(PolicyWorker(stage, "cpu", rank), rank, folder)], {}
    for level in range(4):
        policy = stage.policy.model_copy(update={"zero_stage": level})
        # All are kept, so that nothing is freed while a later one is measured.
        pair = [PolicyWorker(stage.model_copy(update={"policy": policy}), "cpu", rank) for _ in range(2)]
        workers += pair
        stayed, _ = trained(pair[0], leaves=False)
        left, found = trained(pair[1], leaves=True)
        same = all(np.array_equal(stayed[name], left[name]) for name in stayed)
        told[level] = {"bytes a parameter": found, "same": same, "tensors": len(left)}
    (folder / f"told-{rank}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
    part()

"""Scores and gradients of the head by its Triton kernels, in Triton's interpreter, for each case of a file.

TRITON_INTERPRET=1 python fused_run.py FOLDER        (FOLDER holds cases.json and gets an .npz of each)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmrl.policy.head import score_tokens

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def run(case: dict[str, Any]) -> dict[str, np.ndarray]:
    generator = torch.Generator().manual_seed(0)
    tokens, vocabulary, width = case["tokens"], case["vocabulary"], 8
    hidden = torch.randn(tokens, width, generator=generator) * case["scale"]
    given = [hidden, torch.randn(vocabulary, width, generator=generator)]
    given += [torch.randn(vocabulary, generator=generator)] if case["bias"] else []
    inputs = [x.to(DTYPES[case["dtype"]]).requires_grad_() for x in given]
    targets = torch.randint(0, vocabulary, (tokens,), generator=generator)
    pulls = torch.randn(2, tokens, generator=generator)
    pulls[:, ::3] = 0  # tokens that the objective leaves out

    logp, entropy = score_tokens(
        inputs[0],
        inputs[1],
        targets,
        temperature=case["temperature"],
        entropy=case["entropy"],
        bias=inputs[2] if case["bias"] else None,
        chunk=case["chunk"],
    )
    loss = (logp * pulls[0]).sum() + (0 if entropy is None else (entropy * pulls[1]).sum())
    found = {"inputs": inputs, "gradients": torch.autograd.grad(loss, inputs)}
    named = {f"{name}-{i}": x for name, tensors in found.items() for i, x in enumerate(tensors)}
    named |= {"targets": targets, "pulls": pulls, "logp": logp}
    named |= {} if entropy is None else {"entropy": entropy}
    halves = {name for name, x in named.items() if x.dtype == torch.bfloat16}
    return {name: (x.float() if name in halves else x).detach().numpy() for name, x in named.items()}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for name, case in json.loads((folder / "cases.json").read_text()).items():
        np.savez(folder / f"{name}.npz", allow_pickle=False, **run(case))
    if "llmrl.policy.fused" not in sys.modules:
        sys.exit("the kernels were not used")

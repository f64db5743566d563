"""The kernels of the head against log-softmax in float64: Triton interprets them here, and compiles them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.lib.npyio import NpzFile
from torch import Tensor, nn

PLAIN = {
    "tokens": 5,
    "vocabulary": 37,
    "temperature": 1.0,
    "dtype": "float32",
    "bias": False,
    "entropy": True,
    "scale": 1.0,
    "chunk": None,
}
CASES: dict[str, dict[str, Any]] = {
    "plain": PLAIN,
    "one-token-of-one": PLAIN | {"tokens": 1, "vocabulary": 1},
    "odd-chunks": PLAIN | {"tokens": 7, "chunk": 3, "temperature": 0.7},
    "rows-of-three-blocks": PLAIN | {"vocabulary": 8193, "chunk": 2, "temperature": 1.3},
    "bias": PLAIN | {"vocabulary": 1500, "bias": True, "temperature": 0.6},
    "no-entropy": PLAIN | {"vocabulary": 4097, "entropy": False, "bias": True},
    "large-logits": PLAIN | {"scale": 300.0, "vocabulary": 5000},
    "bfloat16": PLAIN | {"dtype": "bfloat16", "vocabulary": 5000, "scale": 0.3, "bias": True},
    "no-tokens": PLAIN | {"tokens": 0},
}
SIGNATURES = {
    "score": {"products": "*fp32", "bias": "*{}", "targets": "*i64", "logp": "*fp32", "normalizer": "*fp32"}
    | {"out": "*fp32", "vocabulary": "i32", "scale": "fp32"},
    "pull": {"products": "*fp32", "bias": "*{}", "targets": "*i64", "normalizer": "*fp32", "entropy": "*fp32"}
    | {"gain": "*fp32", "spread": "*fp32", "made": "*{}", "columns": "i32", "first": "i32", "scale": "fp32"},
}
SWITCHES = {"score": ("has_bias", "entropy"), "pull": ("has_bias", "has_spread")}


def start(script: list[str], **environment: str) -> None:
    pytest.importorskip("triton")
    command = [sys.executable, *script]
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fused")
    (folder / "cases.json").write_text(json.dumps(CASES))
    start([str(Path(__file__).with_name("fused_run.py")), str(folder)], TRITON_INTERPRET="1")
    return folder


def right(found: NpzFile, case: dict[str, Any]) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Logprobs, entropies and gradients in float64, from the same inputs."""
    names = sorted(name for name in found.files if name.startswith("inputs"))
    inputs = [torch.from_numpy(found[name]).double().requires_grad_() for name in names]
    logits = nn.functional.linear(inputs[0], inputs[1], inputs[2] if case["bias"] else None)
    logp = (logits / case["temperature"]).log_softmax(-1)
    chosen = logp.gather(-1, torch.from_numpy(found["targets"])[:, None])[:, 0]
    entropy = -(logp.exp() * logp).sum(-1)
    pulls = torch.from_numpy(found["pulls"]).double()
    loss = (chosen * pulls[0]).sum() + ((entropy * pulls[1]).sum() if case["entropy"] else 0)
    return chosen, entropy, list(torch.autograd.grad(loss, inputs))


@pytest.mark.parametrize("name", CASES)
def test_the_kernels_are_log_softmax_gather_and_entropy(interpreted: Path, name: str) -> None:
    found, case = np.load(interpreted / f"{name}.npz"), CASES[name]
    logp, entropy, gradients = right(found, case)
    # Logits of thousands, and their products in bfloat16 on a CPU, are known less exactly.
    close = {"large-logits": 3e-3, "bfloat16": 2e-2}.get(name, 1e-5)

    assert np.allclose(found["logp"], logp.detach(), rtol=1e-5, atol=close)
    assert ("entropy" in found.files) == case["entropy"]
    if case["entropy"]:
        assert np.allclose(found["entropy"], entropy.detach(), rtol=1e-5, atol=close)
    for number, gradient in enumerate(gradients):
        off = np.linalg.norm(found[f"gradients-{number}"] - gradient.numpy())
        assert off <= close * np.linalg.norm(gradient) + 1e-12


def test_tokens_without_a_gradient_pull_at_nothing(interpreted: Path) -> None:
    found = np.load(interpreted / "rows-of-three-blocks.npz")

    assert not found["gradients-0"][::3].any()
    assert found["gradients-0"][1::3].all()


COMPILED = """
import json, sys
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from llmrl.policy import kernels
for kernel, signature, constants in json.loads(sys.argv[1]):
    source = ASTSource(fn=getattr(kernels, kernel), signature=signature, constexprs=constants)
    made = compile(source, target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": True})
    assert made.asm["cubin"], (kernel, signature, list(made.asm))
"""


def test_the_kernels_compile_for_a_gpu(tmp_path: Path) -> None:
    """Down to machine code: the interpreter accepts what the compiler does not."""
    sources: list[tuple[str, dict[str, str], dict[str, bool | int]]] = []
    for kernel, (dtype, on) in product(SIGNATURES, [("bf16", True), ("fp32", False)]):
        constants = dict.fromkeys(SWITCHES[kernel], on) | {"block": 1024}
        signature = {name: kind.format(dtype) for name, kind in SIGNATURES[kernel].items()}
        sources.append((kernel, signature | dict.fromkeys(constants, "constexpr"), constants))

    start(["-W", "error", "-c", COMPILED, json.dumps(sources)], TRITON_CACHE_DIR=str(tmp_path))

"""What can be proven of the learner on one GPU, without vLLM, Ray, DeepSpeed, PEFT or datasets.

    python -m tests.gpu.prove [--device cuda|cpu]        (from the repository's root)

Prints one table and ends with 1 if anything misses its limit. On a CPU the sizes are tiny and only the
fallbacks are tried: no kernel, no memory, no time. Needs torch >= 2.11 and transformers >= 5.17.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

import torch

from tests.gpu.finding import FULL, TINY, Row, Sizes, place, report
from tests.gpu.logits import head_rows
from tests.gpu.packing import attention_rows
from tests.gpu.policy import scorer_rows
from tests.gpu.sampling import engine_rows
from tests.gpu.sync import sync_rows

PROOFS = (attention_rows, head_rows, scorer_rows, engine_rows, sync_rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    device = torch.device(parser.parse_args().device)
    return report(_rows(device, FULL if device.type == "cuda" else TINY), where=place(device))


def _rows(device: torch.device, sizes: Sizes) -> Iterator[Row]:
    for proof in PROOFS:
        torch.manual_seed(0)
        yield from proof(device, sizes)
        if device.type == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    sys.exit(main())

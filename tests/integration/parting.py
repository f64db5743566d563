"""How a rank of a test ends: in order, and not before the others."""

from __future__ import annotations

import torch.distributed as dist


def part() -> None:
    """Leave the process group while Python still lives; all ranks come here.

    A thread of Gloo may hold the tensors of the last collective for a moment after it is done. If Python ends
    in that moment, the process aborts when they are freed (github.com/pytorch/pytorch/pull/179291); what a
    barrier sends is not Python's.
    """
    dist.barrier()
    dist.destroy_process_group()

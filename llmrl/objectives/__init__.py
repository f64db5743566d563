"""What is optimized: one short file per method, and the contract that all of them keep."""

from llmrl.objectives import dpo as _dpo
from llmrl.objectives import grpo as _grpo
from llmrl.objectives import nash as _nash
from llmrl.objectives import refuel as _refuel
from llmrl.objectives import sft as _sft
from llmrl.objectives import xpo as _xpo
from llmrl.objectives.contract import (
    Bundle,
    Estimates,
    Loss,
    Max,
    Mean,
    MeanOver,
    Objective,
    Reads,
    Scope,
    Unit,
    objective,
)
from llmrl.objectives.shaping import Shaping, shaping

__all__ = [
    "Bundle",
    "Estimates",
    "Loss",
    "Max",
    "Mean",
    "MeanOver",
    "Objective",
    "Reads",
    "Scope",
    "Shaping",
    "Unit",
    "objective",
    "shaping",
]

del _dpo, _grpo, _nash, _refuel, _sft, _xpo

"""What is optimized: one short file per method, and the contract that all of them keep."""

from llmrl.objectives import grpo as _grpo
from llmrl.objectives import sft as _sft
from llmrl.objectives.contract import Bundle, Loss, Max, Mean, Objective, Reads, Unit, objective

__all__ = ["Bundle", "Loss", "Max", "Mean", "Objective", "Reads", "Unit", "objective"]

del _grpo, _sft

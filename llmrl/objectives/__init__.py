"""What is optimized: one short file per method, and the contract that all of them keep."""

from llmrl.objectives import cispo as _cispo
from llmrl.objectives import cov as _cov
from llmrl.objectives import dapo as _dapo
from llmrl.objectives import dpo as _dpo
from llmrl.objectives import empg as _empg
from llmrl.objectives import erc as _erc
from llmrl.objectives import gppo as _gppo
from llmrl.objectives import grpo as _grpo
from llmrl.objectives import gspo as _gspo
from llmrl.objectives import mhpo as _mhpo
from llmrl.objectives import nash as _nash
from llmrl.objectives import r2vpo as _r2vpo
from llmrl.objectives import refuel as _refuel
from llmrl.objectives import reinforce_pp as _reinforce_pp
from llmrl.objectives import riskpo as _riskpo
from llmrl.objectives import rloo as _rloo
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

del (
    _cispo,
    _cov,
    _dapo,
    _dpo,
    _empg,
    _erc,
    _gppo,
    _grpo,
    _gspo,
    _mhpo,
    _nash,
    _r2vpo,
    _refuel,
    _reinforce_pp,
    _riskpo,
    _rloo,
    _sft,
    _xpo,
)

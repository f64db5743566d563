"""Rewards: the contract of a reward, the built-in rewards, and the processes that they run in."""

from llmrl.rewards.judgement import Judgement, Sample, Status
from llmrl.rewards.kinds import choice as _choice
from llmrl.rewards.kinds import code as _code
from llmrl.rewards.kinds import format as _format
from llmrl.rewards.kinds import instructions as _instructions
from llmrl.rewards.kinds import json_schema as _json_schema
from llmrl.rewards.kinds import judge as _judge
from llmrl.rewards.kinds import length as _length
from llmrl.rewards.kinds import match as _match
from llmrl.rewards.kinds import math as _math
from llmrl.rewards.kinds import model as _model
from llmrl.rewards.kinds import number as _number
from llmrl.rewards.kinds import outcome as _outcome
from llmrl.rewards.kinds import remote as _remote
from llmrl.rewards.kinds import sql as _sql
from llmrl.rewards.kinds import versus as _versus
from llmrl.rewards.reward import (
    Awaited,
    Changing,
    Comparing,
    Derived,
    Formal,
    Heavy,
    Reward,
    Score,
    build_rewards,
    reward,
)

__all__ = [
    "Awaited",
    "Changing",
    "Comparing",
    "Derived",
    "Formal",
    "Heavy",
    "Judgement",
    "Reward",
    "Sample",
    "Score",
    "Status",
    "build_rewards",
    "reward",
]

del _choice, _code, _format, _instructions, _json_schema, _judge, _length
del _match, _math, _model, _number, _outcome, _remote, _sql, _versus

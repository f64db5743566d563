"""What a response is worth: the contract of a reward, the built-in rewards, and the processes they run in."""

from llmrl.rewards import choice as _choice
from llmrl.rewards import code as _code
from llmrl.rewards import format as _format
from llmrl.rewards import instructions as _instructions
from llmrl.rewards import json_schema as _json_schema
from llmrl.rewards import judge as _judge
from llmrl.rewards import length as _length
from llmrl.rewards import match as _match
from llmrl.rewards import math as _math
from llmrl.rewards import model as _model
from llmrl.rewards import number as _number
from llmrl.rewards import outcome as _outcome
from llmrl.rewards import remote as _remote
from llmrl.rewards import sql as _sql
from llmrl.rewards import versus as _versus
from llmrl.rewards.judgement import Judgement, Sample, Status
from llmrl.rewards.reward import (
    Awaited,
    Changing,
    Comparing,
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

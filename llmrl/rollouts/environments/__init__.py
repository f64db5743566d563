"""The environments that come with llmrl. Modules that need one by name import the registry from here."""

from llmrl.rollouts.environment import Environment, Episode, Reply, Turn, environment
from llmrl.rollouts.environments import dialogue as _dialogue
from llmrl.rollouts.environments import guess_number as _guess_number
from llmrl.rollouts.environments import program as _program
from llmrl.rollouts.environments import running_sum as _running_sum
from llmrl.rollouts.environments import tools as _tools

__all__ = ["Environment", "Episode", "Reply", "Turn", "environment"]

del _dialogue, _guess_number, _program, _running_sum, _tools

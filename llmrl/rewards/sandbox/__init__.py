"""The sandbox for code that a model wrote: the jails of this machine, Docker, or a service."""

from llmrl.rewards.sandbox.contract import Exam, Examiner, Limits, Marks, Run, Sandbox
from llmrl.rewards.sandbox.docker import Docker
from llmrl.rewards.sandbox.fusion import Fusion
from llmrl.rewards.sandbox.jails import Jails
from llmrl.rewards.sandbox.survey import Level, survey

__all__ = [
    "Docker",
    "Exam",
    "Examiner",
    "Fusion",
    "Jails",
    "Level",
    "Limits",
    "Marks",
    "Run",
    "Sandbox",
    "survey",
]

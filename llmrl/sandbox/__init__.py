"""The sandbox for code that a model wrote: the jails of this machine, Docker, or a service."""

from llmrl.sandbox.contract import Exam, Examiner, Limits, Marks, Run, Sandbox
from llmrl.sandbox.docker import Docker
from llmrl.sandbox.fusion import Fusion
from llmrl.sandbox.jails import Jails
from llmrl.sandbox.survey import Level, survey

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

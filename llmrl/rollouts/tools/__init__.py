"""The tools that come with llmrl. Modules that need one by name import the registry from here."""

from llmrl.rollouts.tool import Tool, ToolError, tool
from llmrl.rollouts.tools import calculator as _calculator
from llmrl.rollouts.tools import python as _python
from llmrl.rollouts.tools import search as _search

__all__ = ["Tool", "ToolError", "tool"]

del _calculator, _python, _search

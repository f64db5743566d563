"""Any command as an agent: in another language or virtual environment, or one that cannot be changed."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import InstanceOf

from llmrl.errors import EngineError, RecipeError, shown
from llmrl.prompts.prompt import Prompt
from llmrl.recipe.schema import AboveZero, Positive
from llmrl.rollouts.agents import Agent
from llmrl.rollouts.agents.process import AgentProcess
from llmrl.rollouts.agents.staff import Staff
from llmrl.rollouts.environment import environment


@environment("program")
@dataclass(frozen=True, slots=True, kw_only=True)
class Program(Agent):
    """A program that gets the row of a response on stdin, and prints its outcome to stdout."""

    command: tuple[str, ...]
    """Program and its arguments; no shell reads them."""
    rows: Literal["one", "many"] = "one"
    """Rows of a process: one, after which its input ends; or many, one on each line, for programs that take
    long to start."""
    at_once: Positive | None = 8
    """Most processes of it for one engine; None takes ``engines.max_sequences``."""
    folder: str = "."
    """Working folder of the program."""
    variables: dict[str, str] = field(default_factory=dict[str, str])
    """Further environment variables, besides those inherited and those that llmrl sets."""
    inherit: tuple[str, ...] = ("PATH", "HOME", "LANG", "TMPDIR")
    """Names of our environment variables that it inherits, if they are set."""
    deadline_s: AboveZero = 300.0
    """Seconds for one row; then the program is killed with its children."""
    max_turn_tokens: Positive | None = None
    """Most tokens of one answer of the policy; by default what is left of ``rollouts.max_tokens``."""
    _staff: InstanceOf[Staff] = field(default_factory=Staff, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not all(self.command[:1]) or not self.command:
            raise ValueError("command must begin with a program, got none")

    def warm_up(self) -> None:
        """Check that the program exists.

        Raises:
            RecipeError: this machine lacks the program or the folder.
        """
        folder, program = Path(self.folder), self.command[0]
        if not folder.is_dir():
            raise RecipeError(f"environment.options.folder: there is no folder {shown(self.folder)} here.")
        named = str(folder / program) if os.sep in program else program
        if shutil.which(named, path=self._environment().get("PATH", os.defpath)) is None:
            raise RecipeError(
                f"environment.options.command: there is no program {shown(program)} here; give its path, "
                f"or a PATH among environment.options.variables."
            )

    def run(self, prompt: Prompt, *, base_url: str, api_key: str, seed: int) -> float | None:
        variables = {"OPENAI_BASE_URL": base_url}
        if self.rows == "one":
            variables["OPENAI_API_KEY"] = api_key
        with self._staff.one(lambda: self._started(variables)) as process:
            row = _row(prompt, base_url=base_url, api_key=api_key, seed=seed)
            said = process.ask(row, seconds=self.deadline_s)
        if "error" in said:
            raise EngineError(f"{shown(' '.join(self.command))} says: {said['error']}")
        return said.get("outcome")

    def close(self) -> None:
        """End all processes."""
        self._staff.close()

    def _started(self, variables: dict[str, str]) -> AgentProcess:
        return AgentProcess(
            self.command,
            folder=self.folder,
            variables=self._environment() | variables,
            many=self.rows == "many",
        )

    def _environment(self) -> dict[str, str]:
        inherited = {name: os.environ[name] for name in self.inherit if name in os.environ}
        return inherited | self.variables


def _row(prompt: Prompt, *, base_url: str, api_key: str, seed: int) -> dict[str, Any]:
    """The JSON object that the program gets."""
    return {
        "base_url": base_url,
        "api_key": api_key,
        "model": "policy",
        "seed": seed % 2**53,  # as much as other languages keep of a number in JSON
        "id": prompt.id,
        "prompt": prompt.text,
        "messages": [asdict(message) for message in prompt.messages],
        "answer": prompt.answer,
    }

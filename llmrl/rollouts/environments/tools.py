"""Tools for the policy: it writes a call, reads the result, and goes on to its answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from llmrl.errors import shown
from llmrl.prompts.prompt import Prompt
from llmrl.recipe.schema import AboveZero, Choice, Positive
from llmrl.rollouts.environment import Environment, Reply, Turn, environment
from llmrl.rollouts.tools import Tool, ToolError, tool

Marks = tuple[str, str]

CALL: Mapping[str, Marks] = {"text": ("<tool>", "</tool>"), "json": ("<tool_call>", "</tool_call>")}
RESULT: Mapping[str, Marks] = {
    "text": ("<result>", "</result>"),
    "json": ("<tool_response>\n", "\n</tool_response>"),
}


def _calculator() -> dict[str, Choice]:
    return {"calculator": Choice(name="calculator")}


@environment("tools")
@dataclass(frozen=True, slots=True, kw_only=True)
class Tools(Environment):
    """Replies to a turn with calls with their results; a turn without calls is the answer and ends it."""

    tools: dict[str, Choice] = field(default_factory=_calculator)
    """Tools by the name in the policy's calls."""
    form: Literal["text", "json"] = "text"
    """Form of a call: ``calculator: 12*7``, or ``{"name": ..., "arguments": {...}}`` as in chat templates. If
    there is one tool, a text may leave out its name."""
    call: Marks | None = None
    """Marks around a call; by default ``<tool>`` and ``</tool>``, or for JSON ``<tool_call>`` and
    ``</tool_call>``."""
    result: Marks | None = None
    """Marks around a result; by default ``<result>`` and ``</result>``, or for JSON ``<tool_response>`` and
    ``</tool_response>`` on lines of their own."""
    calls: Positive = 8
    """Most calls in a conversation; one more ends it."""
    failure: str | None = None
    """Reply to a call that fails; by default ``error:`` and why it failed."""
    characters: Positive = 2000
    """Most characters of a result; the rest is cut off."""
    max_turn_tokens: Positive | None = None
    """Most tokens of one turn of the policy; by default what is left of ``rollouts.max_tokens``."""
    reply_deadline_s: AboveZero = 60.0
    """Longest time for the results of one turn; then the conversation is aborted."""
    _built: dict[str, Tool] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.call is not None and not all(self.call):
            raise ValueError(f"call must be two marks that are not empty, got {self.call}")
        built: dict[str, Tool] = {
            name: tool.build_nested(choice.name, choice.options, table=f"tools.{name}")
            for name, choice in self.tools.items()
        }
        if not built:
            raise ValueError("tools must have at least one tool, got none")
        object.__setattr__(self, "_built", built)

    def warm_up(self) -> None:
        """Get every tool ready."""
        for one in self._built.values():
            one.warm_up()

    def start(self, _prompt: Prompt, *, seed: int) -> ToolsEpisode:
        del seed  # nothing is random
        return ToolsEpisode(options=self, left=self.calls)

    def calls_in(self, text: str) -> list[str]:
        """The text between the marks of each call, in order."""
        begin, end = self.call or CALL[self.form]
        found: list[str] = []
        at = 0
        # A regular expression would begin anew at every unclosed mark, and hold the engine up.
        while (start := text.find(begin, at)) >= 0 and (stop := text.find(end, start + len(begin))) >= 0:
            found.append(text[start + len(begin) : stop])
            at = stop + len(end)
        return found

    async def result_of(self, call: str) -> str:
        """The result of one call between its marks, or its failure."""
        begin, end = self.result or RESULT[self.form]
        try:
            name, question = self._read(call)
            text = await self._built[name].answer(question)
        except ToolError as error:
            text = f"error: {error}" if self.failure is None else self.failure
        return f"{begin}{text[: self.characters]}{end}"

    def _read(self, call: str) -> tuple[str, str]:
        """The name of the tool, and its question."""
        name, question = _read_json(call) if self.form == "json" else _read_text(call)
        if name in self._built:
            return name, question
        if self.form == "text" and len(self._built) == 1:
            return next(iter(self._built)), call.strip()
        raise ToolError(f"no tool named {shown(name)}; there is {', '.join(self._built)}")


@dataclass(slots=True, kw_only=True)
class ToolsEpisode:
    """One conversation with the tools."""

    options: Tools
    left: int
    """Calls that may still be made."""

    async def reply(self, turn: Turn) -> Reply:
        """Reply with the results; the outcome is left to the rewards that read the answer."""
        calls = self.options.calls_in(turn.text)
        self.left -= len(calls)
        if not calls or self.left < 0:
            return Reply(over=True)
        results = [await self.options.result_of(call) for call in calls]
        # Templates put each result of several on lines of its own; a small alphabet may have no line end.
        return Reply(text=("\n" if self.options.form == "json" else "").join(results))


def _read_text(call: str) -> tuple[str, str]:
    name, _, question = call.partition(":")
    return name.strip(), question.strip()


def _read_json(call: str) -> tuple[str, str]:
    """The name and the single argument of a JSON call."""
    try:
        found: Any = json.loads(call)
    except (ValueError, RecursionError):
        raise ToolError(f"{shown(call)} is not JSON") from None
    if not isinstance(found, dict):
        raise ToolError(f"a call must be an object with name and arguments, got {shown(call)}")
    members = cast("dict[str, Any]", found)
    arguments: object = members.get("arguments")
    values = [*cast("dict[str, object]", arguments).values()] if isinstance(arguments, dict) else [arguments]
    if len(values) != 1 or not isinstance(values[0], str):
        raise ToolError(f"arguments must have one text, got {shown(members.get('arguments'))}")
    return f"{members.get('name')}", values[0]

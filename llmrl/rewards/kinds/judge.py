"""Rewards in a model's words: ``judge`` reads its verdict, ``compare`` its choice between two."""

from __future__ import annotations

import asyncio
import re
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from llmrl.errors import ServiceError, shown
from llmrl.prompts.thoughts import without_thoughts
from llmrl.rewards.judgement import Sample
from llmrl.rewards.reward import Score, gold_of, reward
from llmrl.roles.asker import Asker, chat, filled

NUMBER = r"(?<![\w.])(?<!/)(?<!/ )(?<!out of )(-?\d+(?:\.\d+)?)(?!\w)"
"""Pattern of a score: the 8 of 8/10 and of "8 out of 10"."""
_SHOWN = 120
"""Most characters of the judge's answer that a note quotes, from its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict(Asker):
    """Options of rewards that ask a model at temperature 0 and read its text, never run it."""

    template: str
    """Template of the question, with placeholders such as ``{prompt}``."""
    system: str = ""
    """System message before the question."""
    pattern: str | None = None
    """Pattern whose last match, in its first group, is read; by default a number, or one of ``choices``."""
    choices: Mapping[str, float] = field(default_factory=dict[str, float])
    """Score of each readable word, ignoring case (except for a single letter: "a" is a word of English); by
    default a number is its own score."""
    range: tuple[float, float] | None = None
    """Bounds of a number, others being unreadable; its place between them is the score, from 0 to 1."""
    max_tokens: int = 64
    """Most tokens of the verdict; one cut off is unreadable, but for a choice or a match of ``pattern``."""
    unreadable: Literal["error", "abstain"] = "error"
    """Result if nothing can be read; never a 0."""

    reads_answer: ClassVar[bool] = False
    places: ClassVar[frozenset[str]] = frozenset()
    """Placeholders that the template must have."""

    def __post_init__(self) -> None:
        Asker.__post_init__(self)
        for place in sorted(self.places):
            if f"{{{place}}}" not in self.template:
                raise ValueError(f"template must contain {{{place}}}, got {shown(self.template)}")
        try:
            groups = re.compile(self.pattern or NUMBER).groups
        except re.error as error:
            raise ValueError(f"pattern must be a regular expression, and {error}") from None
        if not groups:
            raise ValueError(f"pattern must have a group around what is read, got {shown(self.pattern)}")
        if self.range is not None and not self.range[0] < self.range[1]:
            raise ValueError(f"range must be two numbers, the lower one first, got {list(self.range)}")

    async def verdict(self, sample: Sample, places: Mapping[str, str]) -> Score:
        """Ask the judge, with these texts in the template's placeholders, and read its verdict."""
        known = {"prompt": _text(sample), "response": sample.response, **places}
        if "{answer}" in self.template:
            known["answer"] = gold_of(sample)
        messages = chat(("system", self.system), ("user", filled(self.template, known)))
        said = await self.hear(messages, max_tokens=self.max_tokens, temperature=0.0, seed=0)
        value = None if said.cut and not self._is_whole(said.text) else self.read(said.text)
        note = f"the judge said {shown(said.text[-_SHOWN:], _SHOWN)}"
        if said.cut and value is None:
            note = f"{note}, which max_tokens = {self.max_tokens} cut off; raise it"
        if value is None and self.unreadable == "error":
            raise ServiceError(f"{self.who} gave no verdict that can be read; {note}.")
        return Score(value, note)

    def read(self, said: str) -> float | None:
        """The score in the judge's answer, without its thoughts; None if it cannot be read."""
        found = list(re.finditer(self._pattern, without_thoughts(said), self._flags))
        word = (found[-1][1] or "").strip() if found else ""
        if self.choices:
            return {name.lower(): worth for name, worth in self.choices.items()}.get(word.lower())
        try:
            return self._scaled(float(word))
        except ValueError:
            return None

    def _is_whole(self, said: str) -> bool:
        """Whether an answer that was cut off is a verdict: matched by a pattern, or only a choice. A number
        could have had more digits."""
        return self.pattern is not None or said.strip().lower() in {name.lower() for name in self.choices}

    @property
    def _flags(self) -> re.RegexFlag:
        return re.NOFLAG if self.choices and self.pattern is None else re.IGNORECASE

    @property
    def _pattern(self) -> str:
        longest = sorted(self.choices, key=len, reverse=True)
        words = "|".join(re.escape(name) if len(name) == 1 else f"(?i:{re.escape(name)})" for name in longest)
        return self.pattern or (rf"(?<!\w)({words})(?!\w)" if words else NUMBER)

    def _scaled(self, number: float) -> float | None:
        if self.range is None:
            return number
        low, high = self.range
        return (number - low) / (high - low) if low <= number <= high else None

    @abstractmethod
    async def __call__(self, sample: Sample) -> Score:
        """Score one response."""


@reward("judge")
@dataclass(frozen=True, slots=True, kw_only=True)
class Judge(Verdict):
    """A model's text about a response, read as a number or as one of ``choices``."""

    places: ClassVar[frozenset[str]] = frozenset({"response"})

    async def __call__(self, sample: Sample) -> Score:
        return await self.verdict(sample, {})


@reward("compare")
@dataclass(frozen=True, slots=True, kw_only=True)
class Compare(Verdict):
    """The mean over the rivals of a model's verdict on the response (first) and a rival (second).

    Judges favour a position, so each pair is shown in both orders and the two verdicts are averaged.
    """

    choices: Mapping[str, float] = field(default_factory=lambda: {"A": 1.0, "B": 0.0})
    """Score of ``{first}`` for each readable word; ``{second}`` gets 1 minus that."""

    places: ClassVar[frozenset[str]] = frozenset({"first", "second"})
    reads_rivals: ClassVar[Literal[True]] = True

    async def __call__(self, sample: Sample) -> Score:
        if not sample.rivals:
            return Score(None, "no rival")
        pairs = [(sample.response, rival) for rival in sample.rivals]
        ahead = await asyncio.gather(*(self._chosen(sample, one, other) for one, other in pairs))
        behind = await asyncio.gather(*(self._chosen(sample, other, one) for one, other in pairs))
        worths: list[float] = []
        for first, second in zip(ahead, behind, strict=True):
            if first.value is None or second.value is None:
                return first if first.value is None else second
            worths += [first.value, 1.0 - second.value]
        return Score(sum(worths) / len(worths), " ".join(f"{worth:g}" for worth in worths))

    async def _chosen(self, sample: Sample, first: str, second: str) -> Score:
        return await self.verdict(sample, {"first": first, "second": second})


def _text(sample: Sample) -> str:
    """The prompt without the chat template around it."""
    if len(sample.conversation) == 1:
        return sample.conversation[0]["content"]
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in sample.conversation)

"""Environment of verifiers: a sum, and with more turns others that go on from it: 37+5=, +3=, +9=."""

from __future__ import annotations

from typing import Any

import verifiers as vf
from datasets import Dataset


def load_environment(turns: int = 3, rows: int = 200) -> vf.Environment:
    """With one turn it is a SingleTurnEnv; worth the share of right answers."""
    sums = [(10 + 37 * number % 90, 7 * number % 10) for number in range(rows)]
    dataset = Dataset.from_list([{"question": f"{a}+{b}=", "answer": str(a + b)} for a, b in sums])
    rubric = vf.Rubric(funcs=[right])
    if turns == 1:
        return vf.SingleTurnEnv(dataset=dataset, rubric=rubric)
    return Sums(dataset=dataset, rubric=rubric, max_turns=turns)


class Sums(vf.MultiTurnEnv):
    """Adds a number after each answer; the last question has no reply."""

    async def env_response(self, messages: vf.Messages, state: vf.State, **_: Any) -> vf.Messages:
        added = added_after(state["answer"], turn=len(said(messages)))
        return [vf.UserMessage(content=f"+{added}=")]


def right(completion: vf.Messages, answer: str) -> float:
    """The share of right answers among those that were given."""
    answers, total, correct = said(completion), int(answer), 0
    for turn, one in enumerate(answers, start=1):
        correct += one == str(total)
        total += added_after(answer, turn=turn)
    return correct / len(answers) if answers else 0.0


def added_after(answer: str, *, turn: int) -> int:
    """What is added after so many answers."""
    return (int(answer) + 3 * turn) % 10


def said(messages: vf.Messages) -> list[str]:
    """The policy's words, turn by turn."""
    return [message["content"].strip() for message in messages if message["role"] == "assistant"]

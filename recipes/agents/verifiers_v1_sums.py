"""Taskset of verifiers 0.3 or later: sums of two numbers, right or wrong."""

from __future__ import annotations

import verifiers.v1 as vf

__all__ = ["Sums"]


class SumData(vf.TaskData):
    answer: str


class Sum(vf.Task[SumData]):
    @vf.reward(weight=1.0)
    async def right(self, trace: vf.Trace) -> float:
        return float(trace.last_reply.strip() == self.data.answer)


class SumsConfig(vf.TasksetConfig):
    rows: int = 200


class Sums(vf.Taskset[Sum, SumsConfig]):
    def load(self) -> list[Sum]:
        sums = [(10 + 37 * number % 90, 7 * number % 10) for number in range(self.config.rows)]
        return [Sum(SumData(prompt=f"{a}+{b}=", answer=str(a + b)), self.config.task) for a, b in sums]

"""Latencies and verdicts of each named reward, step by step, to find a slow or broken one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from llmrl.rewards.judgement import Status
from llmrl.rewards.scoring.part import Part


@dataclass(slots=True)
class Tally:
    """Counts verdicts of named rewards."""

    asked: int = 0
    """Responses that rewards were asked about."""
    known: int = 0
    """Responses whose verdict was known already."""
    restarts: int = 0
    """Processes that had to be replaced."""
    seconds: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    statuses: Counter[tuple[str, Status]] = field(default_factory=Counter[tuple[str, Status]])

    def count(self, parts: Mapping[str, Part]) -> None:
        """Count the verdicts on one response, by the name of their reward."""
        self.asked += 1
        for name, part in parts.items():
            self.seconds.setdefault(name, []).append(part.seconds)
            self.statuses[name, part.status] += 1

    def statistics(self) -> dict[str, float]:
        """Metrics by name, of the group ``judgement``; empty if nothing was judged."""
        judged = self.asked + self.known
        if not judged:
            return {}
        numbers: dict[str, float] = {"judgement/restarts": self.restarts}
        if self.known:
            numbers["judgement/known_rate"] = self.known / judged
        for name, seconds in self.seconds.items():
            numbers |= self._of(name, seconds)
        return numbers

    def _of(self, name: str, seconds: list[float]) -> dict[str, float]:
        half, most, longest = np.percentile(seconds, [50, 95, 100])
        return {
            f"judgement/seconds_p50/{name}": float(half),
            f"judgement/seconds_p95/{name}": float(most),
            f"judgement/seconds_max/{name}": float(longest),
            f"judgement/error_rate/{name}": self.statuses[name, "error"] / len(seconds),
            f"judgement/abstain_rate/{name}": self.statuses[name, "abstain"] / len(seconds),
        }

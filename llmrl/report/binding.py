"""The part of a stage that the others wait for, and for how long."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from llmrl.report.journal import StepEntry

BETWEEN = "judging or the weight sync"
"""Name for all parts besides policy and engines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """Shares of the total time of all steps."""

    policy_idle: float
    """Share in which the policy waited for groups, including saves."""
    engines_idle: float
    """Share in which an engine was idle; the mean over engines."""

    @property
    def both_idle(self) -> float:
        """Least share in which policy and engines were idle at once."""
        return max(0.0, self.policy_idle + self.engines_idle - 1)

    @property
    def part(self) -> str:
        """The part at work for the largest share of the time, behind which others can hide."""
        shares = {
            "training": 1 - self.policy_idle,
            "generation": 1 - self.engines_idle,
            BETWEEN: self.both_idle,
        }
        return max(shares, key=shares.__getitem__)

    def __str__(self) -> str:
        both = f", both at once at least {self.both_idle:.0%}" if self.both_idle else ""
        return (
            f"{self.part} binds: the policy was idle {self.policy_idle:.0%} of the time, "
            f"the engines {self.engines_idle:.0%}{both}"
        )


def binding(steps: Sequence[StepEntry]) -> Binding | None:
    """Compute the binding of steps that were generated for; None if there are none."""
    online = [one for one in steps if math.isfinite(one.metrics.get("rollout/idle", math.nan))]
    seconds = sum(one.metrics["time/step"] for one in online)
    if not seconds:
        return None
    return Binding(
        policy_idle=sum(one.metrics["time/wait"] for one in online) / seconds,
        engines_idle=sum(one.metrics["rollout/idle"] * one.metrics["time/step"] for one in online) / seconds,
    )

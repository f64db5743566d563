"""Which side of a stage the other one waits for, and for how long."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from llmrl.report.journal import StepEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """Shares of the time of all steps."""

    policy_idle: float
    """In which the policy waited for groups, a save included."""
    engines_idle: float
    """In which an engine had nothing to do; the mean over engines."""

    def __str__(self) -> str:
        idle = f"the policy was idle {self.policy_idle:.0%} of the time, the engines {self.engines_idle:.0%}"
        return f"{'generation' if self.policy_idle > self.engines_idle else 'training'} binds: {idle}"


def binding(steps: Sequence[StepEntry]) -> Binding | None:
    """Of steps that were generated for; None if there are none."""
    online = [one for one in steps if math.isfinite(one.metrics.get("rollout/idle", math.nan))]
    seconds = sum(one.metrics["time/step"] for one in online)
    if not seconds:
        return None
    return Binding(
        policy_idle=sum(one.metrics["time/wait"] for one in online) / seconds,
        engines_idle=sum(one.metrics["rollout/idle"] * one.metrics["time/step"] for one in online) / seconds,
    )

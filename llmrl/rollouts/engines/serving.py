"""What one engine is told when it starts: the model, how to serve it, and what else is on its devices."""

from __future__ import annotations

from dataclasses import dataclass

from llmrl.recipe.schema import NOBODY, Engines, Model, Opponent, Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """Settings of one engine; the defaults suit a role: no opponent, and devices of its own."""

    model: Model
    """The model to load; ``model.path`` is a folder."""
    engines: Engines
    """How to serve it; an engine ignores ``kind``, ``count`` and ``max_lag``."""
    stop: tuple[str, ...] = ()
    """Texts that end a response, besides the model's own end token."""
    opponent: Opponent = NOBODY
    """The opponent that it plays besides the policy."""
    takes_turns: bool = False
    """Whether the policy computes on the same devices in turn, so that the engine has to be able to sleep."""
    beside_copy: bool = False
    """Whether the policy leaves a copy of all weights on the engine's GPU, which has to have room for it."""

    @classmethod
    def of(cls, stage: Stage) -> Serving:
        """The settings of the engines of ``stage``, whose weights it trains."""
        return cls(
            model=stage.model,
            engines=stage.engines,
            stop=stage.rollouts.stop,
            opponent=stage.opponent or NOBODY,
            takes_turns=stage.cluster.placement == "shared",
            beside_copy=stage.shares_one_device,
        )

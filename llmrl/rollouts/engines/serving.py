"""What one engine is told when it starts: the model, how to serve it, and what else is on its devices."""

from __future__ import annotations

from dataclasses import dataclass

from llmrl.recipe.schema import NOBODY, Engines, Model, Opponent, Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """By default no opponent, and devices that nobody else computes on, as the engine of a role has."""

    model: Model
    """What it loads; ``model.path`` is a folder."""
    engines: Engines
    """How it serves; ``kind``, ``count`` and ``max_lag`` are the business of whoever starts it."""
    stop: tuple[str, ...] = ()
    """Texts that end a response, besides the model's own end token."""
    opponent: Opponent = NOBODY
    """Whom it plays besides the policy."""
    takes_turns: bool = False
    """Whether the policy computes on the same devices in turn, so that the engine has to be able to sleep."""
    beside_copy: bool = False
    """Whether the policy leaves a copy of all weights on the engine's GPU, which has to have room for it."""

    @classmethod
    def of(cls, stage: Stage) -> Serving:
        """What the engines of ``stage`` are told, whose weights it trains."""
        return cls(
            model=stage.model,
            engines=stage.engines,
            stop=stage.rollouts.stop,
            opponent=stage.opponent or NOBODY,
            takes_turns=stage.cluster.placement == "shared",
            beside_copy=stage.shares_one_device,
        )

"""What one step computes: how many responses, how long, and how often each is gone through."""

from __future__ import annotations

from dataclasses import dataclass

from llmrl.objectives.algorithm import Algorithm, responses_trained
from llmrl.plan.architecture import Architecture
from llmrl.plan.lengths import Lengths
from llmrl.recipe.arithmetic import stage_arithmetic
from llmrl.recipe.schema import Opponent, Stage

WIDTHS = {"float32": 4, "bfloat16": 2}
"""Bytes of a number by dtype."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One step, whatever it runs on."""

    architecture: Architecture
    dtype: str
    samples: int
    """N, responses of a step."""
    per_prompt: int
    """G, responses that share a prompt."""
    prompt_tokens: float
    """p, of a prompt on average."""
    lengths: Lengths
    longest: float
    """L, the longest response of a step."""
    generated: int
    """Responses that the engines give, an opponent's included; 0 where the dataset has them."""
    rows_each: float = 1.0
    """Rows to train on for each of the N responses: pairs leave some out, or take an opponent's in."""
    epochs: int = 1
    updates: int = 1
    """Optimizer updates of a step."""
    scores_old: bool = False
    scores_reference: bool = False
    opponent_width: int = 0
    """Bytes of a number of the opponent's own weights in every engine; 0 if it has none there."""
    scans: float = 0.0
    """Further forward passes over the step, for an objective of scope ``step``."""
    recomputes: bool = False
    """Whether activations are computed again in the backward pass."""
    adapters: int = 0
    """Parameters of the adapters; 0 where all weights are trained."""

    @property
    def width(self) -> int:
        """w, bytes of a number."""
        return WIDTHS[self.dtype]

    @property
    def trained(self) -> int:
        """Parameters with gradients and optimizer states."""
        return self.adapters or self.architecture.parameters

    @property
    def prompts(self) -> float:
        """Prompts of a step."""
        return self.samples / self.per_prompt

    @property
    def opponents(self) -> int:
        """Responses of an opponent in a step."""
        return max(0, self.generated - self.samples)

    @property
    def rows(self) -> float:
        """Rows that a step trains on, each a response with its prompt."""
        return self.samples * self.rows_each

    @property
    def tokens(self) -> float:
        """T, that the policy reads in one pass over the step, prompts included."""
        return self.rows * (self.prompt_tokens + self.lengths.mean)

    @property
    def squares(self) -> float:
        """Sum of squared lengths over the step, prompts included."""
        p, lengths = self.prompt_tokens, self.lengths
        return self.rows * (p * p + 2 * p * lengths.mean + lengths.square)

    @property
    def forward_flops(self) -> float:
        """FLOPs of one forward pass over the step."""
        return self.architecture.forward_flops(self.tokens, self.squares)

    @property
    def passes(self) -> float:
        """Forward passes that a training pass costs: itself, two backward (one if frozen), recomputing."""
        return 3 + self.recomputes - bool(self.adapters)

    @property
    def train_flops(self) -> float:
        """FLOPs of all updates of a step, with what an objective of scope ``step`` scans."""
        return (self.epochs * self.passes + self.scans) * self.forward_flops


def workload_of(
    stage: Stage, architecture: Architecture, lengths: Lengths, *, prompt_tokens: float
) -> Workload:
    """The workload that a stage describes; its plugins must have been imported.

    Raises:
        RecipeError: an unknown objective, or an option that it refuses.
        ModelError: adapters that the plan cannot count.
    """
    algorithm, optimizer = Algorithm.of(stage), stage.optimizer
    numbers, opponent = stage_arithmetic(stage), algorithm.bundle.opponent
    own, against = stage.rollouts.per_prompt, opponent.responses
    updates = optimizer.minibatches * optimizer.epochs
    # The first update of a step looks at the scores of `old`, every other one at scores of its own.
    scans = (updates - 1) / optimizer.minibatches if algorithm.objective.scope == "step" else 0.0
    return Workload(
        architecture=architecture,
        dtype=stage.model.dtype,
        samples=numbers.responses_per_step,
        per_prompt=max(1, numbers.responses_per_step // stage.prompts.per_step),
        prompt_tokens=prompt_tokens,
        lengths=lengths,
        longest=lengths.longest_of(numbers.responses_per_step),
        generated=stage.prompts.per_step * (own + against) if numbers.generates else 0,
        rows_each=responses_trained(stage) / own if numbers.generates else 1.0,
        epochs=optimizer.epochs,
        updates=updates,
        scores_old=algorithm.needs_old(updates),
        scores_reference="reference" in algorithm.reads,
        opponent_width=_opponent_width(opponent, WIDTHS[stage.model.dtype]),
        scans=scans,
        recomputes=stage.model.gradient_checkpointing,
        adapters=architecture.adapter_parameters(stage.model.lora) if stage.model.lora else 0,
    )


def _opponent_width(opponent: Opponent, width: int) -> int:
    # An average is kept in float32, whose steps are small enough for it to move.
    return {"none": 0, "average": WIDTHS["float32"]}.get(opponent.kind, width)

"""The time of generation: t0 + t1 b + t2 C for one decode step of b sequences with C tokens of context."""

from __future__ import annotations

from dataclasses import dataclass

from llmrl.plan.figure import Figure
from llmrl.plan.hardware import Machines
from llmrl.plan.placement import Placement
from llmrl.plan.rates import Rates
from llmrl.plan.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One engine's share of a step."""

    samples: float
    """n, responses of a step that one engine gives."""
    slots: float
    """B, responses that it can generate at once."""
    mean: float
    """r, tokens of a response."""
    square: float
    """r2, mean square of a response's tokens."""
    longest: float
    """L, tokens of the step's longest response."""
    prompt: float
    """p, tokens of a prompt."""
    t0: float
    """Seconds of a decode step whatever is in it: the weights are read once."""
    t1: float
    """Seconds more for each sequence in it: its matrix products."""
    t2: float
    """Seconds more for each token of context: its KV cache is read."""
    prefill: float
    """Seconds to read the prompts of a step."""
    read: float = 0.0
    """Seconds to read one token of a context again."""
    opponents: float = 0.0
    """o, responses of the n that need a second model beside the engine's own."""
    t3: float = 0.0
    """Seconds more for each of their tokens: the second model reads its weights for it alone."""

    @property
    def context(self) -> float:
        """c, tokens that a sequence in progress has on average; long ones are in progress longer."""
        return self.prompt + self.square / (2 * self.mean)

    @property
    def work(self) -> float:
        """Seconds that do not depend on which responses share a batch."""
        n, r = self.samples, self.mean
        beside = self.t3 * self.opponents * r
        return self.prefill + self.t1 * n * r + self.t2 * n * (self.prompt * r + self.square / 2) + beside

    @property
    def steps_alone(self) -> float:
        """Decode steps if nothing comes after the step's responses: the longest one is waited for."""
        return self.longest + max(0.0, self.samples * self.mean / self.slots - self.mean)

    @property
    def alone_s(self) -> float:
        """Seconds of a step's responses, with nothing generated beside them."""
        return self.work + self.t0 * self.steps_alone

    @property
    def flowing_s(self) -> float:
        """Seconds of a step's responses where others always fill the free slots."""
        return self.work + self.t0 * self.samples * self.mean / self.slots

    def step_s(self, sequences: float) -> float:
        """Seconds of one decode step of ``sequences`` sequences."""
        # Of all sequences some are the opponent's, whose tokens also wait for its own model.
        each = self.t1 + self.t2 * self.context + self.t3 * self.opponents / self.samples
        return self.t0 + each * sequences

    def sequences_at(self, period: float) -> float:
        """Sequences in progress on average, if a step's responses take ``period`` seconds."""
        spare = period - self.work
        return min(self.slots, self.samples * self.mean * self.t0 / spare) if spare > 0 else self.slots

    def again_s(self, period: float) -> float:
        """Seconds to read all sequences in progress again, at their average length."""
        return self.sequences_at(period) * self.context * self.read

    def latency(self, period: float) -> float:
        """Seconds from the draw of a step's responses until the longest is there, at that pace."""
        # A slow pace leaves engines idle, but not its responses apart: they are drawn together.
        sequences = self.sequences_at(min(period, self.alone_s))
        return self.prefill + self.longest * self.step_s(sequences)


def generation_of(
    workload: Workload, placement: Placement, machines: Machines, rates: Rates, *, slots: float
) -> Generation:
    """The share of one engine, if all have equal ones."""
    shape, tp = workload.architecture, placement.tensor_parallel
    samples = workload.generated / placement.engines
    at_once = min(slots, samples)
    # Every sequence picks its experts; together they touch most of them.
    touched = shape.experts * (1 - (1 - shape.experts_per_token / shape.experts) ** at_once)
    weights = workload.width * shape.matrices_of(touched if shape.experts > 1 else 1)
    within = tp <= machines.per_node
    reduces = 2 * shape.layers * (tp > 1)
    moved = 2 * workload.width * shape.hidden / (rates.link if within else rates.network)
    # A group's prompt is read once where its cache is shared, which on a CPU needs prompts of 128 tokens.
    prompts = workload.prompts / placement.engines if machines.device.is_gpu else samples
    # vLLM asks the other model for one token of one response at a time; the torch engine has it in batches.
    alone = workload.opponent_width if placement.engine == "vllm" else 0
    products = 2 * shape.matrices / tp
    chosen = rates.experts if shape.experts > 1 else 1.0
    read = products / (chosen * rates.prefill)
    return Generation(
        samples=samples,
        slots=max(1.0, slots),
        mean=workload.lengths.mean,
        square=workload.lengths.square,
        longest=workload.longest,
        prompt=workload.prompt_tokens,
        t0=weights / (tp * chosen * rates.read)
        + rates.step_s
        + reduces * rates.reduce_s * (1 if within else 3),
        t1=products / (chosen * rates.decode) + rates.sequence_s + reduces * moved,
        t2=shape.kv_bytes_on(tp, workload.width) / rates.cache,
        prefill=prompts * workload.prompt_tokens * read,
        read=read,
        opponents=workload.opponents / placement.engines if alone else 0.0,
        t3=alone * shape.matrices / (chosen * rates.read) + rates.step_s if alone else 0.0,
    )


def generation_figures(made: Generation) -> dict[str, Figure]:
    """What the plan says about generation, with reasons."""
    letters = {"n": made.samples, "B": made.slots, "r": made.mean, "r2": made.square, "p": made.prompt}
    times = {"t0": made.t0, "t1": made.t1, "t2": made.t2, "prefill": made.prefill}
    rest = "t1 n r + t2 n (p r + r2 / 2)"
    if made.opponents:
        times, letters, rest = times | {"t3": made.t3}, letters | {"o": made.opponents}, f"{rest} + t3 o r"
    return {
        "alone": Figure(
            value=made.alone_s,
            unit="s",
            formula=f"prefill + t0 (L + max(0, n r / B - r)) + {rest}",
            inputs=times | {"L": made.longest} | letters,
        ),
        "flowing": Figure(
            value=made.flowing_s, unit="s", formula=f"prefill + t0 n r / B + {rest}", inputs=times | letters
        ),
        "tail": Figure(
            value=made.alone_s - made.flowing_s,
            unit="s",
            formula="t0 (L + max(0, n r / B - r) - n r / B)",
            inputs={"t0": made.t0, "L": made.longest} | letters,
        ),
    }

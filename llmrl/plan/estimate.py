"""One placement of one workload: what every process needs, how long each part takes, and the pace."""

from __future__ import annotations

from dataclasses import dataclass

from llmrl.plan.figure import Figure
from llmrl.plan.hardware import Machines
from llmrl.plan.memory import Needs, engine_needs, kv_cache, one_response, rank_needs, slots
from llmrl.plan.pace import Pace, pace_of
from llmrl.plan.placement import Placement
from llmrl.plan.rates import Rates
from llmrl.plan.rollout import Generation, generation_of
from llmrl.plan.sync import swap_of, sync_of
from llmrl.plan.training import Training, training_of
from llmrl.plan.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The work and the machines: everything but which device does which part."""

    workload: Workload
    machines: Machines
    rates: Rates
    context: int
    """``model.context_tokens``: an engine must have room for one such response."""
    connected: int
    """Tokens of the longest responses that share a micro-batch whatever its size, as pairs connect them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A placement with all that follows from it."""

    placement: Placement
    placed: bool
    """Whether every process finds its devices on one node."""
    needs: tuple[Needs, ...]
    """Memory needs of an engine, if there is one, and of a rank."""
    cache: Figure | None
    """KV cache of one device of an engine."""
    response: Figure | None
    """The part of that cache which a response of full length takes."""
    slots: Figure | None
    """Responses that one engine generates at once."""
    generation: Generation | None
    training: Training
    sync: Figure
    swap: Figure
    """What sharing devices costs a step."""
    pace: Pace

    @property
    def step_s(self) -> float:
        """Seconds of a step."""
        return self.pace.step.value

    @property
    def fits(self) -> bool:
        """Whether every process has the devices and the memory that it needs."""
        return self.placed and self.holds_a_response and all(needs.fits for needs in self.needs)

    @property
    def holds_a_response(self) -> bool:
        """Whether the KV cache is large enough for one of full length."""
        return not (self.cache and self.response) or self.cache.value >= self.response.value


def estimate(job: Job, placement: Placement) -> Estimate:
    """Every formula of the plan, for one placement."""
    workload, machines, rates = job.workload, job.machines, job.rates
    needs = [rank_needs(workload, placement, machines)]
    generation = cache = held = response = None
    if placement.engines:
        engine = engine_needs(workload, placement, machines, context=job.context)
        cache, response = kv_cache(engine), one_response(workload, placement, job.context)
        held = slots(cache, workload, placement)
        needs.insert(0, engine)
        if workload.generated:
            generation = generation_of(workload, placement, machines, rates, slots=held.value)
    training = training_of(workload, placement, machines, rates)
    sync = sync_of(workload, placement, machines, rates)
    swap = swap_of(workload, placement, rates, gpu=machines.device.is_gpu)
    return Estimate(
        placement=placement,
        placed=machines.hold(placement.widths()),
        needs=tuple(needs),
        cache=cache,
        response=response,
        slots=held,
        generation=generation,
        training=training,
        sync=sync,
        swap=swap,
        pace=pace_of(
            generation,
            training_s=training.seconds + swap.value,
            sync_s=sync.value,
            lag=0 if placement.shared else placement.lag,
            update=placement.update,
            contention=rates.contention,
        ),
    )

"""The parity gate of a stage: real responses, scored by the policy, compared with the engines' logprobs."""

from __future__ import annotations

from collections.abc import Sequence

from llmrl.cluster.actor import share
from llmrl.errors import EngineError
from llmrl.experience.columns import Columns
from llmrl.experience.offline import imitate
from llmrl.prompts.stream import PromptStream
from llmrl.recipe.schema import Stage
from llmrl.rollouts.engines import Sampling
from llmrl.rollouts.pool import EnginePool
from llmrl.rollouts.rollout import RolloutGroup
from llmrl.run.crew import Crew
from llmrl.run.parity import Comparison, Parity, check_parity
from llmrl.run.together import together

PROMPTS_PER_ENGINE = 4


async def pass_gate(
    stage: Stage, stream: PromptStream, crew: Crew, pool: EnginePool, *, routed: bool
) -> Parity:
    """Let the run begin, or stop it with a diagnosis.

    Raises:
        ParityError: engines and policy disagree.
        EngineError: the policy was not asked for one token.
    """
    temperature = stage.rollouts.temperature
    sampling = Sampling(
        purpose="parity",
        per_prompt=1,
        temperature=temperature,
        max_tokens=min(64, stage.rollouts.max_tokens),
        together=stage.policy.tokens_per_microbatch,
    )
    draws = [stream.at(ordinal) for ordinal in range(PROMPTS_PER_ENGINE * len(crew.engines))]
    groups = await together(pool.generate(draw, sampling) for draw in draws)
    _refuse_silence(groups)
    responses = share(Columns.of([imitate(group) for group in groups]))
    scored, *_ = await crew.policy("score", responses, temperature)
    plain, *_ = await crew.policy("score", responses, 1.0)
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    return check_parity(
        [
            # Tokens of the other speaker have no logprob.
            Comparison(sampled=one.logp[one.trained], trainer=a[one.trained], trainer_plain=b[one.trained])
            for one, a, b in zip(rollouts, scored, plain, strict=True)
        ],
        dtype=stage.model.dtype,
        temperature=temperature,
        routed=routed,
    )


def _refuse_silence(groups: Sequence[RolloutGroup]) -> None:
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    if not any(rollout.trained.any() for rollout in rollouts):
        reason = next((rollout.abort for rollout in rollouts if rollout.abort), "all of them are empty")
        raise EngineError(f"the policy wrote no token for the first {len(groups)} prompts: {reason}")

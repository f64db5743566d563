"""A response in two requests: nothing of it is lost, and nothing is sampled twice alike."""

from __future__ import annotations

import numpy as np

from llmrl.prompts.seeds import derive_seed
from llmrl.rollouts.engines import Completion, Request
from llmrl.rollouts.engines.continuation import joined, rest_of
from llmrl.rollouts.rollout import Stop


def completion(tokens: list[int], version: int, stop: Stop) -> Completion:
    return Completion(
        tokens=np.array(tokens, np.int32),
        logp=-np.array(tokens, np.float32),
        version=np.full(len(tokens), version, np.int32),
        stop=stop,
    )


def test_the_rest_reads_what_was_written_and_has_a_seed_and_a_budget_of_its_own() -> None:
    tokens = np.array([1, 2], np.int32)
    request = Request(id="train-3-0", tokens=tokens, max_tokens=10, temperature=0.7, seed=5)

    rest = rest_of(request, completion([7, 8, 9], 4, "abort"))

    assert (rest.id, rest.tokens.tolist(), rest.max_tokens) == ("train-3-0+3", [1, 2, 7, 8, 9], 7)
    assert (rest.seed, rest.temperature) == (derive_seed(5, 3), 0.7)
    assert rest.seed != derive_seed(5, 4)


def test_joined_every_token_keeps_its_logp_and_version() -> None:
    whole = joined(completion([7, 8], 4, "abort"), completion([9], 5, "stop"))

    assert (whole.tokens.tolist(), whole.logp.tolist()) == ([7, 8, 9], [-7, -8, -9])
    assert (whole.version.tolist(), whole.stop) == ([4, 4, 5], "stop")

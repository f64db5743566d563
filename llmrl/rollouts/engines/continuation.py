"""A response that new weights interrupted goes on as a request of its own, read again under these weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from llmrl.prompts.seeds import derive_seed
from llmrl.rollouts.engines.engine import Completion, Request


def rest_of(request: Request, so_far: Completion) -> Request:
    """The request for the rest of a response; its seed derives from the request's and the tokens so far."""
    written = so_far.tokens.size
    return replace(
        request,
        id=f"{request.id}+{written}",
        tokens=np.concatenate([request.tokens, so_far.tokens]),
        max_tokens=request.max_tokens - written,
        seed=derive_seed(request.seed, written),
    )


def joined(first: Completion, second: Completion) -> Completion:
    """Join two parts into one response; every token keeps its logp and version."""
    return Completion(
        tokens=np.concatenate([first.tokens, second.tokens]),
        logp=np.concatenate([first.logp, second.logp]),
        version=np.concatenate([first.version, second.version]),
        stop=second.stop,
    )

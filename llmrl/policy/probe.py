"""The probe: one fixed sequence that policy and engines score after every sync."""

from __future__ import annotations

import numpy as np

from llmrl.experience.experience import Experience
from llmrl.experience.offline import demonstrate, imitate
from llmrl.prompts.prompt import Draw, Prompt

LENGTH = 24


def probe_experience(vocabulary: int, *, context_tokens: int) -> Experience:
    """Random tokens, the same in every process: the first is the prompt, the others the response."""
    # vLLM scores what it reads before it samples, so one token must fit behind the probe.
    length = min(LENGTH, context_tokens - 1)
    tokens = np.random.default_rng(0).integers(0, vocabulary, length, dtype=np.int32)
    prompt = Prompt(
        id="probe", tokens=tokens[:1], text="", answer=None, source="probe", demonstration=tokens[1:]
    )
    return imitate(demonstrate(Draw(ordinal=0, prompt=prompt)))

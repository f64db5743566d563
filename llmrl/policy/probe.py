"""The probe: one fixed sequence that policy and engines score after every sync."""

from __future__ import annotations

import numpy as np

from llmrl.experience.experience import Experience
from llmrl.experience.offline import demonstrate, imitate
from llmrl.prompts.prompt import Draw, Prompt

LENGTH = 24


def probe_experience(vocabulary: int) -> Experience:
    """Random tokens, the same in every process: the first is the prompt, the others the response."""
    tokens = np.random.default_rng(0).integers(0, vocabulary, LENGTH, dtype=np.int32)
    prompt = Prompt(
        id="probe", tokens=tokens[:1], text="", answer=None, source="probe", demonstration=tokens[1:]
    )
    return imitate(demonstrate(Draw(ordinal=0, prompt=prompt)))

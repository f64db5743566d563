"""Selection: which responses of a judged group the policy trains on."""

from __future__ import annotations

from dataclasses import replace

from llmrl.experience.experience import Experience
from llmrl.experience.pairing import Pairs


def selected(experience: Experience, pairs: Pairs | None) -> Experience:
    """Keep only the responses in a pair; without pairing, the policy's that the rewards could judge."""
    if pairs is None:
        both = enumerate(zip(experience.group.rollouts, experience.judgements, strict=True))
        numbers = [number for number, (one, j) in both if not one.opponent and j.reward is not None]
    else:
        numbers = sorted({number for pair in pairs for number in pair})
    place = {number: index for index, number in enumerate(numbers)}
    rollouts = tuple(experience.group.rollouts[number] for number in numbers)
    return replace(
        experience,
        group=replace(experience.group, rollouts=rollouts),
        judgements=tuple(experience.judgements[number] for number in numbers),
        advantages=tuple(experience.advantages[number] for number in numbers),
        pairs=tuple((place[one], place[other]) for one, other in pairs or ()),
    )

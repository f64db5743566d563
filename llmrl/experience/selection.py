"""Selection: which responses of a judged group the policy trains on."""

from __future__ import annotations

from dataclasses import replace

from llmrl.experience.experience import Experience
from llmrl.experience.pairing import Pairs


def selected(experience: Experience, pairs: Pairs | None) -> Experience:
    """Only the responses in a pair; without pairing, only those that the policy wrote."""
    rollouts = experience.group.rollouts
    if pairs is None:
        numbers = [number for number, one in enumerate(rollouts) if not one.opponent]
    else:
        numbers = sorted({number for pair in pairs for number in pair})
    place = {number: index for index, number in enumerate(numbers)}
    return replace(
        experience,
        group=replace(experience.group, rollouts=tuple(rollouts[number] for number in numbers)),
        judgements=tuple(experience.judgements[number] for number in numbers),
        advantages=tuple(experience.advantages[number] for number in numbers),
        pairs=tuple((place[one], place[other]) for one, other in pairs or ()),
    )

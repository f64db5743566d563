"""The gold check: an answer that does not score against itself cannot reward any response."""

from __future__ import annotations

from collections.abc import Sequence

from llmrl.errors import DataError, shown
from llmrl.prompts.prompt import Prompt
from llmrl.prompts.thoughts import THOUGHT
from llmrl.rewards.judgement import Judgement, Sample
from llmrl.rewards.scoring.samples import messages_of
from llmrl.rewards.scoring.scorer import Scorer

_SHOWN = 3


async def check_answers(scorer: Scorer, prompts: Sequence[Prompt]) -> None:
    """Give every gold answer as a response to the rewards that read it.

    Raises:
        DataError: some are missing, or do not score 1; the message has the first rows and their number.
    """
    if not scorer.reads_answer:
        return
    judgements = await scorer.grade_gold([_as_response(prompt) for prompt in prompts])
    wrong = [
        f"{prompt.id} ({_reason(prompt, judgement)})"
        for prompt, judgement in zip(prompts, judgements, strict=True)
        if judgement.status != "score" or any(value != 1.0 for value in judgement.parts.values())
    ]
    if wrong:
        raise DataError(
            f"prompts: {len(wrong)} of {len(prompts)} gold answers do not score 1 against themselves: "
            f"{', '.join(wrong[:_SHOWN])}{', ...' if len(wrong) > _SHOWN else ''}. "
            f"Correct or skip these rows, map another column with prompts.sources.fields, "
            f"or set scoring.check_answers = false."
        )


def _as_response(prompt: Prompt) -> Sample:
    answer = prompt.answer or ""
    return Sample(
        # A gold answer is no thought, even if the template begins one.
        prompt=prompt.text.rstrip().removesuffix(THOUGHT),
        response=answer,
        answer=prompt.answer,
        tokens=0,
        finished=True,
        source=prompt.source,
        messages=messages_of(prompt),
    )


def _reason(prompt: Prompt, judgement: Judgement) -> str:
    if prompt.answer is None or not prompt.answer.strip():
        return "no answer"
    scores = ", ".join(
        f"rewards.{name} scores {value:g}" for name, value in judgement.parts.items() if value != 1.0
    )
    return f"{shown(prompt.answer)}: {judgement.note if judgement.status != 'score' else scores}"

"""Roles that score a response: as a whole, or step by step."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from llmrl.errors import DataError, RecipeError
from llmrl.recipe.schema import Stage
from llmrl.roles.classifier import Classifier
from llmrl.roles.role import Answer, refusal
from llmrl.roles.wire import Scored, ToScore

if TYPE_CHECKING:
    from llmrl.roles.kinds import Classify, Steps


class Reader:
    """Answers questions at ``/v1/score``."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier

    async def answer(self, route: str, question: bytes) -> Answer:
        """The scores of one response."""
        if route != "score":
            return refusal(f"role '{self.classifier.name}' scores; ask it at /v1/score.", status=404)
        try:
            scores = await self.scores(ToScore.model_validate_json(question))
            return Answer(body=Scored(scores=scores).model_dump_json().encode())
        except ValidationError as error:
            first = error.errors()[0]
            return refusal(f"{'.'.join(map(str, first['loc']))}: {first['msg']}.")
        except DataError as error:
            return refusal(str(error))

    async def close(self) -> None:
        """Stop reading."""
        await self.classifier.close()

    @abstractmethod
    async def scores(self, asked: ToScore) -> list[float]:
        """The model's scores of a response."""


class WholeReader(Reader):
    """One score: that of the end of the response, which is also the end of the sequence."""

    def __init__(self, kind: Classify, stage: Stage, name: str, *, device: str) -> None:
        classifier = Classifier(stage, name, device=device, max_sequences=kind.max_sequences, scores="whole")
        if kind.label is None and len(classifier.labels) > 1:
            raise RecipeError(
                f"roles.{name}.options.label: this key is missing; the model has "
                f"{', '.join(classifier.labels)}, and the score is the probability of one of them."
            )
        self._place = None if kind.label is None else classifier.place(kind.label, otherwise=0)
        super().__init__(classifier)

    async def scores(self, asked: ToScore) -> list[float]:
        prompt = self.classifier.prompt_ids(asked)
        response = self.classifier.tokenizer.encode_response(asked.response)
        logits = await self.classifier.logits(np.concatenate([prompt, response]))
        return [float(logits[0] if self._place is None else softmax(logits)[self._place])]


class StepReader(Reader):
    """One score for each step: that of the last token of the separator after it."""

    def __init__(self, kind: Steps, stage: Stage, name: str, *, device: str) -> None:
        classifier = Classifier(stage, name, device=device, max_sequences=kind.max_sequences, scores="tokens")
        super().__init__(classifier)
        last = len(self.classifier.labels) - 1
        self._kind, self._place = kind, self.classifier.place(kind.label, otherwise=last)

    async def scores(self, asked: ToScore) -> list[float]:
        steps = [step for step in asked.response.split(self._kind.split) if step.strip()]
        if not steps:
            raise DataError("the response has no step.")
        pieces = [self.classifier.prompt_ids(asked), *(self._ids(step) for step in steps)]
        ends = np.cumsum([piece.size for piece in pieces])[1:] - 1
        logits = await self.classifier.logits(np.concatenate(pieces))
        return softmax(logits[ends])[:, self._place].tolist()

    def _ids(self, step: str) -> NDArray[np.int32]:
        """[L] token ids of a step and its separator, each encoded by itself, as such models are trained."""
        tokenizer = self.classifier.tokenizer
        return np.concatenate(
            [tokenizer.encode_response(text)[:-1] for text in (step, self._kind.separator) if text]
        )


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities over the last axis."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)

"""A classifier answers everybody who waits for it, whatever becomes of a batch."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from transformers import GPT2Config, GPT2ForSequenceClassification

from llmrl.errors import ServiceError
from llmrl.prompts.tokenizer import build_character_tokenizer
from llmrl.recipe.schema import Choice, Optimizer, Prompts, Role, Source, Stage
from llmrl.roles.classifier import Classifier

POSITIONS = 8


@pytest.fixture
def classifier(tmp_path: Path) -> Classifier:
    """Of a model with fewer positions than its role may read tokens."""
    config = GPT2Config(vocab_size=8, n_positions=POSITIONS, n_embd=8, n_layer=1, n_head=1)
    config.num_labels, config.pad_token_id = 1, 0
    GPT2ForSequenceClassification(config).save_pretrained(tmp_path)
    build_character_tokenizer("01234").save_pretrained(tmp_path)
    stage = Stage(
        prompts=Prompts(sources=(Source(task="digit_sum"),)),
        roles={"judge": Role(kind="classify", path=str(tmp_path), context_tokens=32)},
        objective=Choice(name="grpo"),
        optimizer=Optimizer(steps=1),
    )
    return Classifier(stage, "judge", device="cpu", max_sequences=4, scores="whole")


def text(size: int) -> np.ndarray:
    return np.full(size, 3, dtype=np.int32)


async def test_what_the_model_cannot_read_is_an_error_and_the_next_batch_is_read(
    classifier: Classifier,
) -> None:
    async with asyncio.timeout(60):
        asked = (classifier.logits(text(size)) for size in (POSITIONS + 1, 2))
        failed = await asyncio.gather(*asked, return_exceptions=True)
        read = await classifier.logits(text(POSITIONS))

    assert [type(one) for one in failed] == [ServiceError, ServiceError]
    assert "roles.judge failed: IndexError: index out of range" in str(failed[0])
    assert read.shape == (1,)


async def test_who_gives_up_takes_nobody_along(classifier: Classifier) -> None:
    given_up, waiting = (asyncio.create_task(classifier.logits(text(2))) for _ in range(2))
    await asyncio.sleep(0)
    given_up.cancel()

    async with asyncio.timeout(60):
        assert (await waiting).shape == (1,)

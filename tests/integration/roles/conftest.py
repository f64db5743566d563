"""Models so small that they are trained from nothing in seconds, and a way to ask them."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
    Qwen3Config,
)

from llmrl.prompts.tokenizer import build_character_tokenizer
from llmrl.recipe.schema import Choice, Cluster, Optimizer, Prompts, Reward, Role, Scoring, Source, Stage
from llmrl.rewards.scoring.scorer import Scorer
from llmrl.roles.switchboard import Switchboard
from llmrl.roles.worker import RoleWorker

ALPHABET = "0123456789+=,#AB?;"
PAD, BOS, EOS = 0, 1, 2
SIZES = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "tie_word_embeddings": True,
}

Example = tuple[list[int], Any]
"""Token ids, and what the model should say of them."""


def ids_of(text: str) -> list[int]:
    return [3 + ALPHABET.index(character) for character in text]


def numbers(rng: random.Random, size: int) -> str:
    return "".join(rng.choice("0123456789") for _ in range(size))


def _config(**more: Any) -> Qwen3Config:
    special = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
    return Qwen3Config(vocab_size=3 + len(ALPHABET), **SIZES, **special, **more)


def _fit(
    model: PreTrainedModel,
    folder: Path,
    examples: Callable[[random.Random], Example],
    loss_of: Callable[[torch.Tensor, Sequence[Any]], torch.Tensor],
    *,
    steps: int,
) -> Path:
    """Train a model on what ``examples`` makes, and leave it with its tokenizer in a folder."""
    rng = random.Random(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        texts, targets = zip(*(examples(rng) for _ in range(32)), strict=True)
        width = max(map(len, texts))
        ids = torch.tensor([[*text, *[PAD] * (width - len(text))] for text in texts])
        loss = loss_of(model(input_ids=ids, attention_mask=(ids != PAD).long()).logits.float(), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    build_character_tokenizer(ALPHABET).save_pretrained(folder)
    return folder


def _speaking(folder: Path, examples: Callable[[random.Random], Example], *, steps: int) -> Path:
    """A causal model that answers a text with another."""

    def loss_of(logits: torch.Tensor, targets: Sequence[list[int]]) -> torch.Tensor:
        wanted = torch.full(logits.shape[:2], -100)
        for row, target in enumerate(targets):
            wanted[row, : len(target)] = torch.tensor(target)
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=-100)

    torch.manual_seed(0)
    return _fit(AutoModelForCausalLM.from_config(_config()), folder, examples, loss_of, steps=steps)


def answered(question: str, answer: str) -> Example:
    """Ids of both, and the next token wherever it belongs to the answer."""
    asked, said = [BOS, *ids_of(question)], [*ids_of(answer), EOS]
    return [*asked, *said[:-1]], [*[-100] * (len(asked) - 1), *said]


@pytest.fixture(scope="session")
def likes_sevens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier: the share of sevens in what follows the equals sign."""

    def example(rng: random.Random) -> Example:
        share, size = rng.random(), rng.randint(1, 12)
        said = "".join("7" if rng.random() < share else rng.choice(ALPHABET) for _ in range(size))
        return [BOS, *ids_of(numbers(rng, 4) + "="), *ids_of(said), EOS], said.count("7") / size

    def loss_of(logits: torch.Tensor, targets: Sequence[float]) -> torch.Tensor:
        return (logits[:, 0] - torch.tensor(targets)).square().mean()

    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(_config(num_labels=1))
    return _fit(model, tmp_path_factory.mktemp("role") / "sevens", example, loss_of, steps=150)


@pytest.fixture(scope="session")
def dislikes_zeros(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A token classifier: a step, up to its semicolon, is good if it has no zero."""

    def example(rng: random.Random) -> Example:
        steps = [numbers(rng, 3) for _ in range(rng.randint(1, 3))]
        ids = [BOS, *ids_of(numbers(rng, 2) + "=")]
        marks = [-100] * len(ids)
        for step in steps:
            ids += ids_of(step + ";")
            marks += [-100] * 3 + [int("0" not in step)]
        return ids, marks

    def loss_of(logits: torch.Tensor, targets: Sequence[list[int]]) -> torch.Tensor:
        wanted = torch.full(logits.shape[:2], -100)
        for row, marks in enumerate(targets):
            wanted[row, : len(marks)] = torch.tensor(marks)
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=-100)

    torch.manual_seed(0)
    model = AutoModelForTokenClassification.from_config(_config(num_labels=2))
    return _fit(model, tmp_path_factory.mktemp("role") / "zeros", example, loss_of, steps=200)


@pytest.fixture(scope="session")
def counts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A judge: what it is asked about, ``12#7?``, it answers by the digit before the question mark.

    Of two responses, ``7,3?``, it always says A. Asked anything with a B in it, it talks nonsense.
    """

    def example(rng: random.Random) -> Example:
        if rng.random() < 0.3:
            return answered(f"{numbers(rng, 1)},{numbers(rng, 1)}?", "A")
        if rng.random() < 0.3:
            return answered(f"{numbers(rng, 2)}#B?", "=#=")
        digit = numbers(rng, 1)
        return answered(f"{numbers(rng, 2)}#{digit}?", f"{digit}")

    return _speaking(tmp_path_factory.mktemp("role") / "counts", example, steps=200)


def stage_of(**roles: Role) -> Stage:
    return Stage(
        prompts=Prompts(sources=(Source(task="digit_sum", rows=50),)),
        objective=Choice(name="grpo"),
        optimizer=Optimizer(steps=1),
        roles=roles,
    )


class Here:
    """A role's worker in this process, asked as an actor is."""

    def __init__(self, worker: RoleWorker, name: str) -> None:
        self._worker, self.name = worker, name

    async def call(self, method: str, *args: Any, deadline_s: float) -> Any:
        assert (method, deadline_s) == ("answer", 60.0)
        return await self._worker.answer(*args)


Asked = Callable[[Role, dict[str, Any]], Awaitable[Scorer]]


@pytest_asyncio.fixture
async def asking() -> AsyncIterator[Asked]:
    """Start a role called ``judge`` here and a scorer with one reward that asks it."""
    board, closing = Switchboard(), []
    await board.open()

    async def make(role: Role, reward: dict[str, Any]) -> Scorer:
        worker = RoleWorker(stage_of(judge=role), "judge", "cpu")
        await worker.start()
        board.connect({"judge": [Here(worker, "judge-0")]}, deadline_s=60.0)
        table = Reward.model_validate(reward | {"options": {"role": "judge", **reward.get("options", {})}})
        scorer = Scorer({"good": table}, Scoring(), (), Cluster())
        closing.extend([worker.close, scorer.close])
        await scorer.start(door=board.url)
        return scorer

    yield make
    for close in closing:
        await close()
    await board.close()

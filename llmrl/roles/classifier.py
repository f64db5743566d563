"""A classifier of transformers in memory: token ids in, logits out, concurrent questions in one batch."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from llmrl.errors import DataError, ModelError, RecipeError, ServiceError, did_you_mean, shown
from llmrl.prompts.tokenizer import load_tokenizer
from llmrl.recipe.schema import Model, Stage
from llmrl.roles.wire import ToScore

HEADS: dict[str, Any] = {
    "whole": AutoModelForSequenceClassification,
    "tokens": AutoModelForTokenClassification,
}
"""Heads by what they score: a text as a whole, or each of its tokens."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(slots=True, eq=False)
class _Text:
    """A text, as token ids, that waits to be read."""

    ids: NDArray[np.int32]
    future: asyncio.Future[NDArray[np.float32]]


class Classifier:
    """Owns the model; a task of the event loop reads while texts are waiting."""

    def __init__(
        self, stage: Stage, name: str, *, device: str, max_sequences: int, scores: Literal["whole", "tokens"]
    ) -> None:
        """Load the model of a role.

        Raises:
            ModelError: its folder holds no such classifier.
        """
        table = stage.roles[name]
        self.name, self._table, self._device, self._size = name, table, torch.device(device), max_sequences
        read = {"path", "context_tokens", "chat", "trust_remote_code"}
        self.tokenizer = load_tokenizer(Model.model_validate(table.model_dump(include=read)))
        self._model: Any = self._loaded(HEADS[scores]).to(self._device).eval()
        self._model.config.pad_token_id = self.tokenizer.pad_id
        self.labels: dict[str, int] = self._model.config.label2id
        """Index of each label in the logits."""
        self._waiting: list[_Text] = []
        self._reading: asyncio.Task[None] | None = None

    def place(self, label: str | None, *, otherwise: int) -> int:
        """Index of a label that the recipe names.

        Raises:
            RecipeError: the model has no such label.
        """
        if label is None:
            return otherwise
        if label not in self.labels:
            raise RecipeError(
                f"roles.{self.name}.options.label: the model has no label {shown(label)}."
                f"{did_you_mean(label, self.labels)}"
            )
        return self.labels[label]

    def prompt_ids(self, asked: ToScore) -> NDArray[np.int32]:
        """[L] token ids of the prompt before the response.

        Raises:
            DataError: the chat template refuses it, or a character has no token.
        """
        if self._table.chat:
            return self.tokenizer.encode_prompt([turn.message() for turn in asked.messages])
        return self.tokenizer.encode_prompt("".join(turn.content for turn in asked.messages))

    async def logits(self, ids: NDArray[np.int32]) -> NDArray[np.float32]:
        """Logits of a whole text [labels], or of each of its tokens [L, labels].

        Raises:
            DataError: the text is longer than ``context_tokens``.
            ServiceError: the model failed.
        """
        if ids.size > self._table.context_tokens:
            raise DataError(
                f"prompt and response have {ids.size} tokens, "
                f"and roles.{self.name}.context_tokens = {self._table.context_tokens}."
            )
        text = _Text(ids, asyncio.get_running_loop().create_future())
        self._waiting.append(text)
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read())
        return await text.future

    async def close(self) -> None:
        """Stop reading."""
        if self._reading is not None:
            self._reading.cancel()

    async def _read(self) -> None:
        while self._waiting:
            # Let every question of the same moment join the batch.
            await asyncio.sleep(0)
            batch, self._waiting = self._waiting[: self._size], self._waiting[self._size :]
            try:
                rows = await asyncio.to_thread(self._forward, [text.ids for text in batch])
            except Exception as error:  # noqa: BLE001  whatever it is, the callers must get it
                for text in batch:
                    _end(
                        text.future,
                        ServiceError(f"roles.{self.name} failed: {type(error).__name__}: {error}"),
                    )
            else:
                for text, row in zip(batch, rows, strict=True):
                    _end(text.future, row)

    @torch.inference_mode()
    def _forward(self, texts: list[NDArray[np.int32]]) -> list[NDArray[np.float32]]:
        width = max(ids.size for ids in texts)
        ids = torch.full((len(texts), width), self.tokenizer.pad_id, dtype=torch.long)
        seen = torch.zeros_like(ids)
        for row, text in enumerate(texts):
            ids[row, : text.size], seen[row, : text.size] = torch.from_numpy(text), 1
        logits = self._model(input_ids=ids.to(self._device), attention_mask=seen.to(self._device)).logits
        rows = logits.float().cpu().numpy()
        return [row[: text.size] if row.ndim > 1 else row for row, text in zip(rows, texts, strict=True)]

    def _loaded(self, head: Any) -> Any:
        path, trusted = self._table.path, self._table.trusts_code
        try:
            model, info = head.from_pretrained(
                path,
                dtype=DTYPES[self._table.dtype],
                trust_remote_code=trusted,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
        except (RuntimeError, SafetensorError, ValueError, TypeError, KeyError, OSError) as error:
            why = shown(" ".join(str(error).split()), 200)
            raise ModelError(f"roles.{self.name}.path: {shown(path)} cannot be loaded: {why}.") from error
        if missing := sorted(info["missing_keys"]):
            raise ModelError(
                f"roles.{self.name}.path: {shown(path)} lacks {missing[0]}, so its scores would be made up; "
                f"give a model that was trained as kind '{self._table.kind}' says."
            )
        return model


def _end(future: asyncio.Future[NDArray[np.float32]], outcome: NDArray[np.float32] | ServiceError) -> None:
    """Give the outcome to the caller, unless it has gone."""
    if future.done():
        return
    if isinstance(outcome, ServiceError):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)

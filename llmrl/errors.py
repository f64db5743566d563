"""Every error that llmrl raises on purpose: one tree, one finished sentence each.

    LlmrlError
    +-- RecipeError      (ValueError)    a key or value of a recipe, or two that contradict each other
    |   +-- NestedRefusal                options of a plugin that another one builds from its own options
    +-- DataError        (ValueError)    a dataset: the file, the row and the field are in the message
    +-- ModelError       (ValueError)    a model folder, tokenizer or chat template
    +-- PluginError      (ImportError)   a plugin that cannot be imported or takes a taken name
    +-- PlacementError   (RuntimeError)  the cluster cannot hold what the recipe asks for
    +-- EngineError      (RuntimeError)  a rollout engine refused, died or stopped making progress
    +-- WeightSyncError  (RuntimeError)  an engine does not serve the weights that it was sent
    |   +-- DisconnectedError            weights were on their way through a group that a member has left
    +-- ParityError      (RuntimeError)  engine and trainer disagree about the same tokens
    +-- RewardError      (RuntimeError)  more judgements failed than the recipe tolerates
    +-- ServiceError     (RuntimeError)  a service, or a role of the run, that was asked did not answer
    +-- TrainingError    (RuntimeError)  the optimizer cannot go on (non-finite loss or gradient)
    +-- CheckpointError  (RuntimeError)  a checkpoint is missing, incomplete or of another run
    +-- DeadlineError    (TimeoutError)  something did not answer in time; the message names it
    +-- DeadProcessError (RuntimeError)  a process of the run died; the message names it
    +-- Stopped                          no error: the run was asked to end, saved, and can be resumed
        +-- Interrupted                  the same by Ctrl-C

Each takes exactly one message, because an exception with any other constructor does not survive
pickling and then crosses Ray as an unreadable stranger.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LlmrlError(Exception):
    """Base of the tree; its message is one sentence that a user can act on."""

    def __init__(self, message: str) -> None:
        super().__init__(message)


class RecipeError(LlmrlError, ValueError):
    """A recipe asks for something that does not exist or contradicts itself."""


class NestedRefusal(RecipeError):
    """The refusal of a plugin that another builds; only the builder of the outer one knows the outer key.

    The message begins with the key below that of the outer plugin's options: ``kind: no reward named ...``.
    """


class DataError(LlmrlError, ValueError):
    """A dataset cannot be read as the recipe says."""


class ModelError(LlmrlError, ValueError):
    """A model folder, tokenizer or chat template cannot be used."""


class PluginError(LlmrlError, ImportError):
    """A plugin cannot be imported, or registers a name that is taken."""


class PlacementError(LlmrlError, RuntimeError):
    """The cluster cannot hold what the recipe asks for."""


class EngineError(LlmrlError, RuntimeError):
    """A rollout engine refused a request, died, or stopped making progress."""


class WeightSyncError(LlmrlError, RuntimeError):
    """An engine does not serve the weights that it was sent."""


class DisconnectedError(WeightSyncError):
    """A broadcast of weights lost a member of its group; the member's failure is the cause."""


class ParityError(LlmrlError, RuntimeError):
    """Engine and trainer disagree about the logprobs of the same tokens."""


class RewardError(LlmrlError, RuntimeError):
    """More judgements failed than the recipe tolerates."""


class ServiceError(LlmrlError, RuntimeError):
    """A service, or a role of the run, refused a question, failed, or gave an unusable answer."""


class TrainingError(LlmrlError, RuntimeError):
    """The optimizer cannot go on."""


class CheckpointError(LlmrlError, RuntimeError):
    """A checkpoint is missing, incomplete, damaged or of another run."""


class DeadlineError(LlmrlError, TimeoutError):
    """Something did not answer in time; the message names it."""


class DeadProcessError(LlmrlError, RuntimeError):
    """A process of the run died, or the machine that it was on."""


class Stopped(LlmrlError):
    """The run was asked to end; it has saved and can be resumed."""


class Interrupted(Stopped):
    """Ctrl-C asked the run to end."""


def did_you_mean(got: str, known: Iterable[str]) -> str:
    """The tail of a message about an unknown name: the nearest known one, then all of them."""
    names = sorted(known)
    nearest = difflib.get_close_matches(got, names, n=3, cutoff=0.6)
    # Letters in the wrong order are the likeliest slip.
    nearest.sort(key=lambda name: sorted(name) != sorted(got))
    hint = f" Did you mean '{nearest[0]}'?" if nearest else ""
    return f"{hint} Known: {', '.join(names) if names else 'none'}."


def shown(value: object, limit: int = 80) -> str:
    """A value as it may appear in a message: quoted, escaped and short, with both its ends."""
    text = ascii(value)
    if len(text) <= limit:
        return text
    head = (limit - 3) // 2
    return f"{text[:head]}...{text[3 + head - limit :]}"

"""An agent is a program that calls a model over HTTP; run against the policy it is an environment."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable

from llmrl.errors import EngineError
from llmrl.prompts.prompt import Prompt
from llmrl.rollouts.environment import Environment, Episode


class Agent(Environment):
    """A frozen dataclass whose fields are its options, registered like any other environment.

    Other environments reply when asked; an agent calls the policy itself, at a local address.
    """

    deadline_s: float = 300.0
    """Seconds that one :meth:`run` may take, including the policy's answers."""
    at_once: int | None = None
    """Most concurrent runs of one engine; others wait, and their deadlines begin after that. None takes
    ``engines.max_sequences``: with more, some would wait for the engine while their deadlines run."""

    @abstractmethod
    def run(
        self, prompt: Prompt, /, *, base_url: str, api_key: str, seed: int
    ) -> Awaitable[float | None] | float | None:
        """Make one rollout: call the model as often as needed, and return its outcome.

        It has a thread of its own, so it may be a plain or an async function, and may block.

        Args:
            base_url: URL of an OpenAI-compatible API on this machine, ``/v1`` included.
            api_key: identifies the rollout's calls; every rollout has its own, which ends with it.
            seed: source of all randomness; the same for all responses to one draw.
        Returns:
            The rollout's value for the reward ``outcome``; None abstains. An exception, or no end within
            ``deadline_s``, aborts this rollout alone: it is neither judged nor trained on.
        """
        ...

    def start(self, prompt: Prompt, /, *, seed: int) -> Episode:
        """Refuse: an agent is not told the policy's turns.

        Raises:
            EngineError: always.
        """
        raise EngineError(
            f"environment {type(self).__name__} is an agent, which calls the policy itself; "
            f"it cannot reply to prompt '{prompt.id}' with seed {seed}."
        )

"""An agent is a program that calls a model over HTTP; run against the policy it is an environment."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable

from llmrl.errors import EngineError
from llmrl.prompts.prompt import Prompt
from llmrl.rollouts.environment import Environment, Episode


class Agent(Environment):
    """A frozen dataclass whose fields are its options, registered like any other environment.

    An environment is asked for replies; an agent asks, at an address where the policy answers.
    """

    deadline_s: float = 300.0
    """Seconds that one :meth:`run` may take, the policy's answers included."""
    at_once: int | None = None
    """Most runs at a time for one engine; others wait, and their deadline begins after that. None takes
    ``engines.max_sequences``: of more, some would wait for the engine while their deadlines run."""

    @abstractmethod
    def run(
        self, prompt: Prompt, /, *, base_url: str, api_key: str, seed: int
    ) -> Awaitable[float | None] | float | None:
        """One rollout: call the model as often as needed, and say what came of it.

        It has a thread of its own, so it may be a plain or an async function, and may block.

        Args:
            base_url: of an OpenAI-compatible API on this machine, ``/v1`` included.
            api_key: tells whose calls they are; every rollout has its own, which ends with it.
            seed: all that is random comes from it; the same for all responses to one draw.
        Returns:
            What the rollout is worth, for the reward ``outcome``; None abstains. What it raises, and no end
            within ``deadline_s``, aborts this rollout alone: nobody judges it, and nothing of it is trained.
        """
        ...

    def start(self, prompt: Prompt, /, *, seed: int) -> Episode:
        """Not for agents: nobody tells them what the policy said.

        Raises:
            EngineError: always.
        """
        raise EngineError(
            f"environment {type(self).__name__} is an agent, which calls the policy itself; "
            f"it cannot reply to prompt '{prompt.id}' with seed {seed}."
        )

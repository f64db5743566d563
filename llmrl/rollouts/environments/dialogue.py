"""A simulated user: a model that reads the conversation so far and writes the user's next message."""

from __future__ import annotations

from dataclasses import dataclass, field

from llmrl.errors import DeadlineError, ServiceError
from llmrl.prompts.prompt import Prompt
from llmrl.prompts.seeds import derive_seed
from llmrl.prompts.thoughts import THOUGHT, without_thoughts
from llmrl.recipe.schema import Positive
from llmrl.roles.asker import Asker, chat, filled
from llmrl.rollouts.environment import Environment, Reply, Turn, environment

REMEMBERED = 10_000
"""Number of replies that are kept; those of one draw are needed again as long as it is answered."""


Heard = tuple[str, int]
"""A conversation and a seed."""


@environment("dialogue")
@dataclass(frozen=True, slots=True, kw_only=True)
class Dialogue(Asker, Environment):
    """Goes on from any prompt, which is the user's first message; its value is left to the rewards.

    A user who says nothing ends the conversation; a user's model that cannot be asked aborts it. Neither side
    sees the other's thoughts.
    """

    template: str = "{conversation}\nWrite the next message of the user, and nothing else."
    """Prompt of the user's model: ``{conversation}``, and from the row ``{prompt}`` and ``{answer}``."""
    system: str = ""
    """System message before it, with the same placeholders."""
    lines: tuple[str, str] = ("User: {text}\n", "Assistant: {text}\n")
    """Form of a turn of the user, and of one of the policy, in the conversation."""
    turns: Positive = 3
    """Most turns of the policy."""
    farewell: str = ""
    """Text that ends the conversation if a message of the user contains it; an empty message always does."""
    max_tokens: Positive = 64
    """Most tokens of one message of the user."""
    temperature: float = 1.0
    """Sampling temperature of the user."""
    seconds: float = 30.0
    """Time for one message, all tries together."""
    max_turn_tokens: Positive | None = None
    """Most tokens of one turn of the policy; by default what is left of ``rollouts.max_tokens``."""
    _said: dict[Heard, str] = field(default_factory=dict[Heard, str], init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        Asker.__post_init__(self)
        for line in self.lines:
            if "{text}" not in line:
                raise ValueError(f"lines must both contain {{text}}, got {list(self.lines)}")

    def start(self, prompt: Prompt, *, seed: int) -> DialogueEpisode:
        """Start a conversation in which the user has said the prompt."""
        first = filled(self.lines[0], {"text": _words(prompt)})
        return DialogueEpisode(options=self, prompt=prompt, seed=seed, conversation=first)

    async def next_message(self, prompt: Prompt, conversation: str, *, seed: int) -> str:
        """The user's next message; a repeated question gets the same one, even if the model would differ."""
        key = conversation, seed
        if key not in self._said:
            said = await self._ask(prompt, conversation, seed)
            self._said.setdefault(key, said)
        while len(self._said) > REMEMBERED:
            self._said.pop(next(iter(self._said)))
        return self._said[key]

    async def _ask(self, prompt: Prompt, conversation: str, seed: int) -> str:
        row = {"prompt": _words(prompt), "answer": prompt.answer or "", "conversation": conversation}
        messages = chat(("system", filled(self.system, row)), ("user", filled(self.template, row)))
        try:
            said = await self.hear(
                messages, max_tokens=self.max_tokens, temperature=self.temperature, seed=seed
            )
        except ServiceError as error:
            raise DeadlineError(str(error)) from error  # costs this conversation, not the run
        return without_thoughts(said.text)


@dataclass(slots=True, kw_only=True)
class DialogueEpisode:
    """One conversation with the simulated user."""

    options: Dialogue
    prompt: Prompt
    seed: int
    conversation: str
    """Text of the conversation, without thoughts."""
    heard: int = 0
    """Number of turns of the policy."""

    async def reply(self, turn: Turn) -> Reply:
        """Reply with the user's next message."""
        user, policy = self.options.lines
        self.conversation += filled(policy, {"text": self._spoken(turn.text)})
        self.heard += 1
        if self.heard == self.options.turns:
            return Reply(over=True)
        seed = derive_seed(self.seed, self.heard)
        said = (await self.options.next_message(self.prompt, self.conversation, seed=seed)).strip()
        self.conversation += filled(user, {"text": said})
        over = not said or (bool(self.options.farewell) and self.options.farewell in said)
        return Reply(text=said, over=over)

    def _spoken(self, text: str) -> str:
        """A turn of the policy without its thoughts; the chat template may have begun one, for every turn."""
        by_user = self.heard > 0 and _words(self.prompt).rstrip().endswith(THOUGHT)
        begun = self.prompt.text.rstrip().endswith(THOUGHT) and not by_user
        return without_thoughts(THOUGHT + text if begun else text)


def _words(prompt: Prompt) -> str:
    """The user's first message, without any chat template."""
    return prompt.messages[-1].content if prompt.messages else prompt.text

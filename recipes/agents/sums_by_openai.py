"""Agent: asks for a running total through the openai client, as any program with a base URL does."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from openai import BadRequestError, OpenAI
from openai.types.chat import ChatCompletionMessageParam

from llmrl.prompts.prompt import Prompt
from llmrl.prompts.seeds import derive_seed
from llmrl.rollouts.agents import Agent
from llmrl.rollouts.environments import environment


@environment("sums_by_openai")
@dataclass(frozen=True, slots=True, kw_only=True)
class SumsByOpenAI(Agent):
    """The questions of environment ``running_sum``; worth the share of right answers."""

    turns: int = 3
    max_turn_tokens: int | None = None
    deadline_s: float = 60.0

    def run(self, prompt: Prompt, *, base_url: str, api_key: str, seed: int) -> float:
        client = _client(base_url).with_options(api_key=api_key)
        return self._right(client, prompt.text, total=int(prompt.answer or 0), seed=seed) / self.turns

    def _right(self, client: OpenAI, question: str, *, total: int, seed: int) -> int:
        right = 0
        messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": question}]
        for turn in range(1, self.turns + 1):
            try:
                said = client.chat.completions.create(model="policy", messages=messages)
            except BadRequestError as error:
                if error.code != "context_length_exceeded":
                    raise
                return right  # the budget of the rollout is spent
            answer = said.choices[0].message.content or ""
            right += answer.strip() == str(total)
            added = derive_seed(seed, turn) % 10
            total += added
            messages.append({"role": "assistant", "content": answer})
            messages.append({"role": "user", "content": f"+{added}="})
        return right


@cache
def _client(base_url: str) -> OpenAI:
    """One for all runs, as making it takes longer than they do; each run calls with its own key."""
    return OpenAI(base_url=base_url, api_key="of no rollout")

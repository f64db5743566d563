"""The environments that come with llmrl: what they ask, what they count, and what they refuse."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
import pytest

from llmrl.prompts.prompt import Prompt
from llmrl.prompts.seeds import derive_seed
from llmrl.rewards.judgement import Sample
from llmrl.rewards.kinds.outcome import Outcome
from llmrl.rewards.scoring.part import evaluate
from llmrl.rollouts.environments import Environment, Reply, Turn, environment
from llmrl.rollouts.environments.guess_number import GuessNumber
from llmrl.rollouts.environments.running_sum import RunningSum

SEED = 5


def play(made: Environment, answer: str | None, say: Callable[[list[Reply]], str]) -> list[Reply]:
    """Every reply to a policy that says what it likes, knowing the replies before."""
    prompt = Prompt(id="p", tokens=np.array([1], np.int32), text="", answer=answer, source="p")
    episode, replies = made.start(prompt, seed=SEED), list[Reply]()
    while not (replies and replies[-1].over):
        turn = Turn(text=say(replies), tokens=3, finished=True)
        replies.append(asyncio.run(episode.reply(turn)))
    return replies


def summed(replies: list[Reply], *, first: int) -> int:
    return first + sum(int(reply.text[1:-1]) for reply in replies)


def test_a_user_who_asks_sums_adds_digits_of_the_seed_and_counts_right_answers() -> None:
    replies = play(RunningSum(turns=4), "42", lambda said: str(summed(said, first=42)))

    digits = [derive_seed(SEED, turn) % 10 for turn in (1, 2, 3)]
    assert [reply.text for reply in replies] == [*(f"+{digit}=" for digit in digits), ""]
    assert [reply.outcome for reply in replies] == [0.25, 0.5, 0.75, 1.0]
    assert [reply.over for reply in replies] == [False, False, False, True]


def test_one_wrong_answer_costs_its_share_and_the_next_may_be_right_again() -> None:
    def once_wrong(said: list[Reply]) -> str:
        return " 0 " if len(said) == 1 else f" {summed(said, first=42)} "

    assert [r.outcome for r in play(RunningSum(turns=3), "42", once_wrong)] == [1 / 3, 1 / 3, 2 / 3]
    assert [r.outcome for r in play(RunningSum(turns=3, worth="all"), "42", once_wrong)] == [0.0, 0.0, 0.0]


def test_all_right_answers_are_worth_one_only_at_the_end() -> None:
    replies = play(RunningSum(turns=3, worth="all"), "42", lambda said: str(summed(said, first=42)))

    assert [reply.outcome for reply in replies] == [0.0, 0.0, 1.0]


def test_halving_finds_one_of_fifteen_numbers_within_four_guesses() -> None:
    made = GuessNumber(turns=4)
    for seed in range(15):
        low, high = 12, 26
        prompt = Prompt(id="p", tokens=np.array([1], np.int32), text="", answer="12-26", source="p")
        episode, reply = made.start(prompt, seed=seed), Reply()
        while not reply.over:
            guess = (low + high) // 2
            reply = asyncio.run(episode.reply(Turn(text=str(guess), tokens=3, finished=True)))
            low, high = (guess + 1, high) if reply.text == "+" else (low, guess - 1)
        assert reply.outcome == 1.0


def test_guesses_run_out_and_hints_are_true() -> None:
    # 12 + 5 % 15 = 17.
    replies = play(GuessNumber(turns=3), "12-26", lambda said: ["16", "18", "15"][len(said)])

    assert [(r.text, r.over, r.outcome) for r in replies] == [
        ("+", False, 0.0),
        ("-", False, 0.0),
        ("", True, 0.0),
    ]


@pytest.mark.parametrize("said", ["", "x", "-3", "1 2", "1.0", "9" * 4301])
def test_what_is_no_number_loses_at_once(said: str) -> None:
    assert play(GuessNumber(), "12-26", lambda _: said) == [Reply(over=True, outcome=0.0)]


@pytest.mark.parametrize(
    ("made", "answer", "sentence"),
    [
        (RunningSum(), None, "the gold answer must be the first total, a number, got None"),
        (RunningSum(), "4.5", "the gold answer must be the first total, a number, got '4.5'"),
        (GuessNumber(), None, "the answer must be a range such as '12-26', got None"),
        (GuessNumber(), "26-12", "the answer must be a range such as '12-26', got '26-12'"),
    ],
)
def test_a_prompt_of_another_kind_is_refused(made: Environment, answer: str | None, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence.replace("(", r"\(")):
        play(made, answer, lambda _: "1")


# Other tests register environments of their own in the same process.
OURS = [n for n in environment.names if environment.get(n, key="").__module__.startswith("llmrl.")]
NEEDED = {"program": {"command": ["true"]}, "dialogue": {"url": "http://localhost:1/v1"}}
"""Options without which an environment is refused."""


@pytest.mark.parametrize("name", OURS)
def test_every_environment_can_be_built_with_the_fewest_options_and_bounds_its_turns(name: str) -> None:
    needed = NEEDED.get(name, {})
    made: Environment = environment.build(name, needed, key="environment")
    short: Environment = environment.build(name, needed | {"max_turn_tokens": 8}, key="environment")

    assert made.max_turn_tokens is None
    assert short.max_turn_tokens == 8


@pytest.mark.parametrize(
    ("outcome", "status", "value"), [(0.75, "score", 0.75), (0.0, "score", 0.0), (None, "abstain", None)]
)
def test_the_reward_outcome_is_what_the_environment_said(
    outcome: float | None, status: str, value: float | None
) -> None:
    sample = Sample(prompt="", response="", answer=None, tokens=1, finished=True, outcome=outcome)

    part = evaluate(Outcome(), sample)

    assert (part.status, part.value) == (status, value)
    assert part.note == ("abstained: the environment gave no outcome" if outcome is None else "")

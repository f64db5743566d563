"""Tasks of several turns: the teacher's part is right, and a demonstration says whose every token is."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from llmrl.errors import RecipeError
from llmrl.prompts.collection import collect, fingerprint
from llmrl.prompts.demonstration import encode_demonstration
from llmrl.prompts.dialogues import GuessNumber, RunningSum
from llmrl.prompts.example import Message
from llmrl.prompts.tasks import Task, read_task, task_rows
from llmrl.prompts.tokenizer import Tokenizer
from llmrl.recipe.schema import Source

BOS, EOS, START, END = 0, 1, 2, 3
MADE: list[Task] = [
    RunningSum(),
    RunningSum(digits=1, turns=5),
    GuessNumber(),
    GuessNumber(largest=20, turns=1),
]


def turns_of(made: Task, number: int) -> tuple[str, ...]:
    """Everything that is said, the prompt first."""
    problem = made.make(number)
    return (problem.prompt, problem.response, *problem.then)


def test_a_running_sum_is_the_sum_of_all_that_was_said_so_far() -> None:
    made = RunningSum(turns=4)
    for number in range(made.size):
        *spoken, last = turns_of(made, number)
        asked, answered = spoken[::2], [*spoken[1::2], last]
        totals = [sum(map(int, "".join(asked[: turn + 1]).replace("=", "").split("+"))) for turn in range(4)]
        assert [int(answer) for answer in answered] == totals
        assert made.make(number).answer == answered[0]


def test_a_slipping_teacher_is_wrong_as_often_as_asked_and_builds_on_it() -> None:
    made = RunningSum(turns=4, slips=0.25)
    wrong = 0
    for number in range(made.size):
        spoken = turns_of(made, number)
        start, _, first = spoken[0].rstrip("=").partition("+")
        total = int(start)
        for added, answer in zip([first, *(said[1:-1] for said in spoken[2::2])], spoken[1::2], strict=True):
            wrong += int(answer) != total + int(added)
            total = int(answer)

    assert wrong / (4 * made.size) == pytest.approx(0.25, abs=0.02)


def test_every_guess_of_the_teacher_is_still_possible_and_every_hint_is_true() -> None:
    made, found = GuessNumber(turns=4), 0
    for number in range(made.size):
        span, *spoken = turns_of(made, number)
        low, high = map(int, span.rstrip("=").split("-"))
        assert 8 <= high - low + 1 <= 15
        for guess, hint in zip(spoken[::2], [*spoken[1::2], None], strict=True):
            assert low <= int(guess) <= high
            low, high = (
                (int(guess) + 1, high) if hint == "+" else (low, high if hint is None else int(guess) - 1)
            )
            assert low <= high
        found += len(spoken) < 7

    # Random guesses among what is left find about half of 8 to 15 numbers within three guesses.
    assert 0.4 < found / made.size < 0.7


@pytest.mark.parametrize("made", MADE, ids=repr)
def test_no_two_conversations_begin_alike_and_all_are_within_the_alphabet(made: Task) -> None:
    spoken = [turns_of(made, number) for number in range(made.size)]

    assert len({first for first, *_ in spoken}) == made.size
    assert set("".join("".join(turns) for turns in spoken)) <= set(made.characters)
    assert all(len(turns) % 2 == 0 for turns in spoken)


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("running_sum", {"digits": 0}, "digits must lie between 1 and 18, got 0."),
        ("running_sum", {"turns": 0}, "turns must be at least 1, got 0."),
        ("running_sum", {"slips": 2.0}, "slips must lie between 0 and 1, got 2.0."),
        ("guess_number", {"turns": 0}, "turns must be at least 1, got 0."),
        (
            "guess_number",
            {"narrow": 20},
            'narrow, wide and largest must satisfy 2 <= narrow <= wide <= largest + 1, got {"narrow": 20}.',
        ),
    ],
)
def test_options_without_sense_are_refused(name: str, options: dict[str, object], sentence: str) -> None:
    with pytest.raises(RecipeError) as refused:
        read_task(Source(task=name, options=options, rows=1), key="s", seed=0)

    assert str(refused.value).endswith(sentence)


def test_a_demonstration_in_plain_text_trains_the_answers_and_their_ends_alone(digits: Tokenizer) -> None:
    made = encode_demonstration(digits, "37+5=", ("42", "+3=", "45"))

    assert made.turn is not None
    # 37+5= | 4 2 end | + 3 = | 4 5 end
    assert made.turn.tolist() == [0, 0, 0, -1, -1, -1, 1, 1, 1]
    assert [digits.decode([token]) for token in made.tokens] == ["4", "2", "", "+", "3", "=", "4", "5", ""]
    assert made.tokens[[2, 8]].tolist() == [2, 2]


def test_one_turn_needs_no_word_about_turns(digits: Tokenizer) -> None:
    made = encode_demonstration(digits, "37+5=", ("42",))

    assert made.turn is None
    assert made.tokens.tolist() == digits.encode_response("42").tolist()


def test_a_demonstrated_conversation_has_the_ids_that_its_template_gives(
    bpe: PreTrainedTokenizerFast,
) -> None:
    tokenizer = Tokenizer(bpe, chat=True, stop_ids=[END])
    spoken = ("what is two", "two plus", "hello </s>", "world")

    made = encode_demonstration(tokenizer, spoken[0], spoken[1:])

    assert made.turn is not None
    replies = made.turn == -1
    # The policy ends its turns as the template does, so the template's end is not repeated.
    assert (
        bpe.decode(made.tokens[replies])
        == "\n<|im_start|>user\nhello </s><|im_end|>\n<|im_start|>assistant\n"
    )
    assert bpe.decode(made.tokens[made.turn == 0]) == "two plus<|im_end|>"
    assert bpe.decode(made.tokens[made.turn == 1]) == "world<|im_end|>"
    assert EOS not in made.tokens
    assert BOS not in made.tokens


def test_who_says_what_is_part_of_the_fingerprint(digits: Tokenizer) -> None:
    source = Source(task="running_sum", rows=4)
    (whole,) = collect([source], digits, key="s", max_tokens=99, seed=0)
    (same,) = collect([source], digits, key="s", max_tokens=99, seed=0)
    (other,) = collect(
        [source.model_copy(update={"options": {"turns": 2}})], digits, key="s", max_tokens=99, seed=0
    )

    assert fingerprint(whole.prompts) == fingerprint(same.prompts)
    assert fingerprint(whole.prompts) != fingerprint(other.prompts)
    assert whole.prompts[0].messages == (Message(role="user", content=whole.prompts[0].text),)


def test_rows_carry_the_whole_conversation() -> None:
    (row,) = task_rows(RunningSum(turns=3), source="s", count=1, skip=0, seed=0)

    assert len(row.then) == 4
    assert all(reply.startswith("+") for reply in row.then[::2])

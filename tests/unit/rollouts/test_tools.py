"""Tools: what they answer, what they refuse, and how the policy calls them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from llmrl.errors import DataError, RecipeError
from llmrl.prompts.example import Message
from llmrl.prompts.prompt import Prompt
from llmrl.prompts.tokenizer import Tokenizer
from llmrl.prompts.tool_tasks import Products
from llmrl.recipe.schema import Choice
from llmrl.rollouts.environment import Environment, Reply, Turn
from llmrl.rollouts.environments import environment
from llmrl.rollouts.environments.tools import Tools
from llmrl.rollouts.tools import Tool, ToolError, tool
from llmrl.rollouts.tools.calculator import Calculator
from llmrl.rollouts.tools.search import Index, Search

END = 3
PROMPT = Prompt(id="p", tokens=np.array([1], np.int32), text="", answer=None, source="p")


def answer(asked: Tool, question: str) -> str:
    return asyncio.run(asked.answer(question))


def talk(made: Environment, *said: str) -> list[Reply]:
    """The replies to these turns."""
    episode = made.start(PROMPT, seed=0)
    return [asyncio.run(episode.reply(Turn(text=text, tokens=9, finished=True))) for text in said]


@pytest.mark.parametrize(
    ("question", "answered"),
    [
        ("37*48", "1776"),
        (" 37 * 48 = ", "1776"),
        ("2+3*4-10/5", "12"),
        ("(2+3)*(4-10)/5", "-6"),
        ("-(-3)--2", "5"),
        ("0.1+0.2", "0.3"),
        ("1/3", "0.333333333333"),
        ("2/3*3", "2"),
        ("1/400000000", "0.0000000025"),
        ("98765432109876543210*98765432109876543210", f"{98765432109876543210**2}"),
        ("7-7", "0"),
    ],
)
def test_the_calculator_is_exact(question: str, answered: str) -> None:
    assert answer(Calculator(), question) == answered


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        ("", "'' is not arithmetic"),
        ("2**3", "'2**3' is not arithmetic"),
        ("2 3", "'2 3' is not arithmetic"),
        ("(2", "'(2' is not arithmetic"),
        ("2)", "'2)' is not arithmetic"),
        ("1e9", "'1e9' is not arithmetic"),
        ("__import__('os')", "\"__import__('os')\" is not arithmetic"),
        ("\u0663", "'\\u0663' is not arithmetic"),
        ("1/(2-2)", "division by zero"),
        ("9" * 51, "the numbers get too large"),
        ("*".join(["9999999999"] * 18), "the numbers get too large"),
        ("(" * 99 + "1", "more than 20 parentheses within each other"),
        ("1+" * 100 + "1", "an expression of more than 200 characters"),
        ("-" * 199 + "x", "is not arithmetic"),
    ],
)
def test_what_the_calculator_does_not_answer(question: str, sentence: str) -> None:
    with pytest.raises(ToolError) as refused:
        answer(Calculator(), question)

    assert str(refused.value).endswith(sentence)


@pytest.fixture
def library(tmp_path: Path) -> str:
    texts = ["The cat sat on the mat.", "A dog and a\\ncat.", "Whales are mammals.", "The sun, the sun."]
    path = tmp_path / "library.jsonl"
    path.write_text("".join(f'{{"text": "{text}"}}\n' for text in texts))
    return str(path)


def test_a_search_finds_rare_words_first_and_short_documents_before_long_ones(library: str) -> None:
    search = Search(file=library, top=2)

    assert answer(search, "cat").splitlines() == ["A dog and a cat.", "The cat sat on the mat."]
    assert answer(search, "the MAMMALS").splitlines() == ["Whales are mammals.", "The sun, the sun."]
    assert answer(Search(file=library, top=1, characters=7), "sun") == "The sun"
    with pytest.raises(ToolError, match=r"nothing found for 'quasar'"):
        answer(search, "quasar")


def test_equal_documents_keep_their_order_in_whatever_order_a_process_hashes_words() -> None:
    # Each has nine words of its own, the first of which no other text has, the second one other, and so on:
    # all are worth the same, but for the last bits of sums that are not made in the same order.
    mine = [[f"w{rarity}x{number}" for rarity in range(9)] for number in range(20)]
    fill = [word for words in mine for rarity, word in enumerate(words) for _ in range(rarity)]
    texts = [" ".join(words) for words in mine]

    found = Index([*texts, *fill]).ranked(" ".join(texts))

    assert found[:20] == texts


def test_the_score_of_a_word_is_that_of_the_paper(tmp_path: Path) -> None:
    path = tmp_path / "two.jsonl"
    # Weights of "b" in documents of lengths 3 and 4, average 11/3, in two of three documents.
    path.write_text('{"text": "b a a"}\n{"text": "a b b a"}\n{"text": "a a a a"}\n')

    def weight(times: int, length: int) -> float:
        return times * 2.2 / (times + 1.2 * (0.25 + 0.75 * length / (11 / 3)))

    assert weight(2, 4) > weight(1, 3)
    assert answer(Search(file=str(path)), "b").splitlines() == ["a b b a", "b a a"]


def test_a_line_ends_where_json_lines_end_and_nowhere_else(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text('{"text": "a cat\u2028 sat"}\r\n\n{"text": "a dog"}\n  \n', encoding="utf-8")

    assert answer(Search(file=str(path)), "cat") == "a cat\u2028 sat"
    assert answer(Search(file=str(path)), "dog") == "a dog"


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "line 2 is not JSON: Expecting property name"),
        ("[]", "line 2 must be an object with a text 'text', got '[]'."),
        ('{"text": 3}', "line 2 must be an object with a text 'text', got '{\"text\": 3}'."),
    ],
)
def test_a_document_without_text_is_named(tmp_path: Path, line: str, sentence: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(f'{{"text": "a"}}\n{line}\n')

    with pytest.raises(DataError) as refused:
        Search(file=str(path)).warm_up()

    assert sentence in str(refused.value)


def test_a_missing_file_of_documents_is_found_before_the_first_conversation(tmp_path: Path) -> None:
    made = Tools(tools={"search": Choice(name="search", options={"file": str(tmp_path / "none.jsonl")})})

    with pytest.raises(DataError, match=r"none\.jsonl: the documents of a search cannot be read: No such"):
        made.warm_up()


def test_calls_are_met_by_results_and_a_turn_without_one_ends_it() -> None:
    replies = talk(Tools(), "so <tool>calculator: 12*7</tool>", "<tool>1+1</tool> <tool>2+2</tool>", "84")

    assert [(reply.text, reply.over, reply.outcome) for reply in replies] == [
        ("<result>84</result>", False, None),
        ("<result>2</result><result>4</result>", False, None),
        ("", True, None),
    ]


@pytest.mark.parametrize("said", ["<tool>1+1", "</tool>1<tool>", "tool: 1+1", ""])
def test_an_unfinished_call_is_no_call(said: str) -> None:
    assert talk(Tools(), said) == [Reply(over=True)]


def test_one_call_too_many_ends_it_without_an_answer() -> None:
    replies = talk(Tools(calls=2), "<tool>1</tool>", "<tool>1</tool><tool>2</tool>")

    assert [reply.over for reply in replies] == [False, True]


def test_a_call_that_fails_says_why_or_what_the_recipe_says(library: str) -> None:
    tools = {
        "calc": Choice(name="calculator"),
        "docs": Choice(name="search", options={"file": library}),
    }

    told = talk(Tools(tools=tools), "<tool>calc: 1/0</tool>", "<tool>sum: 1</tool>", "<tool>1+1</tool>")
    brief = talk(Tools(tools=tools, failure="?", result=("", "")), "<tool>calc: 1/0</tool>")

    assert [reply.text for reply in told] == [
        "<result>error: division by zero</result>",
        "<result>error: no tool named 'sum'; there is calc, docs</result>",
        "<result>error: no tool named '1+1'; there is calc, docs</result>",
    ]
    assert [reply.text for reply in brief] == ["?"]


def test_a_result_is_cut_off(library: str) -> None:
    tools = {"docs": Choice(name="search", options={"file": library})}

    (reply,) = talk(Tools(tools=tools, characters=9), "<tool>docs: mat</tool>")

    assert reply.text == "<result>The cat s</result>"


@pytest.mark.parametrize(
    ("call", "result"),
    [
        ('{"name": "calculator", "arguments": {"expression": "12*7"}}', "84"),
        ('\n{"name": "calculator", "arguments": "12*7"}\n', "84"),
        ('{"name": "calculator", "arguments": {"a": "1", "b": "2"}}', "error: arguments must have one text"),
        ('{"name": "calculator", "arguments": {"a": 12}}', "error: arguments must have one text, got {'a'"),
        ('{"name": "calculator"}', "error: arguments must have one text, got None"),
        ('{"name": ["x"], "arguments": "1"}', "error: no tool named \"['x']\"; there is calculator"),
        ("12", "error: a call must be an object with name and arguments, got '12'"),
        ("12*7", "error: '12*7' is not JSON"),
        ("{" * 10_000, "error: '{{{"),
        ("[" * 100_000, "error: '[[["),
    ],
)
def test_calls_in_json(call: str, result: str) -> None:
    (reply,) = talk(Tools(form="json"), f"<tool_call>{call}</tool_call>")

    assert reply.text.startswith(f"<tool_response>\n{result}")
    assert reply.text.endswith("\n</tool_response>")


def test_a_result_has_the_ids_that_a_template_of_the_hermes_form_gives_it(
    bpe: PreTrainedTokenizerFast,
) -> None:
    # How Qwen's templates put a message of the role tool: as the user's, between tool_response.
    bpe.chat_template = (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'tool' %}<|im_start|>user\n<tool_response>\n"
        "{{ m.content }}\n</tool_response><|im_end|>\n{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}"
        "<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer = Tokenizer(bpe, chat=True, stop_ids=[END])
    call = '<tool_call>{"name": "calculator", "arguments": {"expression": "12*7"}}</tool_call>'
    (reply,) = talk(Tools(form="json"), call)
    said: list[dict[str, Any]] = [
        {"role": "user", "content": "what is"},
        {"role": "assistant", "content": call},
    ]

    ids = tokenizer.encode_reply([Message(**message) for message in said], reply.text, after=END).tokens
    whole = bpe.apply_chat_template(
        [*said, {"role": "tool", "content": "84"}], tokenize=False, add_generation_prompt=True
    )

    assert isinstance(whole, str)
    assert whole.endswith(f"{call}<|im_end|>{bpe.decode(ids)}")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"tools": {}}, "environment.options: tools must have at least one tool, got none."),
        (
            {"tools": {"c": {"name": "calc"}}},
            "environment.options.tools.c.name: no tool named 'calc'. Known: calculator, python, search",
        ),
        (
            {"tools": {"c": {"name": "calculator", "options": {"digit": 1}}}},
            "environment.options.tools.c.options: no key named 'digit'. Did you mean 'digits'?",
        ),
        ({"call": ["", "]"]}, "call must be two marks that are not empty, got ('', ']')."),
        ({"form": "xml"}, "environment.options.form: expected one of 'text' or 'json', got 'xml'."),
        ({"reply_deadline_s": 0}, "environment.options.reply_deadline_s: expected a number > 0, got 0."),
    ],
)
def test_options_without_sense_are_refused(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(RecipeError) as refused:
        environment.build("tools", options, key="environment")

    assert sentence in str(refused.value)


def test_every_tool_inherits_the_defaults_of_its_kind() -> None:
    assert tool.names == ("calculator", "python", "search")
    assert all(Tool in tool.get(name, key="").__mro__ for name in tool.names)


def test_the_teacher_of_products_calls_as_the_recipe_reads_calls() -> None:
    made, tools = Products(digits=2), Tools(call=("[", "]"), result=("", ""))
    for number in range(0, made.size, 97):
        problem = made.make(number)
        result, last = problem.then
        left, right = map(int, problem.prompt.rstrip("=").split("*"))

        assert [reply.text for reply in talk(tools, problem.response, last)] == [result, ""]
        assert (last, problem.answer) == (f"#{left * right}", f"{left * right}")
        assert 10 <= left <= 99
        assert 10 <= right <= 99


def test_a_guessing_teacher_guesses_as_often_as_asked_and_never_right() -> None:
    problems = [Products(digits=2, guesses=0.5).make(number) for number in range(8100)]
    guesses = [problem for problem in problems if not problem.then]

    assert len(guesses) / 8100 == pytest.approx(0.5, abs=0.02)
    assert all(0 < int(one.response[1:]) - int(one.answer) <= 10 for one in guesses)
    assert len({problem.prompt for problem in problems}) == 8100
    characters = {letter for one in problems for letter in "".join([one.prompt, one.response, *one.then])}
    assert characters == set(Products().characters)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"digits": 0}, "digits must lie between 1 and 18, got 0"),
        ({"guesses": 1.5}, "guesses must lie between 0 and 1, got 1.5"),
    ],
)
def test_products_without_sense_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Products(**options)


def test_marks_that_nothing_closes_cost_no_more_than_their_length() -> None:
    endless = "<tool>" * 200_000  # what a policy that loops writes; quadratic work would take hours

    assert Tools(form="text").calls_in(f"<tool>1+1</tool> so <tool>2</tool>{endless}") == ["1+1", "2"]
    assert Tools(form="text").calls_in("</tool><tool>a<tool>b</tool></tool>") == ["a<tool>b"]

"""``instructions`` and ``constraints``: each of IFEval's checkable kinds, kept and not kept."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmrl.errors import RecipeError
from llmrl.recipe.schema import Reward
from llmrl.rewards import Formal, Sample, build_rewards
from llmrl.rewards.kinds.constraint import Constraint, constraint_names
from llmrl.rewards.kinds.instructions import Constraints, Instructions

KINDS: list[tuple[str, dict[str, Any], list[str], list[str]]] = [
    # (kind, arguments, responses that keep it, responses that do not)
    (
        "keywords:existence",
        {"keywords": ["sun", "old man"]},
        ["The Sun and an old man."],
        ["Sunny old man", "sun"],
    ),
    ("keywords:forbidden_words", {"forbidden_words": ["bad"]}, ["A badger."], ["So Bad!"]),
    (
        "keywords:frequency",
        {"keyword": "red", "frequency": 2, "relation": "at least"},
        ["Red, red.", "red red red"],
        ["red bored"],
    ),
    ("keywords:frequency", {"keyword": "red", "frequency": 2, "relation": "less than"}, ["red"], ["red red"]),
    (
        "keywords:letter_frequency",
        {"letter": "q", "let_frequency": 2, "let_relation": "at least"},
        ["Quick quiz"],
        ["quick"],
    ),
    (
        "length_constraints:number_words",
        {"num_words": 4, "relation": "at least"},
        ["It's well-known to us"],
        ["It's well-known now"],
    ),
    (
        "length_constraints:number_words",
        {"num_words": 3, "relation": "less than"},
        ["one two"],
        ["one two three"],
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 3, "relation": "less than"},
        ["One costs 3.50 now. Two!"],
        ["One. Two? Three!"],
    ),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        ["a\n***\nb", "***\na\n***\nb"],
        ["a", "a\n***\n***\nb"],
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "once"},
        ["a b\n\nOnce, more"],
        ["once\n\na", "a\n\nb\n\nonce", "once"],
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, ["[name] of [town]"], ["[name] []"]),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.S."},
        ["Hi\nP.S. bye", "Hi\np. s. bye"],
        ["P.S.", "no ps"],
    ),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, ["Hi\nP.P.S more"], ["Hi\nP.S. more"]),
    (
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        ["* a\n* b", "- a\n  - b"],
        ["* a", "* a\n* b\n* c", "**a**\n--"],
    ),
    (
        "detectable_format:constrained_response",
        {},
        ["My answer is yes.", "My answer is maybe."],
        ["My answer is yes and no.", "Yes."],
    ),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ["*a b* and **c**"],
        ["*a*", "**  ** *x*"],
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Section", "num_sections": 2},
        ["Section 1\na\nSection 2\nb"],
        ["Section 1\na", "Section a\nSection b"],
    ),
    ("detectable_format:json_format", {}, ['{"a": [1]}', '```json\n{"a": 1}\n```'], ["{a: 1}", "it is {}"]),
    ("detectable_format:title", {}, ["<<On joy>>\ntext"], ["<On joy>", "<<>>", "<< >>"]),
    ("combination:two_responses", {}, ["a\n******\nb"], ["a", "a\n******\na", "a******b******c"]),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say it."}, ["say it. Done"], ["Done. Say it."]),
    (
        "startend:end_checker",
        {"end_phrase": "Any questions?"},
        ["So. any questions?", '"Any questions?" '],
        ["Any questions? No."],
    ),
    ("startend:quotation", {}, ['"all of it"', ' "x" '], ['"', '"a" b', "a"]),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        ["NASA AND you"],
        ["NASA and You"],
    ),
    ("change_case:english_capital", {}, ["ALL OF IT, 3!"], ["ALL of IT", "123"]),
    ("change_case:english_lowercase", {}, ["all of it, 3!"], ["All of it", "123"]),
    ("punctuation:no_comma", {}, ["one. two"], ["one, two"]),
]


def sample(response: str, answer: str | None = None) -> Sample:
    return Sample(prompt="", response=response, answer=answer, tokens=1, finished=True)


@pytest.mark.parametrize(("name", "arguments", "kept", "broken"), KINDS)
def test_a_constraint_holds_where_it_is_kept_and_only_there(
    name: str, arguments: dict[str, Any], kept: list[str], broken: list[str]
) -> None:
    constraint = Constraint.of(name, arguments)

    assert [text for text in kept if not constraint.holds(text)] == []
    assert [text for text in broken if constraint.holds(text)] == []


@pytest.mark.parametrize(("name", "arguments", "kept", "broken"), KINDS)
def test_an_empty_response_keeps_nothing(
    name: str, arguments: dict[str, Any], kept: list[str], broken: list[str]
) -> None:
    assert not Constraint.of(name, arguments).holds(" \n")


def test_every_kind_is_tested() -> None:
    assert {name for name, *_ in KINDS} == set(constraint_names())
    assert len(constraint_names()) == 24


ROW = json.dumps(
    {
        "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
        "kwargs": [{"num_words": None}, {"num_words": 3, "relation": "at least", "keyword": None}],
    }
)


@pytest.mark.parametrize(
    ("response", "share", "all_of_them"),
    [("one two three", 1.0, 1.0), ("one two, three", 0.5, 0.0), ("one, two", 0.0, 0.0)],
)
def test_a_row_of_the_dataset_is_scored_by_share_or_as_a_whole(
    response: str, share: float, all_of_them: float
) -> None:
    assert Instructions()(sample(response, ROW)).value == share
    assert Instructions(every=True)(sample(response, ROW)).value == all_of_them


def test_the_note_names_what_was_not_kept() -> None:
    row = '[{"name": "punctuation:no_comma"}, {"name": "change_case:english_lowercase"}]'

    assert Instructions()(sample("one, two", row)).note == "not kept: punctuation:no_comma"


def test_a_gold_answer_is_right_if_its_constraints_can_be_read() -> None:
    reward = Instructions()
    assert isinstance(reward, Formal)

    assert reward.bare()(sample(ROW, ROW)) == 1.0


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("short", "Expecting value"),
        ("[]", "the answer must be an object with instruction_id_list and kwargs, or a list of objects"),
        ("{}", "the answer must be an object"),
        ('{"instruction_id_list": ["a"], "kwargs": []}', "the answer must be an object"),
        (
            '[{"name": "punctuation:no_coma"}]',
            "no constraint named 'punctuation:no_coma'. Did you mean 'punct",
        ),
        ('[{"name": "startend:end_checker"}]', "startend:end_checker: the argument 'end_phrase' is missing"),
        (
            '[{"name": "length_constraints:number_words", "num_words": "x"}]',
            "length_constraints:number_words: num_words: Input should be a valid integer",
        ),
        (
            '[{"name": "length_constraints:number_words", "num_words": 3, "relation": "above"}]',
            "relation: Input should be 'at least', 'at most', 'less than', 'more than' or 'exactly'",
        ),
        (
            '[{"name": "punctuation:no_comma", "count": 3}]',
            "punctuation:no_comma: no argument named 'count'. Known: none.",
        ),
        ('[{"name": "language:response_language", "language": "fr"}]', "no constraint named 'language:resp"),
    ],
)
def test_a_row_that_cannot_be_read_is_an_error_and_not_a_zero(answer: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the message is read below
        Instructions()(sample("text", answer))

    assert message in str(caught.value)


def test_a_recipe_may_ask_the_same_of_every_row() -> None:
    reward = Constraints(
        require={"punctuation:no_comma": {}, "length_constraints:number_words": {"num_words": 3}}
    )

    assert reward(sample("one two three")).value == 1.0
    assert reward(sample("one two")).value == 0.5


@pytest.mark.parametrize(
    ("require", "message"),
    [
        ({}, "require must name at least one constraint"),
        ({"no_comma": {}}, "no constraint named 'no_comma'"),
        ({"length_constraints:number_words": {}}, "the argument 'num_words' is missing"),
    ],
)
def test_wrong_constraints_of_a_recipe_are_refused_with_their_key(
    require: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=rf"rewards\.r\.options: .*{message}"):
        build_rewards({"r": Reward(kind="constraints", options={"require": require})})

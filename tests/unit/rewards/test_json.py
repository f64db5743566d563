"""``json``: JSON, the whole of it, and of the form that a schema asks for."""

from __future__ import annotations

import pytest

from llmrl.errors import RecipeError
from llmrl.recipe.schema import Reward
from llmrl.rewards import Sample, Score, build_rewards
from llmrl.rewards.kinds.json_schema import Json

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "minLength": 1}, "age": {"$ref": "#/$defs/age"}},
    "required": ["name", "age"],
    "additionalProperties": False,
    "$defs": {"age": {"type": "integer", "minimum": 0}},
}


def judge(reward: Json, response: str) -> Score:
    return reward(Sample(prompt="", response=response, answer=None, tokens=1, finished=True))


def test_json_that_the_schema_accepts_scores_1() -> None:
    assert judge(Json(schema=PERSON), ' {"name": "Ada", "age": 36}\n') == Score(1.0)


@pytest.mark.parametrize(
    ("response", "note"),
    [
        ('{"name": "Ada"}', "$: 'age' is a required property"),
        ('{"name": "Ada", "age": -1}', "$.age: -1 is less than the minimum of 0"),
        ('{"name": "Ada", "age": "36"}', "$.age: '36' is not of type 'integer'"),
        (
            '{"name": "Ada", "age": 36, "x": 1}',
            "$: Additional properties are not allowed ('x' was unexpected)",
        ),
        ('{"name": "Ada", "age": NaN}', "no JSON: NaN is not JSON"),
        ('{"name": "Ada", "age": 1, "age": 36}', "no JSON: the name 'age' stands twice in an object"),
        ('Sure! {"name": "Ada", "age": 36}', "no JSON: Expecting value: line 1 column 1 (char 0)"),
        ("", "no JSON: Expecting value: line 1 column 1 (char 0)"),
    ],
)
def test_anything_else_scores_0_and_says_why(response: str, note: str) -> None:
    assert judge(Json(schema=PERSON), response) == Score(0.0, note)


def test_json_may_stand_in_the_last_fence_if_the_recipe_says_so() -> None:
    response = 'First\n```json\n[1]\n```\nthen\n```json\n{"name": "Ada", "age": 36}\n```\nDone.'

    assert judge(Json(schema=PERSON, where="fenced"), response).value == 1.0
    assert judge(Json(schema=PERSON), response).value == 0.0


@pytest.mark.parametrize("response", ["[" * 100_000, "[" * 100_000 + "]" * 100_000, '{"a":' * 100_000])
def test_hostile_depth_scores_0(response: str) -> None:
    assert judge(Json(), response).value == 0.0


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "objekt"}, "schema is not a JSON Schema: 'objekt' is not valid"),
        (
            {"$ref": "http://example.com/x"},
            "schema must refer to itself only, with '#/...', got 'http://exam",
        ),
        ({"items": [{"$ref": "file:///etc/passwd"}]}, "schema must refer to itself only"),
    ],
)
def test_a_schema_that_is_none_or_refers_elsewhere_is_refused(schema: object, message: str) -> None:
    with pytest.raises(RecipeError, match=message.replace("$", r"\$").replace(".", r"\.")):
        build_rewards({"r": Reward(kind="json", options={"schema": schema})})

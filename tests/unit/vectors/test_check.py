"""What is said of a vector that agrees, differs, is of a missing method, or is not understood."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmrl.errors import DataError
from llmrl.vectors import Vector, check_folder, check_vector, read_folder

SFT_LIKE: dict[str, Any] = {
    "config": {"clip_low": 0.2, "clip_high": 0.2, "loss_agg_mode": "token-mean"},
    "inputs": {
        "logprobs": [[-1.0, -2.0], [-0.5, 3.0]],
        "old_logprobs": [[-1.0, -2.0], [-0.5, -30.0]],
        "mask": [[1, 1], [1, 0]],
        "advantages": [1.0, -2.0],
    },
    "outputs": {"loss": 0.0, "grad_logprobs": [[-1 / 3, -1 / 3], [2 / 3, 0.0]]},
}
"""On policy a token's gradient is minus its advantage over the tokens, and the loss minus their mean."""


def vector(name: str = "grpo_by_hand", **changes: Any) -> Vector:
    return Vector(name=name, **{**SFT_LIKE, **changes})


def test_three_tokens_worked_by_hand_agree() -> None:
    verdict = check_vector(vector())

    assert (verdict.outcome, verdict.note) == ("ok", "")
    assert verdict.by == "grpo(clip_low=0.2, clip_high=0.2, mean_over=tokens)"
    assert verdict.gradient == pytest.approx(0.0, abs=1e-15)
    assert verdict.other is None


def test_a_wrong_number_is_named_with_its_size() -> None:
    verdict = check_vector(vector(outputs=SFT_LIKE["outputs"] | {"loss": 0.25}))

    assert (verdict.outcome, verdict.note) == ("FAIL", "differs: loss")
    assert verdict.loss == 0.25
    assert not verdict.good


def test_a_gradient_of_another_shape_fails() -> None:
    verdict = check_vector(vector(outputs={"loss": 0.0, "grad_logprobs": [[0.0]]}))

    assert (verdict.outcome, verdict.gradient) == ("FAIL", float("inf"))


@pytest.mark.parametrize(
    ("name", "changes", "note"),
    [
        ("brandnew_1", {}, "no method has a name that begins like this."),
        ("grpoish", {}, "no method has a name that begins like this."),
        ("dpo_x", {"config": {"kind": "nca"}}, "a loss of pairs called nca."),
        ("rdpo_x", {"config": {"kind": "robust", "beta": 1}}, "config.label_smoothing is missing."),
        ("cdpo_x", {"config": {"kind": "cdpo", "beta": 1}}, "config.label_smoothing is missing."),
        ("hinge_x", {"config": {"kind": "hinge"}}, "config.beta is missing."),
        ("grpo_x", {"config": {"loss_agg_mode": "median"}}, "a reduction called 'median'."),
        ("grpo_x", {"inputs": {"mask": [[1]]}}, "inputs.logprobs is missing."),
        ("dapo_x", {"config": {"clip_low": 7.0}}, "objective.options: clip_low must lie in [0, 1], got 7.0."),
        ("mis_x", {"config": {"hi": 2, "level": "word"}}, "a correction of level word and mode truncate."),
    ],
)
def test_what_is_not_understood_is_said(name: str, changes: dict[str, Any], note: str) -> None:
    verdict = check_vector(vector(name, **changes))

    assert (verdict.outcome, verdict.note) == ("not understood", note)
    assert not verdict.good


def test_a_method_that_llmrl_lacks_says_nothing_against_it() -> None:
    verdict = check_vector(vector("kto_weights"))

    assert (verdict.outcome, verdict.good) == ("not in llmrl", True)


def test_the_longest_beginning_decides_about_a_name() -> None:
    assert check_vector(vector("dapo_tis_cap9", config={"tis_imp_ratio_cap": 9.0})).by.startswith(
        "correction"
    )
    assert check_vector(vector("dapo_cap9", config={})).by.startswith("dapo(")


def test_a_folder_is_read_by_name_without_its_index(tmp_path: Path) -> None:
    for name in ("grpo_b", "grpo_a"):
        (tmp_path / f"{name}.json").write_text(json.dumps(SFT_LIKE))
    (tmp_path / "INDEX.json").write_text("[]")

    assert [v.name for v in read_folder(tmp_path)] == ["grpo_a", "grpo_b"]
    assert [v.outcome for v in check_folder(tmp_path)] == ["ok", "ok"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no vectors here; give a folder with a JSON file for each vector"),
        ("{", "x.json: cannot be read as JSON"),
        ("[]", "x.json: a vector is a table with the tables config, inputs, outputs"),
        ('{"config": {}, "inputs": {}}', "x.json: a vector is a table with the tables"),
    ],
)
def test_a_folder_without_vectors_is_one_sentence(tmp_path: Path, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / "x.json").write_text(content)

    with pytest.raises(DataError, match=words.replace(".", r"\.")):
        read_folder(tmp_path)


def test_a_missing_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such folder"):
        read_folder(tmp_path / "nowhere")

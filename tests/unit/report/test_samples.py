"""Samples on disk say everything about a response, and are whole or absent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llmrl.errors import DataError
from llmrl.experience.experience import Experience
from llmrl.prompts.prompt import Prompt
from llmrl.report.samples import read_samples, write_samples
from llmrl.rewards.judgement import Judgement
from llmrl.rollouts.rollout import Rollout, RolloutGroup

PROMPT = Prompt(id="sums/3", tokens=np.array([1], np.int32), text="2 + 2 = ?", answer="4", source="sums")
ROLLOUT = Rollout(
    tokens=np.array([52, 0], np.int32),
    logp=np.array([-0.123456, -np.inf], np.float32),
    version=np.array([4, 5], np.int32),
    trained=np.array([True, False]),
    turn=np.array([0, 0], np.int32),
    stop="stop",
    text="4",
)
VERDICT = Judgement(status="score", reward=1.1, parts={"answer": 1.0, "format": 1.0}, note="extracted 4")
EXPERIENCE = Experience(
    group=RolloutGroup(ordinal=9, prompt=PROMPT, rollouts=(ROLLOUT,)),
    judgements=(VERDICT,),
    advantages=(np.array([0.70711, 0.0], np.float32),),
    lag=1,
)


def decode(token: int) -> str:
    return {52: "4", 0: "<eos>"}[token]


def test_a_response_is_written_with_everything_known_about_it(tmp_path: Path) -> None:
    path = write_samples(tmp_path, step=10, experiences=[EXPERIENCE], decode=decode)

    (sample,) = read_samples(path)

    assert path == tmp_path / "samples" / "step-000010.jsonl"
    assert (sample.step, sample.group, sample.index, sample.prompt_id) == (10, 9, 0, "sums/3")
    assert (sample.prompt, sample.answer, sample.response) == ("2 + 2 = ?", "4", "4")
    assert (sample.tokens, sample.strings) == ([52, 0], ["4", "<eos>"])
    assert sample.logprobs == [-0.1235, None]
    assert (sample.versions, sample.advantages, sample.trained) == ([4, 5], [0.7071, 0.0], [True, False])
    assert sample.judgement == {
        "reward": 1.1,
        "status": "score",
        "parts": {"answer": 1.0, "format": 1.0},
        "note": "extracted 4",
    }
    assert (sample.stop, sample.lag) == ("stop", 1)


def test_demonstrations_have_no_judgement(tmp_path: Path) -> None:
    path = write_samples(tmp_path, step=1, experiences=[replace(EXPERIENCE, judgements=())], decode=decode)

    assert read_samples(path)[0].judgement is None


def test_writing_a_step_again_replaces_it(tmp_path: Path) -> None:
    write_samples(tmp_path, step=1, experiences=[EXPERIENCE, EXPERIENCE], decode=decode)
    path = write_samples(tmp_path, step=1, experiences=[EXPERIENCE], decode=decode)

    assert len(read_samples(path)) == 1
    assert [found.name for found in path.parent.iterdir()] == ["step-000001.jsonl"]


def test_text_with_line_separators_stays_one_line(tmp_path: Path) -> None:
    odd = replace(ROLLOUT, text="a\u2028b\nc\x85d")
    group = replace(EXPERIENCE.group, rollouts=(odd,))
    path = write_samples(tmp_path, step=1, experiences=[replace(EXPERIENCE, group=group)], decode=decode)

    assert [sample.response for sample in read_samples(path)] == ["a\u2028b\nc\x85d"]


def test_a_damaged_file_is_named_with_its_row(tmp_path: Path) -> None:
    path = write_samples(tmp_path, step=1, experiences=[EXPERIENCE], decode=decode)
    path.write_text(path.read_text() + '{"step": 1}\n')

    with pytest.raises(DataError, match=r"step-000001\.jsonl: row 2 is not a sample: '{\"step\": 1}'"):
        read_samples(path)

"""Columns hold what the experiences do, each thing once, whatever the rollouts are like."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest

from llmrl.errors import EngineError
from llmrl.experience.columns import Columns
from llmrl.experience.experience import Experience
from llmrl.prompts.prompt import Prompt, Rewrite
from llmrl.rewards.judgement import Judgement
from llmrl.rollouts.rollout import Rollout, RolloutGroup


def rollout(*tokens: int, rewrites: tuple[Rewrite, ...] = (), opponent: bool = False) -> Rollout:
    size = len(tokens)
    return Rollout(
        tokens=np.array(tokens, np.int32),
        logp=np.linspace(-1, -2, size, dtype=np.float32),
        version=np.zeros(size, np.int32),
        trained=np.arange(size) % 2 == 0,
        turn=np.arange(size, dtype=np.int32),
        stop="stop",
        text="",
        opponent=opponent,
        rewrites=rewrites,
    )


def experience(ordinal: int, *rollouts: Rollout, pairs: tuple[tuple[int, int], ...] = ()) -> Experience:
    tokens = np.array([90 + ordinal, 91 + ordinal], np.int32)
    prompt = Prompt(id=f"p/{ordinal}", tokens=tokens, text="", answer=None, source="p")
    return Experience(
        group=RolloutGroup(ordinal=ordinal, prompt=prompt, rollouts=rollouts),
        judgements=tuple(Judgement(status="score", reward=float(n)) for n in range(len(rollouts))),
        advantages=tuple(np.full(one.tokens.size, ordinal, np.float32) for one in rollouts),
        lag=0,
        pairs=pairs,
    )


REWRITTEN = rollout(5, 6, 7, 8, rewrites=(Rewrite(at=2, context=np.array([1, 2, 3], np.int32)),))
STEP = [
    experience(3, rollout(10, 11), rollout()),
    experience(7, REWRITTEN, rollout(20, opponent=True), pairs=((1, 0),)),
]


def test_every_row_is_found_where_the_columns_say() -> None:
    columns = Columns.of(STEP)

    rollouts = [one for each in STEP for one in each.group.rollouts]
    assert (columns.groups, columns.rows) == (2, 4)
    for row, one in enumerate(rollouts):
        here = columns.tokens_of(row)
        assert columns.tokens[here].tolist() == one.tokens.tolist()
        assert columns.logp[here].tolist() == one.logp.tolist()
        assert columns.trained[here].tolist() == one.trained.tolist()
        assert columns.turn[here].tolist() == one.turn.tolist()
    assert [columns.group_of(row) for row in range(4)] == [0, 0, 1, 1]
    assert columns.advantage.tolist() == [3] * 2 + [7] * 5
    assert columns.reward.tolist() == [0, 1, 0, 1]
    assert columns.opponent.tolist() == [False, False, False, True]
    assert columns.pairs.tolist() == [[3, 2]]
    assert columns.names == ("p/3", "p/7")


def test_segments_go_on_from_the_prompt_or_from_what_was_rewritten() -> None:
    columns = Columns.of(STEP)

    found = [
        [(read.tolist(), columns.tokens[here].tolist()) for read, here in columns.segments_of(row)]
        for row in range(4)
    ]

    assert found == [
        [([93, 94], [10, 11])],
        [([93, 94], [])],
        [([97, 98], [5, 6]), ([1, 2, 3], [7, 8])],
        [([97, 98], [20])],
    ]
    assert columns.read.tolist() == [93, 94, 97, 98, 1, 2, 3]  # each prompt once


def test_a_step_crosses_processes_as_a_dozen_buffers_however_many_responses_it_has() -> None:
    wide = [experience(n, *(rollout(*range(200)) for _ in range(8))) for n in range(64)]
    buffers: list[pickle.PickleBuffer] = []

    rest = pickle.dumps(Columns.of(wide), protocol=5, buffer_callback=buffers.append)

    assert len(buffers) == 13
    assert len(rest) < 4000


def test_what_is_wrong_with_a_response_is_said_of_that_response() -> None:
    bad = replace(rollout(1, 2, 3), logp=np.array([-1, np.nan, np.inf], np.float32))

    with pytest.raises(EngineError, match="response 1 to prompt 'p/5': the engine reported a logprob that"):
        Columns.of([*STEP, experience(5, rollout(4), bad)])


def test_a_logprob_that_nobody_trains_on_may_be_anything() -> None:
    heard = replace(rollout(1, 2, 3), logp=np.array([-1, np.nan, -1], np.float32))

    assert Columns.of([experience(5, heard)]).trained.tolist() == [True, False, True]


def test_the_columns_of_tokens_lie_in_one_stretch_of_memory() -> None:
    columns = Columns.of(STEP)

    owners = [id(one.base) for one in (columns.tokens, columns.logp, columns.turn, columns.advantage)]
    assert len({*owners, id(columns.trained.base)}) == 1


def test_no_experiences_make_empty_columns() -> None:
    columns = Columns.of([])

    assert (columns.groups, columns.rows, columns.tokens.size, columns.pairs.shape) == (0, 0, 0, (0, 2))

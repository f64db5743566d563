"""Rows become packed inputs and padded columns, shifted by one exactly once."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrl.batches.batch import TokenScores, Totals
from llmrl.batches.step import Step
from llmrl.batches.work import Work
from llmrl.errors import DataError, EngineError, RecipeError, TrainingError
from llmrl.experience.columns import Columns
from llmrl.experience.experience import Experience
from llmrl.prompts.prompt import Prompt, Rewrite
from llmrl.rewards.judgement import Judgement
from llmrl.rollouts.rollout import Rollout, RolloutGroup

WORK = Work(per_token=1.0, per_scored=0.0, per_square=4e-5)


def rollout(tokens: list[int], trained: list[int] | None = None, logp: np.ndarray | None = None) -> Rollout:
    size = len(tokens)
    return Rollout(
        tokens=np.array(tokens, np.int32),
        logp=-np.arange(1, size + 1, dtype=np.float32) if logp is None else logp,
        version=np.zeros(size, np.int32),
        trained=np.array([1] * size if trained is None else trained, dtype=np.bool_),
        turn=np.arange(size, dtype=np.int32) // 2,
        stop="stop",
        text="",
    )


def experience(
    prompt: list[int], *rollouts: Rollout, ordinal: int = 0, advantages=None, pairs=()
) -> Experience:
    group = RolloutGroup(
        ordinal=ordinal,
        prompt=Prompt(id="p", tokens=np.array(prompt, np.int32), text="", answer=None, source="s"),
        rollouts=rollouts,
    )
    credit = tuple(np.full(r.tokens.size, i + 1, np.float32) for i, r in enumerate(rollouts))
    return Experience(group=group, judgements=(), advantages=advantages or credit, lag=0, pairs=pairs)


def test_two_rows_worked_by_hand():
    step = [experience([1, 2], rollout([5, 6, 7]), ordinal=3), experience([3], rollout([8]), ordinal=9)]

    made = Step(Columns.of(step)).collate(np.array([0, 1]))

    # The last token of each row is only a target: 1 2 5 6 | 3.
    assert made.inputs.tokens.tolist() == [[1, 2, 5, 6, 3]]
    assert made.inputs.positions.tolist() == [[0, 1, 2, 3, 0]]
    assert made.inputs.cu_seqlens.tolist() == [0, 4, 5]
    assert made.inputs.cu_seqlens.dtype == torch.int32
    assert made.inputs.max_length == 4
    assert made.inputs.predict_at.tolist() == [1, 2, 3, 4]
    assert made.inputs.targets.tolist() == [5, 6, 7, 8]
    assert made.mask.tolist() == [[True, True, True], [True, False, False]]
    assert made.advantage.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert made.sampled.tolist() == [[-1, -2, -3], [-1, 0, 0]]
    assert made.turn.tolist() == [[0, 0, 1], [0, 0, 0]]
    assert made.group.tolist() == [3, 9]


def test_only_trained_tokens_are_scored_and_nothing_after_them_is_read():
    step = [experience([1], rollout([5, 6, 7, 8, 9], trained=[1, 0, 1, 0, 0]))]

    made = Step(Columns.of(step)).collate(np.array([0]))

    assert made.inputs.tokens.tolist() == [[1, 5, 6]]
    assert made.inputs.predict_at.tolist() == [0, 2]
    assert made.inputs.targets.tolist() == [5, 7]
    assert made.mask.tolist() == [[True, False, True, False, False]]


def test_what_stands_outside_the_mask_is_zero_even_if_it_was_nan():
    odd = np.array([-1, np.nan, np.inf], np.float32)
    step = [experience([1], rollout([5, 6, 7], trained=[1, 0, 0], logp=odd), advantages=(odd,))]

    made = Step(Columns.of(step)).collate(np.array([0]))

    assert made.sampled.tolist() == [[-1, 0, 0]]
    assert made.advantage.tolist() == [[-1, 0, 0]]


def test_padding_and_end_tokens_in_a_response_are_trained_like_any_other():
    step = [experience([0], rollout([0, 2, 0, 2]))]

    made = Step(Columns.of(step)).collate(np.array([0]))

    assert made.mask.all()
    assert made.inputs.targets.tolist() == [0, 2, 0, 2]


def test_scores_go_back_to_their_places_and_gradients_with_them():
    step = [experience([1], rollout([5, 6, 7], trained=[0, 1, 1]), rollout([8]))]
    made = Step(Columns.of(step)).collate(np.array([1, 0]))
    logp = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)

    spread = made.scores(logp, None)
    (spread.logp * torch.tensor([[10.0, 20, 30], [40, 50, 60]])).sum().backward()

    assert spread.logp.tolist() == [[1, 0, 0], [0, 2, 3]]
    assert spread.entropy is None
    assert logp.grad is not None
    assert logp.grad.tolist() == [10, 50, 60]


def test_a_wrong_number_of_scores_is_refused():
    made = Step(Columns.of([experience([1], rollout([5, 6]))])).collate(np.array([0]))

    with pytest.raises(ValueError, match=r"\(3,\) scores for 2 trained tokens"):
        made.scores(torch.zeros(3), None)


@pytest.mark.parametrize("rows", [[], [0], [1], [0, 1]], ids=["no rows", "empty", "untrained", "both"])
def test_a_micro_batch_with_nothing_to_train_still_has_a_token_to_read(rows: list[int]):
    step = [experience([1, 2], rollout([]), rollout([5, 6], trained=[0, 0]))]

    made = Step(Columns.of(step)).collate(np.array(rows, dtype=np.int64))

    assert made.inputs.tokens.shape == made.inputs.positions.shape == (1, 1)
    assert made.inputs.cu_seqlens.tolist() == [0, 1]
    assert made.trained_tokens == 0
    assert not made.mask.any()
    assert made.mask.numel() > 0
    assert made.scores(torch.zeros(0), torch.zeros(0)).logp.eq(0).all()


def test_the_row_that_stands_in_for_none_belongs_to_no_group():
    assert Step(Columns.of([])).collate(np.array([], dtype=np.int64)).group.tolist() == [-1]


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_each_target_is_the_token_after_the_position_that_predicts_it(data: st.DataObject):
    masks = data.draw(st.lists(st.lists(st.booleans(), max_size=6), min_size=1, max_size=5))
    fresh = iter(range(1, 1000))
    step = [
        experience(
            [next(fresh), next(fresh)], rollout([next(fresh) for _ in mask], trained=[*map(int, mask)])
        )
        for mask in masks
    ]
    rows = np.array(data.draw(st.permutations(range(len(masks)))))

    made = Step(Columns.of(step)).collate(rows)

    whole = {int(t): i for r in rows for i, t in enumerate(sequence(step[r]))}
    for at, target in zip(made.inputs.predict_at, made.inputs.targets, strict=True):
        assert whole[int(made.inputs.tokens[0, at])] == whole[int(target)] - 1
        assert int(made.inputs.positions[0, at]) == whole[int(target)] - 1
    assert made.inputs.targets.tolist() == [int(t) for r in rows for t in trained_of(step[r])]
    assert made.mask.sum() == made.inputs.targets.numel()
    read = Step(Columns.of(step)).lengths[rows].sum()
    assert made.inputs.tokens.numel() == max(1, read)


def sequence(one: Experience) -> np.ndarray:
    return np.concatenate([one.group.prompt.tokens, one.group.rollouts[0].tokens])


def trained_of(one: Experience) -> np.ndarray:
    return one.group.rollouts[0].tokens[one.group.rollouts[0].trained]


def test_rows_are_numbered_through_all_groups_and_totals_count_what_is_trained():
    untrained = rollout([5, 6], trained=[0, 0])
    groups = [
        experience([1], rollout([5, 6, 7]), untrained, rollout([8]), pairs=((2, 0),)),
        experience([2], rollout([])),
    ]

    step = Step(Columns.of(groups), budget=9)

    assert step.lengths.tolist() == [3, 0, 1, 0]
    assert step.trained.tolist() == [3, 0, 1, 0]
    assert step.rows([1, 0]).tolist() == [3, 0, 1, 2]
    assert step.tokens == 4
    assert step.totals([0, 1]) == Totals(tokens=4, responses=2, pairs=1, budget=9)
    assert step.totals([1]) == Totals(tokens=0, responses=0, pairs=0, budget=9)


def test_each_target_knows_its_place_among_the_tokens_of_the_step():
    groups = [experience([1], rollout([5, 6], trained=[0, 1])), experience([2], rollout([7, 8]))]
    step = Step(Columns.of(groups))

    made = step.collate(np.array([1, 0]))

    assert made.at.tolist() == [1, 2, 0]
    flat = TokenScores(logp=torch.tensor([-1.0, -2.0, -3.0]))
    assert made.taken(flat).logp.tolist() == [[-2, -3], [0, -1]]


def test_pairs_are_rows_of_the_micro_batch_that_holds_both():
    groups = [
        experience([1], rollout([5]), rollout([6]), pairs=((1, 0),)),
        experience([2], rollout([7]), rollout([8]), pairs=((0, 1),)),
    ]
    step = Step(Columns.of(groups))

    assert step.collate(np.array([3, 2, 1])).pairs.tolist() == [[1, 0]]
    assert step.collate(np.arange(4)).pairs.tolist() == [[1, 0], [2, 3]]
    assert step.collate(np.array([0])).pairs.shape == (0, 2)


def test_the_rows_of_a_pair_share_a_micro_batch_and_others_need_not():
    chained = experience([1], *(rollout([5, 6]) for _ in range(4)), pairs=((0, 2), (2, 3)))
    made = Step(Columns.of([chained])).microbatches([0], ranks=1, rank=0, tokens_per_microbatch=6, work=WORK)

    assert sorted(m.mask.shape[0] for m in made) == [1, 3]
    assert sum(m.pairs.shape[0] for m in made) == 2
    with pytest.raises(RecipeError, match="tokens_per_microbatch is 5"):
        Step(Columns.of([chained])).microbatches([0], ranks=1, rank=0, tokens_per_microbatch=5, work=WORK)


def test_ranks_share_the_flops_of_sequences_and_not_of_rows():
    # A row of one sequence of 80 tokens costs 6400; one of four sequences of about 20 a quarter of that.
    whole = experience([1], rollout(list(range(80))))
    parts = rewritten(list(range(80)), (20, [3]), (40, [3]), (60, [3]))
    groups = [whole, *(experience([1], parts, ordinal=n) for n in range(1, 5))]
    step = Step(Columns.of(groups))

    made = [
        step.microbatches(
            range(5),
            ranks=2,
            rank=rank,
            tokens_per_microbatch=400,
            work=Work(per_token=0.0, per_scored=0.0, per_square=1.0),
        )
        for rank in range(2)
    ]

    assert sorted([m.group.tolist() for m in rank] for rank in made) == [[[0]], [[1, 2, 3, 4]]]


def test_noise_belongs_to_the_token_and_not_to_the_split():
    groups = [experience([1], rollout([5, 6, 7]), rollout([8]), ordinal=3), experience([2], rollout([9]))]

    whole = Step(Columns.of(groups), noise_seed=7).collate(np.arange(3)).noise
    part = Step(Columns.of(groups[:1]), noise_seed=7).collate(np.array([1, 0])).noise
    other = Step(Columns.of(groups), noise_seed=8).collate(np.arange(3)).noise

    assert whole is not None
    assert part is not None
    assert other is not None
    assert torch.equal(part[1], whole[0])
    assert torch.equal(part[0], whole[1])
    assert (whole[0] != other[0]).all()
    assert Step(Columns.of(groups)).collate(np.arange(3)).noise is None
    nobody = Step(Columns.of(groups), noise_seed=7).collate(np.arange(0))
    assert nobody.noise is not None
    assert nobody.noise.shape == nobody.mask.shape


def test_rewards_and_sides_stand_beside_their_rows():
    judged = (Judgement(status="score", reward=0.5), Judgement(status="abstain", reward=None))
    one = experience([1], rollout([5]), replace(rollout([6]), opponent=True))

    made = Step(Columns.of([replace(one, judgements=judged)])).collate(np.arange(2))

    assert made.reward.tolist() == [0.5, 0.0]
    assert made.opponent.tolist() == [False, True]


def test_a_batch_holds_the_columns_and_what_the_policy_thought():
    made = Step(Columns.of([experience([1], rollout([5, 6]))])).collate(np.array([0])).to(torch.device("cpu"))
    old = TokenScores(logp=torch.tensor([[-0.5, -0.25]]))

    batch = made.batch(old=old)

    assert batch.old is old
    assert batch.reference is None
    assert batch.sampled.logp.tolist() == [[-1, -2]]
    assert batch.mask.tolist() == [[True, True]]


def test_a_prompt_without_tokens_is_refused():
    with pytest.raises(DataError, match="response 0 to prompt 'p': it goes on from no tokens"):
        Step(Columns.of([experience([], rollout([5]))])).collate(np.array([0]))


def test_a_sampled_logprob_that_is_not_finite_is_refused():
    bad = rollout([5, 6], logp=np.array([-1, np.nan], np.float32))

    with pytest.raises(
        EngineError, match="response 0 to prompt 'p': the engine reported a logprob that is not"
    ):
        Columns.of([experience([1], bad)])


@pytest.mark.parametrize("lengths", [(3,), (2, 2)])
def test_credit_that_does_not_fit_its_responses_is_refused(lengths):
    credit = tuple(np.zeros(length, np.float32) for length in lengths)

    words = re.escape(f"responses to prompt 'p' have [2] tokens, but {list(lengths)} advantages")
    with pytest.raises(TrainingError, match=words):
        experience([1], rollout([5, 6]), advantages=credit)


def test_credit_that_is_not_finite_is_refused():
    endless = (np.array([np.inf], np.float32),)

    with pytest.raises(TrainingError, match="credit that is not finite for a trained token"):
        Columns.of([experience([1], rollout([5]), advantages=endless)])


def rewritten(
    tokens: list[int], *rewrites: tuple[int, list[int]], trained: list[int] | None = None
) -> Rollout:
    records = [Rewrite(at=at, context=np.array(context, np.int32)) for at, context in rewrites]
    return replace(rollout(tokens, trained=trained), rewrites=tuple(records))


def test_a_response_whose_past_was_rewritten_is_one_row_of_several_sequences():
    split = rewritten([5, 6, 7, 8, 9], (2, [3, 4]), (4, [2]), trained=[1, 1, 0, 1, 1])
    step = Step(Columns.of([experience([1], split, rollout([5]))]))

    made = step.collate(np.array([0, 1]))

    # After the prompt 1 come 5 6, after 3 4 come 7 8, after 2 comes 9; and the other row's 5 after 1.
    assert made.inputs.tokens.tolist() == [[1, 5, 3, 4, 7, 2, 1]]
    assert made.inputs.positions.tolist() == [[0, 1, 0, 1, 2, 0, 0]]
    assert made.inputs.cu_seqlens.tolist() == [0, 2, 5, 6, 7]
    assert made.inputs.predict_at.tolist() == [0, 1, 4, 5, 6]
    assert made.inputs.targets.tolist() == [5, 6, 8, 9, 5]
    assert made.mask.tolist() == [[True, True, False, True, True], [True, False, False, False, False]]
    assert step.lengths.tolist() == [6, 1]
    assert step.totals([0]) == Totals(tokens=5, responses=2, pairs=0)


def test_a_segment_in_which_nothing_is_trained_is_not_read():
    step = Step(Columns.of([experience([1], rewritten([5, 6, 7], (1, [2, 2]), (2, [3]), trained=[1, 0, 1]))]))

    made = step.collate(np.array([0]))

    assert made.inputs.tokens.tolist() == [[1, 3]]
    assert made.inputs.targets.tolist() == [5, 7]


def test_a_segment_that_begins_from_nothing_is_refused():
    step = Step(Columns.of([experience([1], rewritten([5, 6], (1, []), trained=[1, 1]))]))

    with pytest.raises(DataError, match="response 0 to prompt 'p': it goes on from no tokens"):
        step.collate(np.array([0]))


def test_a_past_that_is_rewritten_before_the_first_token_takes_the_place_of_the_prompt():
    step = Step(Columns.of([experience([1], rewritten([5, 6], (0, [2, 3]), trained=[1, 1]))]))

    assert step.collate(np.array([0])).inputs.tokens.tolist() == [[2, 3, 5]]

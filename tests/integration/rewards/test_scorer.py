"""The scorer on real processes: what a reward does wrong costs one sample its score, and nothing else."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from llmrl.errors import DeadlineError, PluginError, RecipeError, RewardError
from llmrl.recipe.schema import Cluster, Reward, Scoring
from llmrl.rewards import Judgement, Sample
from llmrl.rewards.scoring.scorer import Scorer

MakeScorer = Callable[..., Awaitable[Scorer]]

DEADLINE_S = 1.0
KILLED = "gave no verdict within 1 s (scoring.deadline_s) and was killed"


@pytest.fixture
def pids(tmp_path: Path) -> Iterator[Path]:
    """Where the hostile reward notes its processes; a test that fails leaves none of them behind either."""
    path = tmp_path / "pids"
    path.touch()
    yield path
    for pid in noted(path):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
async def hostile(scorer_of: MakeScorer, pids: Path) -> Scorer:
    rewards = {
        "first": {"kind": "finished"},
        "bad": {"kind": "hostile", "options": {"pids": str(pids)}},
        "last": {"kind": "number", "weight": 0.5},
    }
    return await scorer_of(rewards, "hostile_rewards", deadline_s=DEADLINE_S)


def sample(response: str, answer: str | None = "5") -> Sample:
    return Sample(prompt="", response=response, answer=answer, tokens=1, finished=True)


def noted(pids: Path) -> set[int]:
    return {int(pid) for pid in pids.read_text().split()}


def running(pids: Path) -> list[int]:
    """Noted processes that still run, or wait to be buried by us, after giving the kernel a moment."""
    end = time.monotonic() + 2
    while True:
        left = [pid for pid in noted(pids) if runs(pid)]
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.02)


def runs(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    state, parent = stat.rpartition(")")[2].split()[:2]
    return state != "Z" or parent != "1"  # an orphan is buried by init, not by us


async def judged_in_time(scorer: Scorer, response: str) -> Judgement:
    start = time.monotonic()
    (judgement,) = await scorer.judge([sample(response)])
    assert time.monotonic() - start < DEADLINE_S + 5
    return judgement


@pytest.mark.parametrize(
    ("deed", "note"),
    [
        ("hang", KILLED),
        ("hang in C", KILLED),
        ("swallow", KILLED),
        ("ignore signals", KILLED),
        ("flood", KILLED),
        ("fork and hang", KILLED),
        ("raise", "raised KeyError: 'rubric' ("),
        ("system exit", "raised SystemExit: 0 ("),
        ("nan", "returned nan; a finite number, a bool, None or a Score is allowed"),
        ("text", "returned '1.0'; a finite number, a bool, None or a Score is allowed"),
        ("exit", "exited with status 0"),
        ("kill", "died with SIGKILL"),
        ("segfault", "died with SIGSEGV"),
        ("forge", "wrote into the pipe of its verdicts and was killed"),
    ],
)
async def test_a_bad_reward_is_an_error_in_time_and_the_next_is_right(
    hostile: Scorer, pids: Path, deed: str, note: str
) -> None:
    judgement = await judged_in_time(hostile, deed)

    assert (judgement.status, judgement.reward) == ("error", None)
    assert judgement.note.startswith(f"rewards.bad {note}")
    assert judgement.parts["first"] == 1.0
    (after,) = await hostile.judge([sample("# 5")])
    assert (after.status, after.reward, dict(after.parts)) == (
        "score",
        2.5,
        {"first": 1.0, "bad": 1.0, "last": 1.0},
    )
    assert hostile.take_statistics()["judgement/restarts"] == (
        0 if note.startswith(("raised", "returned")) else 1
    )
    await hostile.close()
    assert running(pids) == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the address space of a process")
async def test_a_reward_that_takes_more_memory_than_allowed_is_an_error(
    scorer_of: MakeScorer, pids: Path
) -> None:
    bad = {"kind": "hostile", "options": {"pids": str(pids)}}
    scorer = await scorer_of({"bad": bad}, "hostile_rewards", memory_mib=64)

    enough, too_much, after = await scorer.judge(
        [sample("take 32 MiB"), sample("take 128 MiB"), sample("take 32 MiB")]
    )

    assert (enough.status, enough.reward) == (after.status, after.reward) == ("score", 1.0)
    assert (too_much.status, too_much.reward) == ("error", None)
    assert too_much.note.startswith(
        "rewards.bad raised MemoryError: the machine or scoring.memory_mib allows no more ("
    )
    assert scorer.take_statistics()["judgement/restarts"] == 0


@pytest.mark.parametrize("deed", ["print", "read stdin", "fork that stays", "fork that returns"])
async def test_a_reward_that_prints_or_forks_still_scores_and_leaves_nothing(
    hostile: Scorer, pids: Path, deed: str
) -> None:
    judgements = await hostile.judge([sample(deed), sample("# 5"), sample("# 6")])

    assert [judgement.reward for judgement in judgements] == [2.0, 2.5, 2.0]
    assert hostile.take_statistics()["judgement/restarts"] == 0
    await hostile.close()
    assert running(pids) == []


async def test_an_abstention_is_no_score_and_no_error(hostile: Scorer) -> None:
    (judgement,) = await hostile.judge([sample("abstain")])

    assert (judgement.status, judgement.reward) == ("abstain", None)
    assert judgement.note == "rewards.bad abstained: no opinion"


async def test_a_tower_of_powers_is_refused_and_endless_algebra_ends_at_the_deadline(
    scorer_of: MakeScorer,
) -> None:
    scorer = await scorer_of({"correct": {"kind": "math"}}, deadline_s=DEADLINE_S)
    endless = sample(r"\boxed{(\sin x + \cos y)^{99}}", answer=r"\sin(x) + 7")

    refused = await judged_in_time(scorer, r"\boxed{9^{9^{9^{9}}}}")
    start = time.monotonic()
    (killed,) = await scorer.judge([endless])

    assert time.monotonic() - start < DEADLINE_S + 5
    assert (refused.status, refused.reward) == ("score", 0.0)
    assert (killed.status, killed.note) == ("error", f"rewards.correct {KILLED}")
    (after,) = await scorer.judge([sample(r"\boxed{\frac{10}{2}}")])
    assert after.reward == 1.0


async def test_bad_samples_in_a_batch_cost_only_themselves(hostile: Scorer, pids: Path) -> None:
    responses = ["# 5", "kill", "# 6", "hang", "exit", "# 5", "raise", "nan"] + ["# 5"] * 60

    judgements = await hostile.judge([sample(response) for response in responses])

    expected = [2.5, None, 2.0, None, None, 2.5, None, None] + [2.5] * 60
    assert [judgement.reward for judgement in judgements] == expected
    assert hostile.take_statistics()["judgement/restarts"] == 3
    await hostile.close()
    assert running(pids) == []


async def test_several_processes_share_the_work_and_keep_the_order(scorer_of: MakeScorer) -> None:
    scorer = await scorer_of({"correct": {"kind": "number"}}, processes=2)

    asked = [[sample(f"# {n}", str(n % 7)) for n in range(start, start + 50)] for start in range(4)]
    answered = await asyncio.gather(*(scorer.judge(samples) for samples in asked))

    for start, judgements in enumerate(answered):
        assert [judgement.reward for judgement in judgements] == [
            float(n < 7) for n in range(start, start + 50)
        ]
    assert await scorer.judge([]) == ()


async def test_odd_text_survives_the_pipe(scorer_of: MakeScorer) -> None:
    scorer = await scorer_of({"same": {"kind": "exact", "options": {"strip": False}}})
    texts = ["", "\n\r\x00\x1b[31m", "\u2028\U0001f600", "\ud800 lone", '"}\n{', "x" * 1_000_000]

    judgements = await scorer.judge([sample(text, answer=text or "x") for text in texts])

    assert [judgement.status for judgement in judgements] == ["score"] * 6
    assert [judgement.reward for judgement in judgements] == [0.0, 1.0, 1.0, 1.0, 1.0, 1.0]


async def test_a_blocked_event_loop_is_not_blamed_on_the_reward(scorer_of: MakeScorer) -> None:
    scorer = await scorer_of({"correct": {"kind": "number"}}, deadline_s=1.0)

    # Four times what a pipe holds: the rest is written only when the loop goes on.
    judging = asyncio.create_task(scorer.judge([sample("# 5 " + "x" * 500_000)] * 4))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    time.sleep(2.5)  # what a long synchronous call in the driver does

    assert [judgement.status for judgement in await judging] == ["score"] * 4


async def test_a_cancelled_ask_does_not_answer_the_next(hostile: Scorer) -> None:
    judging = asyncio.create_task(hostile.judge([sample("hang"), sample("# 6")]))
    await asyncio.sleep(0.2)

    judging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await judging

    (after,) = await hostile.judge([sample("# 5")])
    assert after.reward == 2.5


async def test_what_has_begun_keeps_its_process_when_nobody_waits_for_it_and_what_waits_is_not_judged(
    hostile: Scorer, pids: Path
) -> None:
    judging = [asyncio.create_task(hostile.judge([sample("take its time")])) for _ in range(2)]
    async with asyncio.timeout(20):
        while not noted(pids):
            await asyncio.sleep(0.01)

    for one in judging:
        one.cancel()
    outcomes = await asyncio.gather(*judging, return_exceptions=True)
    (after,) = await hostile.judge([sample("# 5")])

    assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 2
    assert (after.reward, hostile.take_statistics()["judgement/restarts"]) == (2.5, 0)
    assert len(pids.read_text().split()) == 2  # calls: what had begun, and the last one


async def test_a_process_that_is_killed_while_idle_is_replaced(hostile: Scorer, pids: Path) -> None:
    await hostile.judge([sample("# 5")])
    (child,) = noted(pids)

    (process,) = hostile._processes

    os.kill(child, signal.SIGKILL)
    async with asyncio.timeout(20):
        while process.alive:
            await asyncio.sleep(0.01)

    (after,) = await hostile.judge([sample("# 5")])
    assert (after.reward, hostile.take_statistics()["judgement/restarts"]) == (2.5, 1)


async def test_closing_ends_what_is_being_judged(hostile: Scorer) -> None:
    judging = asyncio.create_task(hostile.judge([sample("hang"), sample("# 5")]))
    await asyncio.sleep(0.2)

    await hostile.close()

    with pytest.raises(RewardError, match="the scorer was closed while responses were still to be judged"):
        await judging


DRIVER = """
import asyncio, sys
from llmrl.recipe.schema import Cluster, Reward, Scoring
from llmrl.rewards import Sample
from llmrl.rewards.scoring.scorer import Scorer

async def main():
    table = Reward(kind="hostile", options={"pids": sys.argv[1]})
    scorer = Scorer({"bad": table}, Scoring(deadline_s=60), ["hostile_rewards"], Cluster())
    await scorer.start()
    await scorer.judge([Sample(prompt="", response=sys.argv[2], answer=None, tokens=1, finished=True)])
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.parametrize("deed", ["nothing", "fork that stays", "hang", "hang in C"])
def test_no_child_survives_a_killed_driver(plugins: Path, pids: Path, deed: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(plugins)}
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(pids), deed], env=environment)
    end = time.monotonic() + 30
    while not noted(pids) and time.monotonic() < end:
        time.sleep(0.02)
    time.sleep(0.3)
    assert noted(pids)
    assert all(runs(pid) for pid in noted(pids))

    driver.kill()
    driver.wait()

    assert running(pids) == []


async def test_a_plugin_that_cannot_be_imported_stops_the_start_with_its_traceback(
    scorer_of: MakeScorer,
) -> None:
    with pytest.raises(PluginError) as caught:
        await scorer_of({"correct": {"kind": "number"}}, "broken_plugin", processes=2)

    message = str(caught.value)
    assert "plugins: 'broken_plugin' cannot be imported: ModuleNotFoundError" in message
    assert 'broken_plugin.py", line 3' in message


async def test_an_unknown_reward_stops_the_start(scorer_of: MakeScorer) -> None:
    with pytest.raises(
        RecipeError, match=r"rewards\.correct\.kind: no reward named 'numbr'\. Did you mean 'number'\?"
    ):
        await scorer_of({"correct": {"kind": "numbr"}})


@pytest.mark.parametrize("table", [{"kind": "refused"}, {"kind": "versus", "options": {"kind": "refused"}}])
async def test_what_a_reward_needs_and_does_not_find_is_told_in_its_own_words(
    scorer_of: MakeScorer, table: dict[str, object]
) -> None:
    with pytest.raises(RewardError) as caught:
        await scorer_of({"bad": table}, "hostile_rewards")

    assert str(caught.value) == "rewards: this machine has no user namespaces."


async def test_a_process_that_is_not_ready_in_the_time_of_a_start_is_refused(scorer_of: MakeScorer) -> None:
    table = {"kind": "patient", "options": {"seconds": 60}}

    with pytest.raises(DeadlineError, match=r"not ready within 5 s \(cluster\.start_deadline_s\)"):
        await scorer_of({"slow": table}, "needy_rewards", cluster=Cluster(start_deadline_s=5))


async def test_rewards_have_the_variables_of_every_process_of_the_run(scorer_of: MakeScorer) -> None:
    table = {"kind": "keyed", "options": {"variable": "JUDGE_KEY"}}
    scorer = await scorer_of({"key": table}, "needy_rewards", cluster=Cluster(environment={"JUDGE_KEY": "k"}))

    (judgement,) = await scorer.judge([sample("k")])

    assert judgement.reward == 1.0


def test_a_scorer_without_rewards_is_refused() -> None:
    with pytest.raises(RecipeError, match="rewards: the stage has none"):
        Scorer({}, Scoring(), (), Cluster())


@pytest.mark.slow
async def test_one_process_judges_3000_numbers_a_second() -> None:
    scorer = Scorer({"correct": Reward(kind="number")}, Scoring(), (), Cluster())
    await scorer.start()
    samples = [sample(f"{n} + 1 = {n + 1}, so the answer is {n + 1}.", str(n + 1)) for n in range(6000)]

    start = time.monotonic()
    judgements = await scorer.judge(samples)
    rate = len(samples) / (time.monotonic() - start)

    await scorer.close()
    assert {judgement.reward for judgement in judgements} == {1.0}
    assert rate > 3000

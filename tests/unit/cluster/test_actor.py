"""Calls that are given up end as given up, whatever arrives in the same moment."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from pathlib import Path

import pytest
import ray
from ray.exceptions import (
    ObjectLostError,
    OutOfMemoryError,
    PendingCallsLimitExceeded,
    RayError,
    RayTaskError,
)

from llmrl.cluster import actor
from llmrl.cluster.actor import Actor, Pending, gathered
from llmrl.errors import DeadlineError, DeadProcessError, LlmrlError, TrainingError


class Reference:
    """What ``Pending`` asks of Ray's reference: a future that ends at a moment of the test's choosing."""

    def __init__(self) -> None:
        self.value: Future[int] = Future()

    def failed(self, cause: Exception) -> Reference:
        """It has ended with what a call of the process raised, as Ray hands that over."""
        self.value.set_exception(RayTaskError("call", "the remote traceback", cause).as_instanceof_cause())
        return self

    def died(self, error: RayError) -> Reference:
        """Ray has given up on its process."""
        self.value.set_exception(error)
        return self

    def future(self) -> Future[int]:
        return self.value


def test_a_process_is_not_called_when_its_cluster_is_gone() -> None:
    assert not ray.is_initialized()
    with pytest.raises(DeadProcessError, match=r"engine-0\.abandon was called when its cluster was gone"):
        Actor(None, "engine-0", Path()).send("abandon")
    assert not ray.is_initialized()  # Ray starts a cluster for whoever calls


async def test_a_call_without_an_answer_names_the_key_of_its_deadline() -> None:
    words = r"engine-0\.generate did not answer within 0\.01 s \(cluster\.call_deadline_s"
    with pytest.raises(DeadlineError, match=words):
        await Pending(Reference(), "engine-0.generate").result(deadline_s=0.01)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cause", "kind", "words"),
    [
        (TimeoutError("the hub is down"), LlmrlError, "engine-0.start failed:\n.*\n?the remote traceback"),
        (DeadlineError("the judge is late"), DeadlineError, "engine-0.start: the judge is late"),
    ],
)
async def test_what_was_late_inside_of_a_call_is_told_as_it_was(
    cause: Exception, kind: type[LlmrlError], words: str
) -> None:
    with pytest.raises(kind, match=words) as caught:
        await Pending(Reference().failed(cause), "engine-0.start").result(deadline_s=5)  # type: ignore[arg-type]

    assert "stuck" not in str(caught.value)


@pytest.mark.parametrize("turns", range(6))
async def test_a_cancelled_call_returns_nothing_even_if_its_value_is_just_arriving(turns: int) -> None:
    reference = Reference()
    waiting = asyncio.create_task(Pending(reference, "engine-0.generate").result(deadline_s=5))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    reference.value.set_result(1)
    for _ in range(turns):  # each turn of the loop carries the value one station further
        await asyncio.sleep(0)

    cancelled = waiting.cancel()
    ended = await asyncio.gather(waiting, return_exceptions=True)

    assert isinstance(ended[0], asyncio.CancelledError) if cancelled else ended == [1]


async def test_a_process_that_the_system_killed_for_memory_is_named() -> None:
    killed = Reference().died(OutOfMemoryError("the node ran out of memory"))
    with pytest.raises(DeadProcessError, match=r"policy-1\.update failed because its process died: .*memory"):
        await Pending(killed, "policy-1.update").result(deadline_s=5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "error", [PendingCallsLimitExceeded("too many"), ObjectLostError("1" * 56, None, "put")]
)
async def test_a_process_that_cannot_be_reached_is_not_called_dead(error: RayError) -> None:
    away = Reference().died(error)
    with pytest.raises(LlmrlError, match=r"judge-0\.answer could not be reached") as caught:
        await Pending(away, "judge-0.answer").result(deadline_s=5)  # type: ignore[arg-type]
    assert not isinstance(caught.value, DeadProcessError)


async def test_who_died_is_told_of_rather_than_who_noticed_first() -> None:
    noticed = Reference().failed(TrainingError("connection closed by peer"))
    dead, later, hangs = Reference(), Reference(), Reference()
    asyncio.get_running_loop().call_later(0.02, later.failed, TrainingError("connection closed by peer"))
    asyncio.get_running_loop().call_later(0.1, dead.died, OutOfMemoryError("killed"))
    pending = [Pending(one, f"policy-{n}.update") for n, one in enumerate((noticed, dead, later, hangs))]  # type: ignore[arg-type]

    with pytest.raises(DeadProcessError, match=r"policy-1\.update failed because its process died"):
        await gathered(pending, deadline_s=60)


async def test_who_fails_alone_is_told_of_while_others_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(actor, "ECHO_S", 0.05)
    pending = [
        Pending(Reference(), "policy-0.update"),  # type: ignore[arg-type]
        Pending(Reference().failed(TrainingError("the loss is not finite")), "policy-1.update"),  # type: ignore[arg-type]
    ]

    with pytest.raises(TrainingError, match=r"policy-1\.update: the loss is not finite"):
        await gathered(pending, deadline_s=60)

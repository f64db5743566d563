"""vLLM's scheduler, but a response leaves the engine's process once, as a whole, not token by token.

Nobody reads a response before its end, and a message for every token costs both processes more than the
forward pass of a small model. What was sampled is sent early only before weights change, because a message
has one weight version, and where the other process must look for stop strings.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from vllm.sampling_params import RequestOutputKind
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs
from vllm.v1.outputs import LogprobsLists, ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus

from llmrl.rollouts.engines.vllm_owner import end_with_owner

FIRST = -1
"""The priority of what is scored: below all orders of requests."""


class WholeScheduler(Scheduler):
    """Keeps the outputs of a request until it ends or generation is paused.

    What is scored comes ``FIRST``, and finds a place also where responses have taken all: a sync is over only
    when its probe is scored.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        end_with_owner()  # of what vLLM starts in that process, this class alone is ours
        self._kept: dict[str, list[EngineCoreOutput]] = {}
        self._resumed = 0
        self._places = self.max_num_active_reqs

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        """Choose what is computed next."""
        urgent = bool(self.waiting) and self.waiting.peek_request().priority == FIRST
        self.max_num_active_reqs = self._places + urgent
        return super().schedule(throttle_prefills)

    def update_from_output(
        self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput
    ) -> dict[int, EngineCoreOutputs]:
        """Pick the outputs that leave the process after a step."""
        sent = super().update_from_output(scheduler_output, model_runner_output)
        for message in sent.values():
            message.outputs = [self._joined(one) for one in message.outputs if not self._keeps(one)]
        if self._must_send:
            for name in list(self._kept):
                client = sent.setdefault(self.requests[name].client_index, EngineCoreOutputs(outputs=[]))
                client.outputs.append(join(self._kept.pop(name)))
        return sent

    def has_requests(self) -> bool:
        """Whether the engine takes another step; a pause is complete only when nothing is kept any more."""
        return super().has_requests() or self._must_send

    def finish_requests(
        self, request_ids: str | Iterable[str] | None, finished_status: RequestStatus
    ) -> list[Request]:
        """End requests from outside, and drop the outputs they have."""
        ended = super().finish_requests(request_ids, finished_status)
        for request in ended:
            self._kept.pop(request.request_id, None)
        return ended

    def set_pause_state(self, pause_state: PauseState) -> None:
        """Have requests that waited through a pause read their prompts with the new weights."""
        super().set_pause_state(pause_state)
        if pause_state == PauseState.UNPAUSED:
            self._resumed += 1
            for request in self.waiting:
                _salt(request, f"resumed-{self._resumed}")

    @property
    def _must_send(self) -> bool:
        # Drained too: what was preempted waits until there are new weights, and goes on with those.
        return bool(self._kept) and self.pause_state != PauseState.UNPAUSED

    def _keeps(self, output: EngineCoreOutput) -> bool:
        if output.finished or not self._is_read_whole(output.request_id):
            return False
        self._kept.setdefault(output.request_id, []).append(output)
        return True

    def _is_read_whole(self, name: str) -> bool:
        sampling = self.requests[name].sampling_params
        return (
            sampling is not None
            and sampling.output_kind == RequestOutputKind.FINAL_ONLY
            and not sampling.stop
        )

    def _joined(self, last: EngineCoreOutput) -> EngineCoreOutput:
        return join([*self._kept.pop(last.request_id, ()), last])


class WholeAsyncScheduler(WholeScheduler, AsyncScheduler):
    """The same scheduler where vLLM plans the next step while the GPU is busy with this one."""


def _salt(request: Request, salt: str) -> None:
    """Let a request share KV cache only with requests of this salt, such as those that waited with it."""
    request.cache_salt = salt
    request.block_hashes.clear()
    request.update_block_hashes()


def join(outputs: Sequence[EngineCoreOutput]) -> EngineCoreOutput:
    """Merge one request's outputs into the last, with the tokens and logprobs of them all."""
    last = outputs[-1]
    last.new_token_ids = [token for one in outputs for token in one.new_token_ids]
    last.new_logprobs = _in_a_row([one.new_logprobs for one in outputs if one.new_logprobs is not None])
    last.prefill_stats = outputs[0].prefill_stats
    return last


def _in_a_row(logprobs: Sequence[LogprobsLists]) -> LogprobsLists | None:
    if not logprobs:
        return None
    return LogprobsLists(
        np.concatenate([one.logprob_token_ids for one in logprobs]),
        np.concatenate([one.logprobs for one in logprobs]),
        np.concatenate([one.sampled_token_ranks for one in logprobs]),
    )

"""Agent: an environment of verifiers 0.3 or later (``verifiers.v1``), in a virtual environment of its own.

    python verifiers_v1_agent.py --taskset NAME --rows > rows.jsonl
    python verifiers_v1_agent.py --taskset NAME

The first writes its tasks, the second answers each row on stdin with the reward of an episode of that task.
``--configuration`` is the rest of what verifiers calls ``env``, as JSON. By default its agent is a plain chat
(harness ``null``) in a process of this machine for each episode, which verifiers starts with ``uv``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Mapping
from typing import Any

import verifiers.v1 as vf

KEY = "LLMRL_API_KEY"
CHAT = {"agent": {"harness": {"id": "null"}, "runtime": {"type": "subprocess"}}}


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--taskset", required=True, metavar="NAME")
    options.add_argument("--configuration", type=json.loads, default=CHAT, metavar="JSON")
    options.add_argument("--rows", action="store_true")
    given = options.parse_args()
    taskset = {**given.configuration.get("taskset", {}), "id": given.taskset}
    config = vf.resolve_env_config({**given.configuration, "taskset": taskset})
    environment = vf.load_environment(config)
    if not given.rows:
        asyncio.run(serve(environment))
        return
    for task in environment.taskset:
        write({**task.data.model_dump(mode="json"), "text": task.data.prompt_text})


async def serve(environment: vf.Env) -> None:
    """A line with an outcome for each line with a row; the next one comes only after it."""
    kind = environment.taskset.task_type()
    for line in sys.stdin:
        row = json.loads(line)
        os.environ[KEY] = row["api_key"]
        client = vf.EvalClientConfig(base_url=row["base_url"], api_key_var=KEY)
        policy = vf.ModelContext(model=row["model"], client=client, sampling=vf.SamplingConfig())
        data = kind.data_type().model_validate_json(row["answer"])
        task = kind(data, environment.config.taskset.task)
        async with environment.serving():  # anew, as it keeps a client with the key of its first row
            write(outcome_of(await environment.run_episode(task, policy)))


def outcome_of(episode: vf.Episode) -> dict[str, Any]:
    """The reward of everybody together; an episode that did not go well is an error."""
    errors = [*episode.errors, *(error for trace in episode.traces for error in trace.errors)]
    if errors or not episode.ok:
        return {"error": "; ".join(f"{one.type}: {one.message}" for one in errors) or "not completed"}
    return {"outcome": sum(trace.reward for trace in episode.traces)}


def write(line: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

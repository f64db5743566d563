"""Agent: an environment of verifiers, in a virtual environment of its own that knows nothing of llmrl.

    python verifiers_agent.py --environment NAME --rows -1 > rows.jsonl
    python verifiers_agent.py --environment NAME

The first writes its dataset, the second answers each row on stdin with what its rubric says of a rollout.
NAME is a module that can be imported and has ``load_environment``; ``--arguments`` are those, as JSON.
For verifiers 0.1.14 to 0.2; ``verifiers_v1_agent.py`` is for what came after them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping
from typing import Any

import verifiers
from openai import AsyncOpenAI
from verifiers.clients import OpenAIChatCompletionsClient


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--environment", required=True, metavar="NAME")
    options.add_argument("--arguments", type=json.loads, default={}, metavar="JSON")
    options.add_argument("--rows", type=int, metavar="N")
    given = options.parse_args()
    environment = verifiers.load_environment(given.environment, **given.arguments)
    if given.rows is None:
        asyncio.run(serve(environment))
        return
    for row in environment.get_dataset(n=given.rows):
        write({**row, "text": "".join(message["content"] for message in row["prompt"])})


async def serve(environment: verifiers.Environment) -> None:
    """A line with an outcome for each line with a row; the next one comes only after it."""
    client = None
    for line in sys.stdin:
        row = json.loads(line)
        client = client or AsyncOpenAI(base_url=row["base_url"], api_key="of no rollout")
        policy = OpenAIChatCompletionsClient(client.with_options(api_key=row["api_key"]))
        example = json.loads(row["answer"])
        done = await environment.run_rollout(example, policy, row["model"], sampling_args={})
        write(outcome_of(done))


def outcome_of(done: Mapping[str, Any]) -> dict[str, Any]:
    """The reward of a rollout; what went wrong in it, an empty answer of the policy too, is an error."""
    error = done.get("error")
    return {"outcome": done["reward"]} if error is None else {"error": error["error_chain_repr"]}


def write(line: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

"""TRL's side of ``accuracy``: GRPOTrainer on a recipe's task, in a process with TRL on its path."""

from __future__ import annotations

import json
import sys
import time
import tomllib
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer  # pyright: ignore[reportMissingImports]

from llmrl.prompts.tasks import read_task
from llmrl.recipe.schema import Source
from llmrl.rewards.judgement import Sample
from llmrl.rewards.kinds.number import Number


class Clock(TrainerCallback):
    """Seconds and mean reward of every step, from the first one's beginning; stops at the goal."""

    def __init__(self, goal: float, mean_of: int) -> None:
        self.goal, self.mean_of, self.began = goal, mean_of, 0.0
        self.rewards: list[float] = []
        self.seconds: list[float] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.began = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, *, logs: dict[str, Any], **_: Any) -> None:
        if "reward" in logs:
            self.rewards.append(float(logs["reward"]))
            self.seconds.append(time.monotonic() - self.began)
            last = self.rewards[-self.mean_of :]
            if len(last) == self.mean_of and fmean(last) >= self.goal:
                control.should_training_stop = True


def main() -> None:
    """Train as the job says, and write what the clock saw."""
    job = json.loads(sys.argv[1])
    recipe = tomllib.loads(Path(job["recipe"]).read_text(encoding="utf-8"))
    (stage,) = (one for one in recipe["stages"] if one["name"] == "grpo")
    prompts, rollouts, optimizer = recipe["prompts"], recipe["rollouts"], stage["optimizer"]
    rows = [
        row
        for number, source in enumerate(prompts["sources"])
        for row in read_task(Source(**source), key=f"prompts.sources.{number}", seed=job["seed"])
    ]
    score = Number(**recipe["rewards"]["answer"]["options"])

    def reward(prompts: list[str], completions: list[str], gold: list[str], **_: Any) -> list[float]:
        judged = [
            score(Sample(prompt=p, response=c, answer=g, tokens=len(c), finished=True))
            for p, c, g in zip(prompts, completions, gold, strict=True)
        ]
        return [float(one.value or 0.0) for one in judged]

    batch = prompts["per_step"] * rollouts["per_prompt"]
    config = GRPOConfig(
        output_dir=str(Path(job["out"]).with_suffix("")),
        per_device_train_batch_size=batch,
        num_generations=rollouts["per_prompt"],
        max_completion_length=rollouts["max_tokens"],
        max_steps=job["steps"] or optimizer["steps"],
        learning_rate=optimizer["lr"],
        lr_scheduler_type=optimizer["schedule"],
        warmup_steps=optimizer["warmup_steps"],
        adam_beta1=optimizer["betas"][0],
        adam_beta2=optimizer["betas"][1],
        max_grad_norm=1.0,
        temperature=1.0,
        beta=0.0,
        loss_type="grpo",
        seed=job["seed"],
        use_cpu=not torch.cuda.is_available(),
        bf16=False,
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    clock = Clock(job["goal"], job["mean_of"])
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32),
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_list([{"prompt": one.prompt, "gold": one.answer} for one in rows]),
        processing_class=AutoTokenizer.from_pretrained(job["model"]),
        callbacks=[clock],
    )
    trainer.train()
    Path(job["out"]).write_text(json.dumps({"rewards": clock.rewards, "seconds": clock.seconds}))


if __name__ == "__main__":
    main()

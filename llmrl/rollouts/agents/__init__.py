"""Programs that call the policy by themselves, through an endpoint that records every token."""

from llmrl.rollouts.agents.agent import Agent

__all__ = ["Agent"]

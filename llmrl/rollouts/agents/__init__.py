"""Programs that talk to the policy by themselves, through an endpoint that writes down every token."""

from llmrl.rollouts.agents.agent import Agent

__all__ = ["Agent"]

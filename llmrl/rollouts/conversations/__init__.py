"""Conversations of the policy with an environment, turn by turn."""

"""For plugin authors: tiny updates, and the conformance kit that proves a loss of one's own."""

from llmrl.testing.finding import Finding
from llmrl.testing.gradient import Outcome, outcome
from llmrl.testing.kit import CHECKS, check_objective, faults
from llmrl.testing.tiny import tiny_update
from llmrl.testing.update import Update

__all__ = ["CHECKS", "Finding", "Outcome", "Update", "check_objective", "faults", "outcome", "tiny_update"]

"""Test vectors: other people's inputs, losses and gradients, compared with those of the code that trains."""

from llmrl.vectors.check import Verdict, check_folder, check_vector
from llmrl.vectors.vector import Vector, read_folder

__all__ = ["Vector", "Verdict", "check_folder", "check_vector", "read_folder"]

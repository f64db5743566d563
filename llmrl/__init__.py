"""Post-training of language models with reinforcement learning, on Ray, vLLM and DeepSpeed."""

__version__ = "0.1.0"

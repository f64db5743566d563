"""The engines, which generate; import the registry from here."""

from llmrl.rollouts.engines import kinds as _kinds
from llmrl.rollouts.engines.engine import Completion, Engine, EngineKind, Request, Sampler, Sampling, engine
from llmrl.rollouts.engines.serving import Serving

__all__ = ["Completion", "Engine", "EngineKind", "Request", "Sampler", "Sampling", "Serving", "engine"]

del _kinds

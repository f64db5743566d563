"""Low-rank adapters by PEFT: put into a model, and merged out of place. Imported where a recipe has them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import cast

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear, LoraLayer
from torch import Tensor, nn

from llmrl.errors import ModelError, did_you_mean, shown
from llmrl.recipe.schema import Lora
from llmrl.weights.adapter import merged


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Adapter:
    """A weight with its low-rank factors."""

    name: str
    """Name of the weight in the Hugging Face state dict."""
    base: Tensor
    """[outputs, inputs] frozen weight."""
    down: Tensor
    """[rank, inputs] factor."""
    up: Tensor
    """[outputs, rank] factor."""
    scale: Tensor
    """Scalar factor, alpha / rank."""

    def merged(self) -> Tensor:
        """A copy of the weight with its adapter added; the model itself never changes."""
        return merged(self.base.detach(), down=self.down, up=self.up, scale=float(self.scale))


def adapt(model: nn.Module, settings: Lora) -> None:
    """Put adapters into ``model`` in place and freeze everything else; at first they change nothing.

    Raises:
        ModelError: a target does not exist or is not a linear layer.
    """
    whole = settings.targets == ("all-linear",)
    if not whole:
        for target in settings.targets:
            _check_target(model, target)
    adapters = LoraConfig(
        r=settings.rank,
        lora_alpha=cast("int", settings.alpha),  # PEFT annotates int and takes any number
        target_modules="all-linear" if whole else list(settings.targets),
        lora_dropout=0.0,
    )
    # Every rank, and every run that resumes, begins with the same adapters.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        with warnings.catch_warnings():
            # PEFT warns of experts' names and of transposed matrices, which are refused below.
            warnings.simplefilter("ignore", RuntimeWarning)
            warnings.filterwarnings("ignore", "fan_in_fan_out")
            inject_adapter_in_model(adapters, model)
    for name, layer in _modules(model):
        if isinstance(layer, LoraLayer) and not isinstance(layer.get_base_layer(), nn.Linear):
            raise ModelError(
                f"model.lora.targets: PEFT would adapt {name}, which is not a linear layer; "
                'name layers that are, such as ["q_proj", "v_proj"].'
            )


def _check_target(model: nn.Module, target: str) -> None:
    named = [layer for name, layer in _modules(model) if f".{name}".endswith(f".{target}")]
    if not named:
        known = {name.rpartition(".")[2] for name, layer in _modules(model) if isinstance(layer, nn.Linear)}
        raise ModelError(f"model.lora.targets: no layer named {shown(target)}.{did_you_mean(target, known)}")
    if other := [layer for layer in named if not isinstance(layer, nn.Linear)]:
        raise ModelError(
            f"model.lora.targets: {shown(target)} names a layer of kind {type(other[0]).__name__}; "
            f"only linear layers get adapters."
        )


def adapters(model: nn.Module) -> Iterator[Adapter]:
    """Every adapter in ``model``, by the name that its weight had before."""
    for name, layer in _modules(model):
        if isinstance(layer, Linear):
            yield _adapter(name, layer)


def _modules(model: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    return cast("Iterable[tuple[str, nn.Module]]", model.named_modules())


def _adapter(name: str, layer: Linear) -> Adapter:
    ((adapter, scale),) = cast("dict[str, float]", layer.scaling).items()
    return Adapter(
        name=f"{name}.weight",
        base=cast("nn.Linear", layer.get_base_layer()).weight,
        down=cast("nn.Linear", layer.lora_A[adapter]).weight,
        up=cast("nn.Linear", layer.lora_B[adapter]).weight,
        scale=torch.tensor(scale, dtype=torch.float64),
    )

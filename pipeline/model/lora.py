"""LoRA through peft (Hu et al., arXiv 2106.09685): placed on named linear modules, switched off, merged.

Its weights stay in fp32, and have `lora_` in their names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peft
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.model.base import ModelError
from pipeline.plugins import nearest

MARK = "lora_"
_NAME = "default"  # of the one set of LoRA weights that a part has
_WEIGHTS, _CONFIG = "adapter_model.safetensors", "adapter_config.json"  # as peft names them
_PREFIX = "base_model.model."  # of keys in peft's files


def place(
    part: nn.Module, what: str, rank: int, alpha: float, dropout: float, targets: Sequence[str], *, seed: int = 0
) -> None:
    """Puts LoRA on the linear modules of these names. It changes nothing: its B is zero.

    Args:
        part: An LLM, or an encoder.
        what: Names it in errors.
        rank, alpha, dropout: The change is alpha / rank * B(A(dropout(x))).
        targets: Last names of modules, such as `q_proj`.
        seed: A is drawn from it alone.

    Raises:
        ModelError: A name fits no linear module, or one that shares its weight; or the part has LoRA already.
    """
    if layers(part):
        raise ModelError(f"{what} has LoRA already: merge it first")
    names = sorted({name.rpartition(".")[2] for name, module in part.named_modules() if _is_linear(module)})
    for target in targets:
        if target not in names:
            raise ModelError(
                f"{what} has no linear module {target!r} for LoRA.{nearest(target, names)} "
                f"There are: {', '.join(names)}"
            )
    for name, module in part.named_modules():
        if name.rpartition(".")[2] in targets and _is_shared(part, module):
            raise ModelError(
                f"{what} shares the weight of {name} with its embeddings, so LoRA on it could not be merged: take "
                f"{name.rpartition('.')[2]!r} out of `lora.targets`"
            )
    kind: Any = peft.LoraConfig  # it says that alpha is an int, and takes any number
    config = kind(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=sorted(set(targets)))
    _inject(part, config, seed)


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"  # GPT-2's linear layer


def _is_shared(part: nn.Module, module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    embeddings = (other for other in part.modules() if isinstance(other, nn.Embedding))
    return weight is not None and any(other.weight is weight for other in embeddings)


def _inject(part: nn.Module, config: Any, seed: int) -> None:
    trained = {name: p.requires_grad for name, p in part.named_parameters()}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        peft.inject_adapter_in_model(config, part, _NAME)
    for name, parameter in part.named_parameters():
        if MARK in name:
            parameter.data = parameter.data.float()
        else:  # peft freezes the rest
            parameter.requires_grad_(trained[name.replace(".base_layer.", ".")])
    for layer in layers(part):
        layer.train(layer.get_base_layer().training)  # its dropout is new, and thinks that it trains


def layers(part: nn.Module) -> list[Any]:
    """The modules that LoRA is on."""
    return [module for module in part.modules() if isinstance(module, LoraLayer)]


@contextmanager
def off(part: nn.Module) -> Iterator[None]:
    """Within, the part is as it was before LoRA."""
    found = layers(part)
    before = [layer._disable_adapters for layer in found]
    for layer in found:
        # `enable_adapters` would also change what is trained.
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer, was in zip(found, before, strict=True):
            layer._disable_adapters = was


def changed(part: nn.Module) -> bool:
    """Whether LoRA changes anything: whether a B is not zero."""
    return any(bool(layer.lora_B[_NAME].weight.any()) for layer in layers(part))


def merge(part: nn.Module) -> None:
    """Adds LoRA to the weights it stands beside, and takes it away.

    Raises:
        ModelError: A sum is not finite.
    """
    for name, module in list(part.named_modules()):
        if not isinstance(module, LoraLayer):
            continue
        try:
            module.merge(safe_merge=True)
        except ValueError as error:
            raise ModelError(f"LoRA on {name} cannot be merged: {error}") from error
        parent, _, last = name.rpartition(".")
        setattr(part.get_submodule(parent), last, module.get_base_layer())
    _forget(part)


def _forget(part: nn.Module) -> None:
    for module in part.modules():
        if hasattr(module, "peft_config"):
            del module.peft_config


def without(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without LoRA, its keys as before LoRA was placed."""
    return {key.replace(".base_layer.", "."): value for key, value in state.items() if MARK not in key}


def save(part: nn.Module, state: dict[str, Tensor], folder: Path) -> None:
    """Writes LoRA in peft's format, so that peft finds its way.

    Args:
        part: What LoRA was placed on.
        state: Its state dict.
        folder: Made if it is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    held: Any = part.peft_config
    config: peft.LoraConfig = held[_NAME]
    targets = config.target_modules
    config.target_modules, config.inference_mode = sorted(targets or ()), True  # a set has another order each time
    config.save_pretrained(str(folder))
    config.target_modules, config.inference_mode = targets, False
    weights = {
        _PREFIX + key.replace(f".{_NAME}.", "."): value.detach().contiguous().cpu()
        for key, value in state.items()
        if MARK in key
    }
    save_file(weights, folder / _WEIGHTS, metadata={"format": "pt"})


def folder(part: str) -> str:
    """Where a part's LoRA lies in a model's folder. `push_to_hub` takes folders, but none within them."""
    return f"lora_{part}"


FILES = _CONFIG, _WEIGHTS
"""What `save` writes."""


def load(part: nn.Module, folder: Path) -> None:
    """Places LoRA as it was saved, and loads it.

    Raises:
        ModelError: The files do not fit the part.
    """
    config = peft.LoraConfig.from_pretrained(str(folder))
    config.inference_mode = False
    _inject(part, config, 0)
    weights = load_file(folder / _WEIGHTS)
    own = {name: value for name, value in part.state_dict().items() if MARK in name}
    given = {}
    for key, value in weights.items():
        name, _, last = key.removeprefix(_PREFIX).rpartition(".")
        given[f"{name}.{_NAME}.{last}"] = value
    if own.keys() != given.keys():
        odd = sorted(own.keys() ^ given.keys())
        raise ModelError(f"{folder / _WEIGHTS} does not fit its model: {len(odd)} weights differ, such as {odd[0]}")
    part.load_state_dict(given, strict=False)

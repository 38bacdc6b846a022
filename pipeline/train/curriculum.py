"""Curriculum: what a stage trains, how fast, and when it ends."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from pipeline.model.base import ModelError, SpeechLM
from pipeline.seeds import derive
from schemas.training import OptimizerSpec, Part, StageSpec, TrainingRecipe

MOMENTS = ("exp_avg", "exp_avg_sq", "step")
"""What AdamW keeps of each parameter."""


def place_lora(speech_lm: SpeechLM, recipe: TrainingRecipe) -> None:
    """Places the LoRA that any stage trains; all of it at once, for it changes nothing before it is trained.

    Raises:
        ModelError: There is no module of a target's name.
    """
    lora = recipe.lora
    if lora is None:
        return
    trained = {part for stage in recipe.stages for part in stage.trains}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(recipe.seed, "lora"))
        if "lora" in trained:
            speech_lm.add_lora(lora.rank, lora.alpha, lora.dropout, lora.targets)
        if "encoder_lora" in trained:
            speech_lm.add_lora(lora.rank, lora.alpha, lora.dropout, lora.encoder_targets, encoder=True)


def trained_until(recipe: TrainingRecipe, stage: int) -> list[Part]:
    """The parts that the stages up to one have trained, that one included: what its checkpoints hold."""
    return list(dict.fromkeys(part for spec in recipe.stages[: stage + 1] for part in spec.trains))


def parameters(speech_lm: SpeechLM, parts: Iterable[Part]) -> dict[str, nn.Parameter]:
    """The parameters of some parts by name; one that has two names only by its first."""
    found: dict[str, nn.Parameter] = {}
    known: set[int] = set()
    for part in parts:
        for name, parameter in speech_lm.named(part):
            if id(parameter) not in known:
                known.add(id(parameter))
                found[name] = parameter
    return found


def keep_precise(speech_lm: SpeechLM, recipe: TrainingRecipe) -> None:
    """Makes fp32 of what any stage trains, and freezes everything."""
    speech_lm.model.requires_grad_(False)
    for parameter in parameters(speech_lm, trained_until(recipe, len(recipe.stages))).values():
        parameter.data = parameter.data.float()


def check(speech_lm: SpeechLM, recipe: TrainingRecipe) -> None:
    """Complains of stages that this model cannot run.

    Raises:
        ModelError: A part is not there, or a teacher would move; names the stage and the cure.
    """
    for number, stage in enumerate(recipe.stages):
        for part in stage.trains:
            if next(speech_lm.named(part), None) is None:
                name = type(speech_lm.model).__name__
                raise ModelError(
                    f"the stage {stage.name!r} trains `{part}`, and {name} has no such part: take it out of `trains`"
                )
        if stage.loss.distillation and "llm" in trained_until(recipe, number):
            raise ModelError(
                f"the stage {stage.name!r} distils from the LLM, which `llm` in `trains` has changed by then: "
                "train `lora` instead, or set `loss.distillation` to 0"
            )


@dataclass(frozen=True)
class Trained:
    """What a stage trains, with a new optimizer."""

    spec: StageSpec
    steps: int
    """At most."""
    parameters: dict[str, nn.Parameter]
    """By name."""
    weights: dict[str, int]
    """How many weights, by part."""
    optimizer: torch.optim.AdamW

    def learning_rates(self) -> dict[str, float]:
        """By part, as they are set."""
        return {group["part"]: group["lr"] for group in self.optimizer.param_groups}

    def schedule(self, step: int) -> None:
        """Sets the learning rates of a step of the stage, from 0."""
        share = share_of_rate(self.spec, step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["full"] * share

    def moments(self) -> dict[str, Tensor]:
        """What the optimizer keeps, as `exp_avg/NAME`, whole and on the CPU. All processes must ask."""
        kept = ((name, self.optimizer.state.get(p) or {}) for name, p in self.parameters.items())
        return {f"{moment}/{name}": whole(state[moment]) for name, state in kept for moment in MOMENTS if state}

    def restore(self, moments: dict[str, Tensor]) -> None:
        """Sets what the optimizer keeps, from what `moments` gave, of any number of processes."""
        fused = bool(self.optimizer.defaults["fused"])
        for name, parameter in self.parameters.items():
            if f"step/{name}" not in moments:
                continue
            state = {moment: moments[f"{moment}/{name}"] for moment in MOMENTS}
            count = state["step"].to(parameter.device if fused else "cpu", torch.float32)
            shaped = {moment: shared(state[moment], parameter) for moment in MOMENTS[:2]}
            self.optimizer.state[parameter] = {**shaped, "step": count}


def begin(speech_lm: SpeechLM, spec: StageSpec, options: OptimizerSpec, steps: int) -> Trained:
    """Sets a model to a stage: gradients for exactly what it trains, and an optimizer that knows nothing yet."""
    speech_lm.model.requires_grad_(False)
    groups: list[dict[str, Any]] = []
    known: dict[str, nn.Parameter] = {}
    weights: dict[str, int] = {}
    for part in spec.trains:
        own = {
            n: p for n, p in parameters(speech_lm, [part]).items() if all(p is not other for other in known.values())
        }
        known |= own
        weights[part] = sum(parameter.numel() for parameter in own.values())
        rate = spec.learning_rates.get(part, spec.learning_rate)
        for decays in (True, False):  # norms and biases are not drawn to zero
            some = [parameter for parameter in own.values() if (parameter.ndim > 1) == decays]
            decay = options.weight_decay if decays else 0.0
            if some:
                groups.append({"params": some, "part": part, "lr": rate, "full": rate, "weight_decay": decay})
    for parameter in known.values():
        parameter.requires_grad_(True)
        parameter.grad = None
    optimizer = torch.optim.AdamW(
        groups,
        betas=options.betas,
        eps=options.epsilon,
        fused=all(parameter.is_cuda for parameter in known.values()),
    )
    return Trained(spec, steps, known, weights, optimizer)


def share_of_rate(spec: StageSpec, step: int, steps: int) -> float:
    """How much of the learning rate a step of the stage has, from 0 to 1.

    Args:
        spec: Of the stage.
        step: From 0.
        steps: Of the stage.
    """
    if step < spec.warmup:
        return (step + 1) / spec.warmup
    if spec.schedule == "constant":
        return 1.0
    done = min(1.0, (step - spec.warmup) / max(1, steps - spec.warmup))
    return 1.0 - done if spec.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))


def whole(tensor: Tensor) -> Tensor:
    """A tensor on the CPU, gathered if it lies in shards on several processes. All of them must ask."""
    tensor = tensor.detach()
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).cpu().clone().contiguous()


def shared(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor where and as another lies: on its device, in its shards."""
    tensor = tensor.to(like.device, like.dtype)
    if isinstance(like, DTensor):
        return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)
    return tensor.clone()


def load(parameters: dict[str, nn.Parameter], weights: dict[str, Tensor]) -> None:
    """Puts whole tensors into parameters of the same names, whole or in shards."""
    assert parameters.keys() == weights.keys()
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(shared(weights[name], parameter))

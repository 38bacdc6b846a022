"""Module: what several processes share, one forward pass of student and teacher."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from pipeline.model.base import Batch, SpeechLM
from pipeline.train.losses import Sums, Teacher, losses, predicting
from schemas.training import LossSpec

_VARIANTS = 64  # of a compiled layer


@dataclass(frozen=True, slots=True)
class Work:
    """What a forward pass is to do; a plain object, for the wrappers move and hook only tensors that they see."""

    batch: Batch
    spec: LossSpec
    read: Batch | None = None
    """The same examples with transcripts in the places of audio: the teacher reads them."""
    most_tokens: int = 0
    """Above 0 it decodes `batch`, of `collate(..., left=True)`, in place of losses."""


class Learner(nn.Module):
    """The model with its losses. It holds `model` alone, so that wrappers see all parameters by their names.

    Args:
        speech_lm: What is trained.
    """

    def __init__(self, speech_lm: SpeechLM) -> None:
        super().__init__()
        self.model = speech_lm.model
        object.__setattr__(self, "speech_lm", speech_lm)  # no submodule

    speech_lm: SpeechLM

    def forward(self, work: Work) -> dict[str, Tensor] | list[list[int]]:
        """Sums over response tokens by the names of `losses.Sums`, or the decoded ids of each row."""
        if work.most_tokens:
            with self._still():
                return self.speech_lm.generate(work.batch, most_tokens=work.most_tokens)
        teacher = self._teacher(work)
        states = self.speech_lm.states(work.batch)
        found = losses(states, work.batch, self.speech_lm.head(), work.spec, teacher)
        return {name: getattr(found, name) for name in Sums.__slots__}

    @contextmanager
    def _still(self) -> Iterator[None]:
        """Without dropout, without gradients."""
        training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.model.train(training)

    def _teacher(self, work: Work) -> Teacher | None:
        """What the LLM without LoRA, frozen, makes of the transcripts: it never moves."""
        if work.read is None:
            return None
        with self._still(), self.speech_lm.without_lora():
            states = self.speech_lm.states(work.read)
        head = self.speech_lm.head()

        def plain(chosen: Tensor) -> Tensor:
            with self.speech_lm.without_lora():
                return head(chosen)

        return Teacher(states[predicting(work.read.targets)], plain)


def blocks(speech_lm: SpeechLM) -> list[nn.Module]:
    """The LLM's layers: what is compiled and sharded one by one."""
    own = {name for part in ("llm", "lora") for name, _ in speech_lm.named(part)}
    best: list[nn.Module] = []
    most = 0
    for path, module in speech_lm.model.named_modules():
        if isinstance(module, nn.ModuleList):
            names = [f"{path}.{name}" for name, _ in module.named_parameters()]
            weights = sum(parameter.numel() for parameter in module.parameters())
            if names and own.issuperset(names) and weights > most:
                best, most = list(module), weights
    return best


def compile_blocks(speech_lm: SpeechLM) -> None:
    """Compiles the LLM's layers for training.

    Only what they compute: hooks, of sharding for instance, stay outside. Decoding is left as it is, for its shapes and
    its cache would be compiled anew again and again.
    """
    # With and without gradients, dropout and LoRA: student, teacher and validation in each stage.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _VARIANTS)
    for block in blocks(speech_lm):
        block.forward = _compiled(block.forward)


def _compiled(forward: Callable[..., Any]) -> Callable[..., Any]:
    fast = torch.compile(forward, dynamic=True)  # rows of a batch and positions differ from one to the next

    @functools.wraps(forward)
    def chosen(*args: Any, **kwargs: Any) -> Any:
        return (forward if torch.is_inference_mode_enabled() else fast)(*args, **kwargs)

    return chosen


def shard(learner: Learner, device: str) -> None:
    """Shards the model over all processes: the LLM layer by layer, the rest as one.

    The rest holds encoder and adapter, too: a batch without sound would leave these out, and each process must gather
    the same in the same order.

    Args:
        learner: Its model may lie on the CPU: it is brought to the device part by part.
        device: Its type.
    """
    mesh = init_device_mesh(device, (torch.distributed.get_world_size(),))
    for block in blocks(learner.speech_lm):
        fully_shard(block, mesh=mesh)
    fully_shard(learner, mesh=mesh)


def wrap(learner: Learner, sharded: bool, search: bool) -> nn.Module:
    """Prepares a learner for gradients that are averaged over processes. Call it once what trains is set.

    Args:
        learner: On its device.
        sharded: Whether `shard` was called on it: then it does so by itself.
        search: Whether some of what trains may have no part in a loss, as the last layers of an encoder whose middle
            is listened to.
    """
    if sharded or not torch.distributed.is_initialized():
        return learner
    return DistributedDataParallel(
        learner,
        forward_sync_buffers=False,
        init_sync=False,  # the weights are the same already
        gradient_as_bucket_view=True,
        find_unused_parameters=search,
    )


def syncing(wrapped: nn.Module, last: bool) -> AbstractContextManager[Any]:
    """Gradients are averaged over processes only in the last pass of a step."""
    if isinstance(wrapped, FSDPModule):
        wrapped.set_requires_gradient_sync(last)
    elif isinstance(wrapped, DistributedDataParallel) and not last:
        return wrapped.no_sync()
    return nullcontext()


def settle(learner: Learner) -> None:
    """Puts back into shards what was gathered for a pass that no backward pass followed."""
    for part in learner.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


@contextmanager
def gathered(learner: Learner, names: Collection[str]) -> Iterator[None]:
    """Within, some parameters are whole on each process, to be used outside of the learner's own passes."""
    settle(learner)
    sharded = [
        (module, name, parameter)
        for path, module in learner.model.named_modules()
        for name, parameter in module.named_parameters(recurse=False)
        if isinstance(parameter, DTensor) and f"{path}.{name}" in names
    ]
    for module, name, parameter in sharded:
        module.register_parameter(name, nn.Parameter(parameter.full_tensor().detach(), requires_grad=False))
    try:
        yield
    finally:
        for module, name, parameter in sharded:
            module.register_parameter(name, parameter)


def gather(learner: Learner, keep: bool) -> None:
    """Makes whole, ordinary parameters of those in shards, on the CPU of the processes that keep them.

    The model can be saved after this, not trained.
    """
    settle(learner)
    made: dict[int, nn.Parameter] = {}  # tied weights stay tied
    for module in learner.model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if isinstance(parameter, DTensor):
                if id(parameter) not in made:
                    whole = parameter.full_tensor().detach()
                    made[id(parameter)] = nn.Parameter(whole.cpu() if keep else torch.empty(0), requires_grad=False)
                module.register_parameter(name, made[id(parameter)])

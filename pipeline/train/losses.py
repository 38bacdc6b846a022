"""Losses on response tokens: cross-entropy, and distillation from the LLM that reads the transcript.

The vocabulary projection is done some tokens at a time, and the gradient of each chunk is taken at once: no more
than a chunk of logits ever exists, and nothing is computed twice. Shapes: N tokens, H width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.model.base import Batch
from schemas.training import LossSpec

Head = Callable[[Tensor], Tensor]
"""From states (N, H) to logits (N, V)."""

CHUNK = 2**26  # logits that exist at a time, 256 MiB of fp32


@dataclass(frozen=True, slots=True)
class Teacher:
    """The LLM that reads the transcript, at the positions that predict the same tokens."""

    states: Tensor
    """N, H, without a gradient."""
    head: Head
    """The LLM's, without LoRA."""


@dataclass(frozen=True, slots=True)
class Sums:
    """Of a batch: sums over its response tokens, so that means of several batches weigh each token alike."""

    total: Tensor
    """What is minimised; the only one with a gradient."""
    cross_entropy: Tensor
    distillation: Tensor
    """KL(teacher || student) times T squared, tokens that end a turn weighted; 0 without a teacher."""
    tokens: Tensor
    """How many there are, int64."""


def predicting(targets: Tensor) -> Tensor:
    """B, L bool: the positions whose next token is a target.

    Args:
        targets: B, L bool. The first position of an example is never one, so none predicts into the next.
    """
    return F.pad(targets[:, 1:], (0, 1))


def losses(
    states: Tensor, batch: Batch, head: Head, spec: LossSpec, teacher: Teacher | None = None, *, chunk: int = CHUNK
) -> Sums:
    """The losses of a batch.

    Args:
        states: B, L, H of the student.
        batch: That they were computed from.
        head: Of the student; what of it trains gets its gradient.
        spec: Weights of the losses.
        teacher: Of the same target tokens in the same order, where there is one.
        chunk: Logits that may exist at a time.
    """
    at = predicting(batch.targets)
    chosen = states[at]  # B, L, H -> N, H
    labels, ends = batch.ids[batch.targets], batch.ends[batch.targets]  # row by row, as those that predict them
    assert len(chosen) == len(labels)
    assert teacher is None or len(teacher.states) == len(labels)
    assert teacher is not None or not spec.distillation, "distillation needs a teacher"
    if not len(labels):
        nothing = states.sum() * 0.0  # keeps the graph: every process goes backward through the same layers
        zero = nothing.detach().float()
        return Sums(nothing.float(), zero, zero, batch.targets.sum())
    weights = 1.0 + spec.end_of_turn * ends.float()
    parameters, vocabulary = _probe(head, chosen)
    job = _Job(labels, weights, head, spec, teacher, max(1, chunk // vocabulary))
    total, cross_entropy, distillation = _Chunked.apply(chosen, job, *parameters)  # type: ignore[no-untyped-call]
    return Sums(total, cross_entropy, distillation, batch.targets.sum())


def aligned(read: Batch, heard: Batch) -> bool:
    """Whether the k-th target of what the teacher reads is the k-th of what the student hears, for all k."""
    return torch.equal(read.ids[read.targets], heard.ids[heard.targets])


@dataclass(frozen=True, slots=True)
class _Job:
    labels: Tensor
    """N int64."""
    weights: Tensor
    """N, of the distillation."""
    head: Head
    spec: LossSpec
    teacher: Teacher | None
    size: int
    """Tokens of a chunk."""


def _probe(head: Head, states: Tensor) -> tuple[list[Tensor], int]:
    """What of the head trains, as the leaves that autograd finds under its logits; and how large its vocabulary is."""
    logits = head(states[:1].detach())
    found: dict[int, Tensor] = {}
    nodes, seen = [logits.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found[id(node.variable)] = node.variable
        nodes.extend(following for following, _ in node.next_functions)
    return list(found.values()), logits.shape[-1]


class _Chunked(torch.autograd.Function):
    """Sums over chunks of tokens; gradients are made on the way forward, where the logits are."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, job: _Job, *parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        wanted = ctx.needs_input_grad[0] or any(ctx.needs_input_grad[2:])
        gradient = torch.zeros_like(states) if wanted else None  # N, H
        gradients = [torch.zeros_like(p, dtype=torch.float32) for p in parameters]
        sums = torch.zeros(3, dtype=torch.float32, device=states.device)
        for begin in range(0, len(states), job.size):
            some = slice(begin, begin + job.size)
            with torch.set_grad_enabled(wanted):
                piece = states[some].detach().requires_grad_(wanted)
                logits = job.head(piece)  # n, V
            found, slope = _chunk(logits.detach(), job, some, wanted)
            sums += found
            if gradient is not None:
                assert slope is not None
                made = torch.autograd.grad(logits, [piece, *parameters], slope.to(logits.dtype))
                gradient[some] = made[0]
                for whole, part in zip(gradients, made[1:], strict=True):
                    whole += part
        ctx.gradient = gradient
        ctx.gradients = [g.to(p.dtype) for g, p in zip(gradients, parameters, strict=True)]
        total, cross_entropy, distillation = (one.clone() for one in sums)  # views would be hooked by the wrappers
        ctx.mark_non_differentiable(cross_entropy, distillation)
        return total, cross_entropy, distillation

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        scale = outputs[0]
        return (ctx.gradient * scale.to(ctx.gradient.dtype), None, *(g * scale for g in ctx.gradients))


def _chunk(logits: Tensor, job: _Job, some: slice, wanted: bool) -> tuple[Tensor, Tensor | None]:
    """The three sums of a chunk, and the slope of the total at its logits (n, V) if it is wanted."""
    spec, labels, weights = job.spec, job.labels[some, None], job.weights[some, None]
    logits = logits.float()
    logarithm = logits.logsumexp(-1, keepdim=True)
    cross_entropy = (logarithm - logits.gather(-1, labels)).sum()
    distillation, slope = torch.zeros_like(cross_entropy), None
    if job.teacher is not None:
        heat = spec.temperature
        with torch.no_grad():
            taught = torch.log_softmax(job.teacher.head(job.teacher.states[some]).float() / heat, -1)
        said = torch.log_softmax(logits / heat, -1)
        likely = taught.exp()
        distillation = ((likely * (taught - said)).sum(-1, keepdim=True) * weights).sum() * heat**2
        if wanted and spec.distillation:
            slope = said.exp_().sub_(likely).mul_(weights * (spec.distillation * heat))  # of T^2 KL(softmax(z / T))
    total = spec.cross_entropy * cross_entropy + spec.distillation * distillation
    if wanted and spec.cross_entropy:
        own = (logits - logarithm).exp_()
        own.scatter_add_(-1, labels, torch.full_like(labels, -1, dtype=own.dtype))
        own.mul_(spec.cross_entropy)
        slope = own if slope is None else slope.add_(own)
    return torch.stack((total, cross_entropy, distillation)), slope


def add(several: Sequence[Sums]) -> Tensor:
    """Sums of several batches as one vector: total, cross_entropy, distillation, tokens; float64, without gradient."""
    rows = [
        torch.stack([s.total.detach().double(), s.cross_entropy.double(), s.distillation.double(), s.tokens.double()])
        for s in several
    ]
    return torch.stack(rows).sum(0)

"""Losses: equal to the plain formulas, chunked or not, and small."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.model.base import Batch
from pipeline.train.losses import Sums, Teacher, add, losses, predicting
from schemas.training import LossSpec

H, V = 16, 97


def batch(rows: int = 3, length: int = 11) -> Batch:
    """Random tokens; the last six of each row, the last one left out, are a response that ends with its last."""
    ids = torch.randint(V, (rows, length))
    targets = torch.zeros_like(ids, dtype=torch.bool)
    targets[:, -6:-1] = True
    ends = torch.zeros_like(targets)
    ends[:, -2] = True
    whole = torch.ones_like(targets)
    return Batch(rows, ids, whole, torch.arange(length).expand(rows, -1), targets, ends)


def plain(
    states: Tensor, made: Batch, head: Callable[[Tensor], Tensor], spec: LossSpec, teacher: Teacher | None
) -> Tensor:
    """The same in as few words as there are, all logits at once."""
    logits = head(states[predicting(made.targets)])
    labels, weights = made.ids[made.targets], 1 + spec.end_of_turn * made.ends[made.targets].float()
    total = spec.cross_entropy * functional.cross_entropy(logits, labels, reduction="sum")
    if teacher is not None:
        heat = spec.temperature
        taught = functional.log_softmax(teacher.head(teacher.states) / heat, -1)
        each = functional.kl_div(
            functional.log_softmax(logits / heat, -1), taught, reduction="none", log_target=True
        ).sum(-1)
        total = total + spec.distillation * heat**2 * (each * weights).sum()
    return total


class Capped(nn.Module):
    """A head like Gemma's with LoRA on it: frozen weight, two trained ones, logits soft-capped."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(V, H), requires_grad=False)
        self.down, self.up = nn.Parameter(torch.randn(4, H)), nn.Parameter(torch.randn(V, 4))

    def forward(self, states: Tensor) -> Tensor:
        logits = states @ self.weight.T + states @ self.down.T @ self.up.T
        return 5 * torch.tanh(logits / 5)


@pytest.mark.parametrize("chunk", [1, V * 4, 10**9])
@pytest.mark.parametrize("spec", [LossSpec(), LossSpec(cross_entropy=0, distillation=1), LossSpec(distillation=0.5)])
def test_chunked_equals_plain(chunk: int, spec: LossSpec) -> None:
    torch.manual_seed(1)
    made, head = batch(), Capped()
    teacher = Teacher(torch.randn(15, H), nn.Linear(H, V, bias=False)) if spec.distillation else None
    results = []
    for way in (plain, lambda *given: losses(*given, chunk=chunk).total):
        states = torch.randn(3, 11, H, generator=torch.Generator().manual_seed(2)).requires_grad_()
        head.zero_grad()
        total = way(states, made, head, spec, teacher) / 15
        total.backward()
        results.append((total.detach(), states.grad, head.down.grad, head.up.grad))
        assert head.weight.grad is None
    for wanted, found in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_distillation_of_itself_is_zero() -> None:
    made, head = batch(), nn.Linear(H, V, bias=False)
    states = torch.randn(3, 11, H, requires_grad=True)
    teacher = Teacher(states.detach()[predicting(made.targets)], head)
    found = losses(states, made, head, LossSpec(cross_entropy=0, distillation=1), teacher)
    assert found.total.item() == found.distillation.item() == 0.0
    found.total.backward()
    assert states.grad is not None
    assert states.grad.abs().max() == 0.0


def test_sums_weigh_tokens_alike() -> None:
    head = nn.Linear(H, V, bias=False)
    one, other = batch(1), batch(4, 9)
    states = [torch.randn(*b.ids.shape, H) for b in (one, other)]
    sums = add([losses(s, b, head, LossSpec()) for s, b in zip(states, (one, other), strict=True)])
    logits = torch.cat([head(s[predicting(b.targets)]) for s, b in zip(states, (one, other), strict=True)])
    wanted = functional.cross_entropy(logits, torch.cat([b.ids[b.targets] for b in (one, other)]))
    assert sums[3] == 25
    assert (sums[1] / sums[3]).item() == pytest.approx(wanted.item(), rel=1e-6)


def test_a_batch_without_responses_still_goes_backward() -> None:
    made, states = batch(), torch.randn(3, 11, H, requires_grad=True)
    made.targets[:] = False
    found: Sums = losses(states, made, nn.Linear(H, V), LossSpec())
    found.total.backward()
    assert found.tokens == 0
    assert states.grad is not None
    assert not states.grad.any()


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **kwargs or {})
        for tensor in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return made


def test_no_more_than_a_chunk_of_logits_exists() -> None:
    vocabulary, tokens, chunk = 4096, 5 * 64, 8 * 4096
    made = batch(64, 11)
    head = nn.Linear(H, vocabulary, bias=False)
    head.weight.requires_grad_(False)
    states = torch.randn(64, 11, H, requires_grad=True)
    teacher = Teacher(torch.randn(tokens, H), nn.Linear(H, vocabulary, bias=False))
    with Largest() as seen:
        losses(states, made, head, LossSpec(distillation=1), teacher, chunk=chunk).total.backward()
    assert head.weight.numel() <= seen.elements <= 2 * chunk < tokens * vocabulary // 10


def test_bf16_states_get_bf16_gradients() -> None:
    torch.manual_seed(3)
    made, head = batch(), nn.Linear(H, V, bias=False)  # fp32, as what trains is kept
    states = torch.randn(3, 11, H).bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = losses(states, made, head, LossSpec(), chunk=V * 4)
    found.total.backward()
    assert found.total.dtype == torch.float32
    assert states.grad is not None
    assert states.grad.dtype == torch.bfloat16
    wanted = plain(states.detach().float(), made, head, LossSpec(), None)
    assert found.total.item() == pytest.approx(wanted.item(), rel=1e-2)
    assert head.weight.grad is not None
    assert head.weight.grad.dtype == torch.float32

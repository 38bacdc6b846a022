"""Engine: a model on its device, or shared by several, and one step of the optimizer.

The loss of a step is a mean over its response tokens, over all passes and processes: each token weighs alike, however
the rows were put together.
"""

from __future__ import annotations

import gc
import math
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

import torch
from accelerate import PartialState
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.tensor import DTensor

from pipeline.model.base import SpeechLM
from pipeline.seeds import derive
from pipeline.train import curriculum, module
from pipeline.train.curriculum import Trained
from pipeline.train.loader import Pass
from pipeline.train.losses import aligned
from pipeline.train.module import Learner, Work
from schemas.training import TrainingRecipe

_NAMED = 8  # rows that a message names
SUMS = ("total", "cross_entropy", "distillation", "tokens")


class TrainingError(RuntimeError):
    """Training cannot go on; the message names stage, step and rows, and the cure."""


@dataclass(frozen=True, slots=True)
class Done:
    """What a step came to, over all processes."""

    losses: dict[str, float]
    """`loss`, `cross_entropy`, and `distillation` where there is a teacher; means over response tokens."""
    gradient_norm: float
    tokens: int


class Engine:
    """A model, prepared for all stages of a recipe.

    Args:
        speech_lm: As it was loaded; LoRA is placed here.
        recipe: Of the run.
        state: Which process this is, and its device.
        name: Of a row by its number, for messages.

    Raises:
        ModelError: The model cannot be trained so.
        TrainingError: There is too little memory for it.
    """

    def __init__(
        self, speech_lm: SpeechLM, recipe: TrainingRecipe, state: PartialState, name: Callable[[int], object] = str
    ) -> None:
        self.speech_lm, self.recipe, self.state, self._name = speech_lm, recipe, state, name
        self.sharded = recipe.sharding == "fsdp2" and state.num_processes > 1
        curriculum.place_lora(speech_lm, recipe)
        curriculum.check(speech_lm, recipe)
        curriculum.keep_precise(speech_lm, recipe)
        if recipe.gradient_checkpointing:
            model = speech_lm.model
            # Versions before 5.23 know it by its old name.
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        self._share()
        with memory_named("the model's weights", "set `sharding: fsdp2` on several GPUs, or take a smaller LLM"):
            if not self.sharded:
                speech_lm.model.to(state.device)
            else:  # layer by layer, when the first stage begins; until then only the encoder is asked
                for part in {path.split(".")[0] for path, _ in speech_lm.named("encoder")}:
                    speech_lm.model.get_submodule(part).to(state.device)
        if recipe.compile:
            module.compile_blocks(speech_lm)
        self.learner = Learner(speech_lm)
        self._wrapped: nn.Module = self.learner
        self._lora_off = ExitStack()
        self.stage = -1
        self.trained: Trained | None = None

    def _share(self) -> None:
        """All processes begin with the first one's weights."""
        if self.state.num_processes > 1:
            last = len(self.recipe.stages) - 1
            parts = curriculum.trained_until(self.recipe, last)
            for parameter in curriculum.parameters(self.speech_lm, parts).values():
                there = parameter.data.to(self.state.device)
                dist.broadcast(there, 0)
                parameter.data.copy_(there)

    @property
    def autocast(self) -> AbstractContextManager[None]:
        """bf16, if the recipe says so."""
        return torch.autocast(self.state.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16")

    def begin(self, stage: int, steps: int) -> Trained:
        """Sets the model to a stage, with a new optimizer.

        Args:
            stage: Its number.
            steps: Of the stage, at most.
        """
        spec = self.recipe.stages[stage]
        if self.sharded and self.stage < 0:
            with memory_named("the model's weights", "start more processes, or take a smaller LLM"):
                module.shard(self.learner, self.state.device.type)
        self.stage = stage
        module.settle(self.learner)
        self._wrapped = self.learner
        gc.collect()  # the wrapper of the stage before, which holds buffers for gradients
        self.trained = curriculum.begin(self.speech_lm, spec, self.recipe.optimizer, steps)
        # Until it is trained it changes nothing, and need not be computed. It stays off in backward passes, too, which
        # compute forward ones again where activations are not kept.
        self._lora_off.close()
        if "lora" not in curriculum.trained_until(self.recipe, stage):
            self._lora_off.enter_context(self.speech_lm.without_lora())
        self._wrapped = module.wrap(self.learner, self.sharded, search=not set(spec.trains) <= {"adapter", "lora"})
        return self.trained

    def work(self, one: Pass) -> Work:
        """A pass that is not empty, on the device."""
        assert one.batch is not None
        assert one.teacher is None or aligned(one.teacher, one.batch), f"the teacher reads other responses: {one.rows}"
        device = self.state.device
        read = one.teacher.to(device) if one.teacher is not None else None
        return Work(one.batch.to(device), self.recipe.stages[self.stage].loss, read)

    def step(self, passes: Sequence[Pass], tokens: int, step: int) -> Done:
        """One step of the optimizer.

        Args:
            passes: This process's, as many as any other's.
            tokens: Of responses in the whole step, over all processes.
            step: Of the stage, from 0.

        Raises:
            TrainingError: The loss or a gradient is not finite, or memory is used up. The weights are as they were.
        """
        trained = self.trained
        assert trained is not None
        trained.schedule(step)
        found = self.gradients(passes, tokens, step)
        norm = nn.utils.clip_grad_norm_(trained.parameters.values(), self.recipe.optimizer.clip)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        sums = torch.cat([torch.stack(found).sum(0), norm.double()[None]])  # 5
        if self.state.num_processes > 1:
            dist.all_reduce(sums[:4])
        *values, length = sums.tolist()  # waits for the device: once a step
        if not all(map(math.isfinite, (*values, length))):
            raise self._not_finite(passes, found, step)
        trained.optimizer.step()
        trained.optimizer.zero_grad(set_to_none=True)
        return Done(means(values), length, round(values[3]))

    def gradients(self, passes: Sequence[Pass], tokens: int, step: int) -> list[Tensor]:
        """Adds up the gradients of a step; the sums of each pass: total, cross_entropy, distillation, tokens."""
        spec, world = self.recipe.stages[self.stage], self.state.num_processes
        self.speech_lm.model.train()
        found = []
        for number, one in enumerate(passes):
            # Dropout follows from the pass, wherever and whenever it is done.
            torch.manual_seed(derive(self.recipe.seed, "dropout", spec.name, step, one.number))
            with self._explained(one, step), module.syncing(self._wrapped, number == len(passes) - 1):
                with self.autocast:
                    sums = self._wrapped(self.work(one))
                # Gradients are averaged over processes, hence the factor.
                (sums["total"] * (world / max(1, tokens))).backward()
            found.append(torch.stack([sums[name].detach().double() for name in SUMS]))
        return found

    def forget(self) -> None:
        """Throws gradients away."""
        assert self.trained is not None
        self.trained.optimizer.zero_grad(set_to_none=True)

    def peak_memory(self) -> int:
        """Bytes: of the GPU, or of the process where there is none."""
        if self.state.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.state.device))
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return used if sys.platform == "darwin" else used * 1024

    def _explained(self, one: Pass, step: int) -> AbstractContextManager[None]:
        name, batch = self.recipe.stages[self.stage].name, one.batch
        assert batch is not None
        tensors = {"positions": batch.ids, **batch.sounds}
        shapes = ", ".join(f"{what} {'x'.join(map(str, tensor.shape))}" for what, tensor in tensors.items())
        what = f"step {step + 1} of the stage {name!r}: {batch.examples} rows, {shapes}: {self._few(one.rows.tolist())}"
        batches = self.recipe.batches
        cures = [f"lower `batches.tokens` ({batches.tokens}) or `batches.seconds` ({batches.seconds:g})"]
        if not self.recipe.gradient_checkpointing:
            cures.append("set `gradient_checkpointing: true`")
        if not self.sharded:
            cures.append("set `sharding: fsdp2` on several GPUs")
        return memory_named(what, "; or ".join(cures))

    def _not_finite(self, passes: Sequence[Pass], found: Sequence[Tensor], step: int) -> TrainingError:
        bad = [one for one, sums in zip(passes, found, strict=True) if not sums.isfinite().all()]
        own = ("loss" if bad else "gradient", [int(row) for one in bad or passes for row in one.rows])
        every = [own] * self.state.num_processes
        if self.state.num_processes > 1:
            dist.all_gather_object(every, own)
        what = "loss" if any(kind == "loss" for kind, _ in every) else "gradient"
        rows = [row for kind, some in every if kind == what for row in some]
        name = self.recipe.stages[self.stage].name
        return TrainingError(
            f"step {step + 1} of the stage {name!r}: the {what} is not a finite number. It came from these: "
            f"{self._few(rows)}. No weight was changed by it, and the last checkpoint is whole: lower the stage's "
            "`learning_rate` or lengthen its `warmup`, set `precision: fp32`, or look at these rows"
        )

    def _few(self, rows: Sequence[int]) -> str:
        more = f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
        return ", ".join(str(self._name(row)) for row in rows[:_NAMED]) + more


def means(sums: Sequence[float]) -> dict[str, float]:
    """From sums (total, cross_entropy, distillation, tokens) to means over response tokens."""
    total, cross_entropy, distillation, tokens = sums
    return {
        "loss": total / tokens,
        "cross_entropy": cross_entropy / tokens,
        "distillation": distillation / tokens,
    }


@contextmanager
def memory_named(what: str, cure: str) -> Iterator[None]:
    """Turns an allocation that failed into an error that says what it was for.

    Raises:
        TrainingError: Memory is used up.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_memory(error):
            raise
        raise TrainingError(f"no free memory for {what}. Cure: {cure}. ({_first_line(error)})") from error


def _is_memory(error: Exception) -> bool:
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def _first_line(error: Exception) -> str:
    return str(error).split("\n")[0][:200]


class Clock:
    """Times the steps: what of a step was spent waiting for data."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """After something that does not count."""
        self._begun, self._waited = time.perf_counter(), 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around a wait for data."""
        begun = time.perf_counter()
        yield
        self._waited += time.perf_counter() - begun

    def lap(self) -> tuple[float, float]:
        """Seconds since the last lap, and the share of them that was waited."""
        now = time.perf_counter()
        seconds = now - self._begun
        waited = self._waited / seconds if seconds else 0.0
        self._begun, self._waited = now, 0.0
        return seconds, waited

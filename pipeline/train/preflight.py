"""Preflight: before long work the largest of everything is tried, and what it will cost is said.

Of each stage the passes that are the largest in some way (most rows, most positions, the longest row, the most sound,
the longest sound, ...) go forward, backward and through the optimizer, and the longest rows that are validated on are
decoded. What is trained is put back as it was. Times come from passes of ordinary size, memory from the peak of all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from pipeline.tools.turns import decisive
from pipeline.train import curriculum
from pipeline.train.batches import Plan
from pipeline.train.engine import Engine, TrainingError, memory_named
from pipeline.train.forecast import Forecast, StageForecast, disk_needed, memory_there
from pipeline.train.loader import Pass, read
from pipeline.train.module import Work, settle
from pipeline.train.run import Run
from pipeline.train.validation import Validation
from schemas.training import StageSpec

Say = Callable[[str], None]
_TIMED = 3  # passes of ordinary size, of each stage
_SPARE = 0.95  # of what fits, when a smaller budget is advised


def check(run: Run, say: Say = lambda _: None) -> Forecast:
    """Tries a run out. All processes call it.

    Args:
        run: Not begun. Its weights are left as they are.
        say: Is told what is tried.

    Raises:
        TrainingError: There is too little memory; the message says which setting to lower, and to what.
        RowError: A stage or its validation has no rows, or one of those that were tried cannot be read.
        ModelError: The model does not encode or decode so.
        DiskError: There is too little room for checkpoints and the model.
    """
    disk, free = disk_needed(run.engine, run.out)
    if run.engine.state.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(run.engine.state.device)
    stages = []
    for number, spec in enumerate(run.engine.recipe.stages):
        say(f"trying the stage {spec.name!r}")
        stages.append(_stage(run, number, spec, say))
    return Forecast(tuple(stages), max(s.memory for s in stages), memory_there(run.engine), disk, free)


def _stage(run: Run, number: int, spec: StageSpec, say: Say) -> StageForecast:
    engine, course = run.engine, run.course
    plan, steps = course.plan(spec, 0), course.length(spec)
    plan.passes(0, engine.state.process_index, engine.state.num_processes)  # whether processes can share a step
    if spec.warmup >= steps:
        raise run.setup.complain(
            ("stages", number, "warmup"), f"{spec.warmup} steps of warm-up in a stage of {steps}: lower it"
        )
    trained = engine.begin(number, steps)
    with _untouched(engine, trained):
        largest = sorted(set(plan.extremes().values()))
        for tried, one in enumerate(largest, 1):
            say(f"trying the stage {spec.name!r}: pass {tried} of {len(largest)}")
            _try(run, plan, one, spec)
        compute, reading = _timed(run, plan, spec)
        validation, decode = _validate(run, spec)
    own = engine.recipe.batches.per_step / engine.state.num_processes
    workers = engine.recipe.batches.workers
    # Readers work beside the device; without them it waits for each pass.
    step = own * (max(compute, reading / workers) if workers else compute + reading)
    often = steps // engine.recipe.validation.every + (steps % engine.recipe.validation.every > 0)
    checks = (validation * compute / 2 + decode) if validation else 0.0
    facts = plan.facts()
    return StageForecast(
        name=spec.name,
        steps=steps,
        rows=facts.rows,
        hours_of_audio=facts.audio_seconds / 3600,
        padding=facts.padding,
        trains=trained.weights,
        tried=len(largest) + _TIMED,
        memory=_peak(engine),
        step_seconds=step,
        validation_seconds=checks,
        seconds=steps * step + often * checks,
    )


@contextmanager
def _untouched(engine: Engine, trained: curriculum.Trained) -> Iterator[None]:
    """Within, steps may be done; after it, weights, statistics and random states are as they were."""
    model = engine.speech_lm.model
    before = {name: p.detach().clone() for name, p in trained.parameters.items()}
    buffers = {name: b.detach().clone() for name, b in model.named_buffers()}
    modes = {name: part.training for name, part in model.named_modules()}
    devices = [engine.state.device] if engine.state.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            engine.forget()
            trained.optimizer.state.clear()
            settle(engine.learner)
            with torch.no_grad():
                for name, parameter in trained.parameters.items():
                    parameter.copy_(before[name])
                for name, buffer in model.named_buffers():
                    buffer.copy_(buffers[name])
            for name, part in model.named_modules():
                part.training = modes[name]


def _read(run: Run, plan: Plan, number: int, spec: StageSpec) -> Pass:
    with memory_named("reading rows", "lower `batches.seconds`"):
        return read(run.rows, plan, number, run.engine.speech_lm, teacher=bool(spec.loss.distillation))


def _try(run: Run, plan: Plan, number: int, spec: StageSpec) -> None:
    """One pass and a step of the optimizer."""
    one = _read(run, plan, number, spec)
    try:
        _go(run.engine, one)
    except TrainingError as error:
        raise _too_large(run, plan, one, spec, error) from error


def _go(engine: Engine, one: Pass) -> None:
    assert one.batch is not None
    tokens = int(one.batch.targets.sum()) * engine.state.num_processes
    engine.gradients([one], tokens, 0)
    assert engine.trained is not None
    with memory_named("the optimizer's state", "train fewer parts, or lower `lora.rank`"):
        engine.trained.schedule(0)
        engine.trained.optimizer.step()
    engine.forget()


def _too_large(run: Run, plan: Plan, one: Pass, spec: StageSpec, error: TrainingError) -> TrainingError:
    """The same error with a budget that fits: less and less of the pass is tried."""
    engine, budget = run.engine, run.engine.recipe.batches
    if engine.state.num_processes > 1:  # the others do not know, and would be waited for
        return error
    rows = one.rows
    while len(rows) > 1:
        rows = rows[: len(rows) // 2]
        engine.forget()
        _release(engine)
        smaller = Plan(plan.index, rows, np.array([0, len(rows)]), 1, plan.packed)
        try:
            _go(engine, _read(run, smaller, 0, spec))
        except TrainingError:
            continue
        share = _SPARE * min(
            float(smaller.shapes[kind][0]) / float(plan.shapes[kind][one.number])
            for kind in ("padded_positions", "padded_samples")
            if plan.shapes[kind][one.number]
        )
        tokens, seconds = _round(budget.tokens * share), _round(budget.seconds * share)
        return TrainingError(
            f"{error}\n{len(rows)} of these {len(one.rows)} rows fit: "
            f"set `batches.tokens: {tokens}` and `batches.seconds: {seconds}`"
        )
    return TrainingError(f"{error}\nNot one row of these fits: set `batches.longest` lower, or take a smaller model")


def _round(value: float) -> int:
    """To two digits, downwards."""
    digits = max(0, len(str(int(value))) - 2)
    whole: int = 10**digits
    return max(1, int(value) // whole * whole)


def _release(engine: Engine) -> None:
    if engine.state.device.type == "cuda":
        torch.cuda.empty_cache()


def _timed(run: Run, plan: Plan, spec: StageSpec) -> tuple[float, float]:
    """Seconds that a pass takes, and that reading it takes; means over passes of ordinary size."""
    sizes = plan.shapes["padded_positions"]
    there = np.flatnonzero(sizes)  # the last step of a small epoch has passes without rows
    middle = there[np.argsort(np.abs(sizes[there] - sizes[there].mean()), kind="stable")]
    computed, took = [], []
    for number in middle[:_TIMED].tolist():
        begun = time.perf_counter()
        one = _read(run, plan, number, spec)
        took.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        _go(run.engine, one)
        if run.engine.state.device.type == "cuda":
            torch.cuda.synchronize(run.engine.state.device)
        computed.append(time.perf_counter() - begun)
    return min(computed), min(took)


def _validate(run: Run, spec: StageSpec) -> tuple[float, float]:
    """Decodes the longest rows that are validated on, as many as go together.

    Returns:
        How many passes a validation's losses take of each process, and the seconds that its decoding takes; zeros
        where nothing is validated on.
    """
    if not run.held.mask.any():
        return 0.0, 0.0
    engine, asked = run.engine, run.engine.recipe.validation
    Validation(engine, run.rows, run.index, run.held, None)  # complains where the stage has no rows to validate on
    there = run.held.drawn(len(run.index), engine.recipe.seed)
    if spec.tasks is not None:
        there = there[np.isin([run.index.tasks[t] for t in run.index.task[there]], list(spec.tasks))]
    positions = run.index.positions[there].astype(np.int64)
    longest = int(positions.max()) + asked.most_tokens
    together = max(1, min(asked.decode, len(there), engine.recipe.batches.tokens // longest))
    rows = there[np.argsort(-positions, kind="stable")][:together].tolist()
    speech_lm = engine.speech_lm
    batch = speech_lm.collate([speech_lm.encode(decisive(run.rows[row]), answer=False) for row in rows], left=True)
    begun = time.perf_counter()
    cure = "lower `batches.tokens` or `validation.most_tokens`"
    with memory_named(f"decoding {together} rows", cure), engine.autocast:
        engine.learner(Work(batch.to(engine.state.device), spec.loss, most_tokens=asked.most_tokens))
    seconds = time.perf_counter() - begun
    world = engine.state.num_processes
    every = float(positions.mean()) * min(asked.rows, len(there)) / engine.recipe.batches.tokens
    return max(1.0, every / world), seconds * max(1.0, min(asked.decode, len(there)) / together / world)


def _peak(engine: Engine) -> int:
    peak = torch.tensor(engine.peak_memory(), dtype=torch.float64, device=engine.state.device)
    if engine.state.num_processes > 1:
        torch.distributed.all_reduce(peak, torch.distributed.ReduceOp.MAX)
    return int(peak)

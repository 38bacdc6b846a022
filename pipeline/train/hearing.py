"""Hearing: whether a run keeps on disk what its frozen encoder says, and where it then comes from.

What lies on disk is rounded to 16 bits, so a run that goes on has to do as it began: the decision is written down.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from torch import distributed as dist

from pipeline.shards import write_atomically
from pipeline.train import module
from pipeline.train.caching import Decision, decide
from pipeline.train.encoded import Heard, Sounds, keep, listens
from pipeline.train.engine import Engine
from pipeline.train.events import Watch
from pipeline.train.index import Ints
from pipeline.train.rows import Rows

DECISION = "encoder_cache.json"  # in the run's folder


def kept(
    engine: Engine, rows: Rows, training: Ints, heard_seconds: float, out: Path, watch: Watch, cache: Path | None = None
) -> Heard | None:
    """The frames of all sounds, if the recipe wants them from the disk, or if it is faster. All processes call it.

    Args:
        engine: Between stages.
        rows: Of the train split.
        training: Which of them are trained on.
        heard_seconds: Of sound, in all epochs of all stages.
        out: The run's folder.
        watch: Is told of a decision.
        cache: A folder for all encoders' frames; the user's own if omitted.

    Raises:
        ModelError: The frames do not fit into 16 bits.
        DiskError: The disk is full.
    """
    recipe, state = engine.recipe, engine.state
    wanted = recipe.batches.cache_encoder
    changes = any(part.startswith("encoder") for stage in recipe.stages for part in stage.trains)
    if wanted is False or changes or not listens(engine.speech_lm):
        return None
    sounds = Sounds.of(rows, training)
    with module.gathered(engine.learner, {name for name, _ in engine.speech_lm.named("encoder")}), engine.autocast:
        decision = Decision(True, "the recipe says so")
        if wanted == "auto":
            decision = _decided(engine, rows, sounds, heard_seconds, out, watch, cache)
        if not decision.keep:
            return None
        opened = keep(rows, sounds, engine.speech_lm, cache=cache, rank=state.process_index, world=state.num_processes)
    state.wait_for_everyone()
    return opened()


def _decided(
    engine: Engine, rows: Rows, sounds: Sounds, heard_seconds: float, out: Path, watch: Watch, cache: Path | None
) -> Decision:
    """The main process decides, once for a run."""
    state = engine.state
    found: list[Decision | None] = [None]
    if state.is_main_process:
        with suppress(OSError, ValueError, TypeError):
            found = [Decision(**json.loads((out / DECISION).read_bytes()))]
        if found[0] is None:
            if heard_seconds < 2 * sounds.seconds:
                decision = Decision(False, "sounds are heard once or twice")
            else:
                decision = decide(
                    rows,
                    sounds,
                    engine.speech_lm,
                    heard_seconds=heard_seconds,
                    world=state.num_processes,
                    cache=cache,
                )
                does = "kept on disk" if decision.keep else "computed anew each time"
                watch.note(f"what the encoder says is {does}: {decision.reason}")
            content = {"keep": decision.keep, "reason": decision.reason}
            write_atomically(out / DECISION, json.dumps(content).encode())
            found = [decision]
    if state.num_processes > 1:
        dist.broadcast_object_list(found)
    assert found[0] is not None
    return found[0]

"""What a run tells is on disk once, however often it is killed, and its curves show it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from pipeline.train import curves
from pipeline.train.events import Decoded, StageBegun, Stepped, Validated
from pipeline.train.watch import METRICS, SAMPLES, Record, Share, lines

STEPS = {"adapter": 60, "tasks": 40}


def run(out: Path, begin: int = 0, end: int = 100, every: int = 10) -> None:
    """Two stages, from one overall step to another, as the loop would tell of them."""
    with Record(out, Console(quiet=True)) as watch:
        before = 0
        for number, (stage, steps) in enumerate(STEPS.items()):
            first, last = max(begin - before, 0), min(end - before, steps)
            if first < steps and last > 0:
                trains = {"adapter": 1200} | ({"lora": 300} if number else {})
                watch.stage(StageBegun(stage, number, 2, first, steps, before + first, 100, trains))
                for step in range(first + 1, last + 1):
                    watch.step(_step(stage, step, before + step))
                    if step % every == 0:
                        told = Decoded(stage, step, before + step, "row/1", "transcription", "a lamp", "a |lamp|")
                        watch.sample(told)
                        watch.validation(_validation(stage, step, before + step))
            before += steps


def _step(stage: str, step: int, overall: int) -> Stepped:
    loss = 5 * math.exp(-overall / 30) + 0.2 * math.sin(overall)
    rates = {"adapter": 1e-3 * (1 - step / STEPS[stage])}
    losses = {"cross_entropy": loss}
    return Stepped(
        stage, step, overall, step / 20, loss, losses, rates, 1 + loss, 8, 90, 380, 0.02, 31.0, 0.5, 0.05, 3 * 10**9
    )


def _validation(stage: str, step: int, overall: int) -> Validated:
    wer = math.exp(-overall / 40)
    return Validated(stage, step, overall, {"loss": 5 * wer}, {"wer": wer, "exact": 1 - wer}, "wer", wer, True, 1.0)


def steps_of(out: Path) -> list[int]:
    return [line["overall"] for line in lines(out / METRICS) if line["kind"] == "step"]


def test_a_run(tmp_path: Path) -> None:
    run(tmp_path)
    assert steps_of(tmp_path) == list(range(1, 101))
    told = lines(tmp_path / METRICS)
    assert [line["overall"] for line in told if line["kind"] == "validation"] == list(range(10, 101, 10))
    assert told[1]["loss"] == pytest.approx(_step("adapter", 1, 1).loss)
    assert [s["response"] for s in lines(tmp_path / SAMPLES)] == ["a |lamp|"] * 10
    assert list((tmp_path / "tensorboard").iterdir())


@pytest.mark.parametrize("back", [0, 3, 25])
def test_steps_that_are_done_again_are_told_once(tmp_path: Path, back: int) -> None:
    """Killed after step 80, in the middle of a line; the last checkpoint was `back` steps before."""
    run(tmp_path, end=80)
    for name in (METRICS, SAMPLES):
        with open(tmp_path / name, "ab") as stream:
            stream.write(b'{"kind": "step", "over')
    run(tmp_path, begin=80 - back)
    assert steps_of(tmp_path) == list(range(1, 101))
    assert [s["overall"] for s in lines(tmp_path / SAMPLES)] == list(range(10, 101, 10))
    assert len(curves.History.read(tmp_path).validations) == 10


def test_a_validation_that_was_broken_off_is_made_again(tmp_path: Path) -> None:
    run(tmp_path, end=79)
    with Record(tmp_path, Console(quiet=True)) as watch:  # 80 is done, and two of its samples; then a kill
        watch.stage(StageBegun("tasks", 1, 2, 19, 40, 79, 100, {"lora": 300}))
        watch.step(_step("tasks", 20, 80))
        watch.sample(Decoded("tasks", 20, 80, "row/1", "transcription", "a lamp", "a"))
    with Record(tmp_path, Console(quiet=True)) as watch:  # its checkpoint is there, and the validation comes again
        watch.stage(StageBegun("tasks", 1, 2, 20, 40, 80, 100, {"lora": 300}))
        for _ in range(2):
            watch.sample(Decoded("tasks", 20, 80, "row/1", "transcription", "a lamp", "again"))
            watch.validation(_validation("tasks", 20, 80))
    assert [s["response"] for s in lines(tmp_path / SAMPLES) if s["overall"] == 80] == ["again"]


def test_curves_and_report(tmp_path: Path) -> None:
    run(tmp_path)
    curves.draw(tmp_path)
    with Image.open(tmp_path / curves.PICTURE) as picture:
        assert min(picture.size) > 800
        assert len(picture.convert("RGB").getcolors(10**6) or []) > 50
    drawing = (tmp_path / curves.DRAWING).read_text()
    assert "<svg" in drawing
    page, text = (tmp_path / curves.PAGE).read_text(), (tmp_path / curves.TEXT).read_text()
    assert all(stage in page and stage in text for stage in STEPS)
    assert "a |lamp|" in page
    assert "wer 0.082 at 40" in text  # the best of the last stage: exp(-100/40)
    head, stages = curves.table(curves.History.read(tmp_path))[0], curves.table(curves.History.read(tmp_path))[1:]
    assert [dict(zip(head, row, strict=True))["padding"] for row in stages] == ["2.0%", "2.0%"]
    assert [dict(zip(head, row, strict=True))["steps"] for row in stages] == ["60", "40"]


def test_a_long_run_is_thinned(tmp_path: Path) -> None:
    import numpy as np

    x, y = curves._thin(np.arange(10_007.0), np.full(10_007, 2.0))
    assert len(x) == len(y) <= 1500
    assert x[0] < 10
    assert x[-1] > 9_990
    assert np.allclose(y, 2)


def test_nothing_was_done(tmp_path: Path) -> None:
    curves.draw(tmp_path)
    assert not list(tmp_path.iterdir())


def test_how_much_is_done_follows_the_run(tmp_path: Path) -> None:
    share = Share(tmp_path)
    assert share() is None
    run(tmp_path, end=70)
    assert share() == 0.7
    run(tmp_path, begin=30, end=40)  # killed, and on from a checkpoint
    assert share() == 0.4
    run(tmp_path, begin=40)
    assert share() == 1.0

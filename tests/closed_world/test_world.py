from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.closed_world import runs
from pipeline.closed_world import world as worlds
from pipeline.closed_world.measure import Number
from pipeline.closed_world.parts import Part, fingerprint
from pipeline.closed_world.report import WARNING, Findings, targets
from pipeline.closed_world.sizes import SIZES, TINY, Size
from schemas.training import TrainingRecipe
from tests.closed_world.conftest import Made

pytestmark = pytest.mark.xdist_group("closed world")  # which is made once


def test_from_nothing_to_the_report(made: Made) -> None:
    text = made.page.with_name("report.md").read_text()
    assert WARNING in text
    assert WARNING in made.page.read_text()
    for words in (
        "unseen voices",
        "Klatt",
        "unseen templates",
        "unseen argument values",
        "cascade",
        "oracle",
        "shuffled",
    ):
        assert words in text
    figures = json.loads(made.page.with_name("report.json").read_bytes())
    assert set(figures["conditions"]["klatt"]) == {"end_to_end", "cascade", "oracle", "shuffled"}
    assert 0 <= figures["conditions"]["unseen_values"]["oracle"]["ast"] <= 1
    assert figures["compared"]["adapter-mlp"]


def test_nothing_is_made_twice(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worlds, "COMPARED", runs.COMPARED[:1])
    told = made.again()
    assert len(told) > 8
    assert all("kept" in line or "report" in line for line in told)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_recipes_of_all_runs_are_such(size: Size) -> None:
    made = {}
    for of in (None, *runs.COMPARED):
        content = runs.recipe(size, Path("data"), Path("ears"), Path("tongue"), of)
        made[of.name if of else ""] = TrainingRecipe.model_validate(content)
    assert [stage.name for stage in made[""].stages] == ["adapter", "lora", "tasks"]
    totals = {name: sum(stage.steps or 0 for stage in one.stages) for name, one in made.items() if name}
    assert len(set(totals.values())) == 1  # equal budgets
    assert len(made[runs.JOINT].stages) == 1
    assert all(stage.loss.distillation and not stage.loss.cross_entropy for stage in made[runs.DISTILLED].stages)


def test_parts_are_kept_gone_on_with_or_made_anew(tmp_path: Path) -> None:
    told: list[str] = []

    def work(folder: Path) -> None:
        (folder / "seen").write_text((folder / "seen").read_text() + "x" if (folder / "seen").exists() else "x")
        if "fail" in folder.name:
            raise RuntimeError("killed")

    part = Part("ears", tmp_path / "ears", fingerprint({"a": 1}))
    assert part.seconds is None
    part.make(work, told.append)
    part.make(work, told.append)
    assert (tmp_path / "ears" / "seen").read_text() == "x"
    assert "kept" in told[-1]
    replace(part, fingerprint=fingerprint({"a": 2})).make(work, told.append)
    assert (tmp_path / "ears" / "seen").read_text() == "x"  # of something else: cleared
    failing = Part("run", tmp_path / "fail", "1")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="killed"):
            failing.make(work, told.append)
    assert (tmp_path / "fail" / "seen").read_text() == "xx"  # it went on
    assert failing.seconds is None


def test_targets_are_those_of_the_size() -> None:
    def number(value: float) -> Number:
        return Number(value, None, None, 10)

    own = {
        "end_to_end": {"wer": number(0.10), "ast": number(0.80)},
        "oracle": {"wer": number(0.0), "ast": number(0.99)},
        "shuffled": {"wer": number(1.0), "ast": number(0.05)},
    }
    found = Findings(TINY, {"unseen_voices": own}, {}, {}, 1.0, Path())
    assert [target.reached for target in targets(found)] == [True, True]
    assert [target.reached for target in targets(replace(found, size=SIZES["full"]))] == [False, False]

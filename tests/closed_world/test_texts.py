from __future__ import annotations

from itertools import product
from pathlib import Path

import orjson
import pytest

from pipeline.closed_world import voices
from pipeline.closed_world.datasets import CONDITIONS, TRAIN, DataSize, write_recipes
from pipeline.closed_world.texts import CATALOGUES, TEMPLATES, VALUES, World, babble, general, generator, plain, unseen
from pipeline.setup import prepare
from pipeline.text import normalise
from pipeline.tts import _espeak
from schemas.sample import Sample

pytestmark = pytest.mark.xdist_group("closed world")  # which is made once


def calls(samples: list[Sample]) -> set[str]:
    return {
        f"{call.name}{orjson.dumps(orjson.loads(call.arguments), option=orjson.OPT_SORT_KEYS).decode()}"
        for sample in samples
        for message in sample.messages
        for call in message.tool_calls
    }


def said(samples: list[Sample]) -> set[str]:
    return {normalise(sample.utterances[0].transcript) for sample in samples}


def test_no_sentence_and_no_call_of_a_test_is_in_training(world: World) -> None:
    training = [*world.conversations("a", 1500), *world.conversations("b", 1500)]
    for which in CATALOGUES:
        test = list(world.conversations("c", 400, which, test=True))
        assert calls(test)
        assert not calls(test) & calls(training)
        assert not said(test) & said(training)


def test_unseen_values_are_in_no_text_that_anybody_learns_from(world: World) -> None:
    rng = generator("test")
    texts = [
        *(plain(text) for text in world.requests("values", 1000)),
        *(plain(text) for text in world.requests("values", 300, TEMPLATES, test=True)),
        *general(),
        *(babble(rng) for _ in range(2000)),
    ]
    assert not [text for text in texts if unseen() & set(text.split())]
    asked = list(world.conversations("values", 200, VALUES, test=True))
    needing = [sample for sample in asked if calls([sample])]
    new = [s for s in needing if unseen() & set(plain(s.utterances[0].transcript).split())]
    assert len(new) > 0.5 * len(needing)  # the others are asked about numbers alone


def test_templates_of_the_test_share_no_sentence_with_those_of_training(world: World) -> None:
    # All values being equal, no way to ask is in both.
    assert not said(list(world.conversations("x", 2000))) & said(list(world.conversations("x", 2000, TEMPLATES)))


def test_training_hears_neither_unseen_variants_nor_klatts_synthesiser() -> None:
    files = Path(str(_espeak.loader().get_data_path())) / "voices" / "!v"
    by_name = {path.name.lower(): path for path in files.iterdir()}
    heard = voices.training_voices()
    assert len(heard) > 200
    assert not [
        name for name in heard if "klatt" in by_name[name.partition("+")[2]].read_text("utf-8", "replace").lower()
    ]
    for held in (voices.unseen_voices(), voices.klatt_voices()):
        assert not set(held) & {*heard, *voices.listed_voices()}
    assert set(voices.listed_voices()) <= set(heard)


def test_the_recipes_are_of_the_shipped_flow_and_hold_voices_apart(world: World, tmp_path: Path) -> None:
    (tmp_path / "catalogues").symlink_to(world._folder)
    recipes = write_recipes(tmp_path, world, DataSize(20, 20, 6, 4))
    assert list(recipes) == [TRAIN, *CONDITIONS]
    plans = {}
    for name, path in recipes.items():
        plan = prepare(str(path)).plan(tmp_path / name)
        plans[name] = plan
        assert {unit.split for unit in plan.units} == {"train" if name == TRAIN else "test"}
        assert plan.utterances == (40 if name == TRAIN else 10)
    spoken = {name: set(prepare(str(path)).tts.only_voices) for name, path in recipes.items()}
    assert not [name for one, name in product((TRAIN,), CONDITIONS) if spoken[one] & spoken[name]]

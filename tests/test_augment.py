"""Augment: whose sound is changed, that it is the same each time, and that nothing else is touched."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from msgspec.structs import replace

from pipeline import plugins, shards
from pipeline.audio import samples_of
from pipeline.build import Job, build_unit
from pipeline.finish import finish
from pipeline.publish.card import hours
from pipeline.recipes import RecipeError
from pipeline.setup import prepare
from pipeline.stages.augment import Augment
from pipeline.workers import Workers
from schemas.arrow import from_batch, to_batch
from schemas.conversation import Message
from schemas.recipe import AugmentSpec
from schemas.sample import Sample
from schemas.utterance import Part
from tests.building import build, files_of, rows
from tests.examples import sound, utterance

GAIN = {"gain": {"chance": 1.0, "db": [-9.0, -3.0]}}


def stage(
    effects: dict[str, dict[str, Any]] | None = None, *, seed: int = 0, test_share: float = 0.1, **spec: Any
) -> Augment:
    chosen = GAIN if effects is None else effects
    made = [plugins.load("effects", name)(**options) for name, options in chosen.items()]
    return Augment(made, AugmentSpec(**({"train": 1.0} | spec)), seed, test_share)


def sample(name: str = "u1", task: str = "transcription", split: str = "train", **fields: Any) -> Sample:
    """A row, as it comes out of the tasks."""
    spoken = utterance("Hello there.", id=f"c/{name}", **({"audio": sound()} | fields))
    messages = (Message("user", "<|audio|>"), Message("assistant", "Hello there."))
    return Sample(f"c/{name}:{task}:0", (spoken,), split, task, messages=messages)


def run(made: Augment, samples: Iterable[Sample]) -> list[Sample]:
    return list(made(iter(samples)))


def heard(rows_: Iterable[Sample]) -> dict[str, Any]:
    return {u.id: (u.audio.digest, u.effects) for row in rows_ for u in row.utterances if u.audio}


DEFAULTS: dict[str, dict[str, Any]] = {
    name: {} for name in plugins.names("effects") if plugins.load("effects", name).by_default
}


def test_what_is_changed_says_so() -> None:
    (row,) = run(stage(), [sample(licence="CC-BY-4.0", duration=2.0)])
    before, after = sample().utterances[0], row.utterances[0]
    assert before.audio is not None
    assert after.audio is not None
    assert after.effects.keys() == {"gain_db"}
    assert after.clean_digest == before.audio.digest != after.audio.digest
    assert after.audio.fingerprint == before.audio.fingerprint
    assert abs(after.audio.speech_dbfs - before.audio.speech_dbfs - float(after.effects["gain_db"])) < 0.05
    assert (after.id, after.licence, after.duration) == (before.id, "CC-BY-4.0", 2.0)
    assert row.id == sample().id
    assert after.audio.format == before.audio.format
    assert replace(row, utterances=()) == replace(sample(), utterances=()), "nothing else is touched"


def test_it_comes_back_from_a_shard() -> None:
    (row,) = run(stage(), [sample()])
    (again,) = from_batch(pa.record_batch(to_batch([row]).columns, schema=to_batch([row]).schema))
    assert again.utterances[0].effects == row.utterances[0].effects
    assert again.utterances[0].clean_digest == row.utterances[0].clean_digest


def test_the_share_that_is_changed() -> None:
    samples = [sample(f"u{n}", split="train" if n % 2 else "test", audio=sound(0.3)) for n in range(2000)]
    for share in (0.0, 0.2, 0.5, 1.0):
        done = run(stage(train=share, test=1 - share), samples)
        for split, wanted in (("train", share), ("test", 1 - share)):
            changed = sum(bool(row.utterances[0].effects) for row in done if row.split == split)
            assert abs(changed - 1000 * wanted) <= 4.5 * (1000 * wanted * (1 - wanted)) ** 0.5, (share, split)
    assert not any(row.utterances[0].effects for row in run(stage(), samples) if row.split == "test"), (
        "clean by default"
    )


def test_effects_are_drawn_by_their_own_chances() -> None:
    chances = {"gain": 0.3, "silence": 0.6, "clipping": 0.1}
    options: dict[str, dict[str, Any]] = {name: {"chance": chance} for name, chance in chances.items()}
    options["gain"]["db"] = [-9.0, -3.0]
    done = run(stage(options), [sample(f"u{n}", audio=sound(0.3)) for n in range(1500)])
    told = {"gain": "gain_db", "silence": "silence_before", "clipping": "clipped_share"}
    none = np.prod([1 - chance for chance in chances.values()])
    for name, chance in chances.items():
        wanted = chance + none * chance / sum(chances.values())  # where none is drawn, one is
        seen = sum(told[name] in row.utterances[0].effects for row in done) / 1500
        assert abs(seen - wanted) < 4.5 * (wanted * (1 - wanted) / 1500) ** 0.5, name
    assert all(row.utterances[0].effects for row in done)


def test_an_effect_more_changes_nothing_about_the_others() -> None:
    samples = [sample(f"u{n}") for n in range(30)]
    alone, with_another = (run(stage(e), samples) for e in (GAIN, {**GAIN, "silence": {"chance": 0.5}}))
    for a, b in zip(alone, with_another, strict=True):
        assert a.utterances[0].effects["gain_db"] == b.utterances[0].effects["gain_db"]


def test_equal_utterances_sound_equal_in_any_order_and_in_any_stage() -> None:
    samples = [
        sample(f"u{n}", task, audio=sound(1.0, 200 + n)) for n in range(20) for task in ("transcription", "repeat")
    ]
    reference = run(stage(DEFAULTS), samples)
    for row, other in zip(reference[::2], reference[1::2], strict=True):
        assert row.utterances[0].audio == other.utterances[0].audio
        assert row.utterances[0].effects == other.utterances[0].effects
    wanted = heard(reference)
    assert heard(run(stage(DEFAULTS), samples[::-1])) == wanted
    assert heard(run(stage(DEFAULTS), samples[7::3])).items() <= wanted.items()
    assert len({str(effects) for _, effects in wanted.values()}) > 15
    assert heard(run(stage(DEFAULTS, seed=1), samples)) != wanted


def test_rows_of_one_utterance_keep_their_own_transcripts_and_labels() -> None:
    one, two = sample(), sample(task="repeat", labels={"emotion": "happy"})
    done = run(stage(), [one, two])
    assert [row.utterances[0].labels for row in done] == [{}, {"emotion": "happy"}]


def test_the_turns_of_a_conversation_are_heard_in_one_room() -> None:
    turns = tuple(
        utterance("Yes.", id=f"c/u1{part}", audio=sound(1.0, hz)) for part, hz in (("", 200.0), ("~2", 300.0))
    )
    room = {
        "reverberation": {"chance": 1.0},
        "telephone": {"chance": 1.0},
        "gain": {"chance": 1.0, "db": [-20.0, -10.0]},
    }
    (row,) = run(stage(room), [replace(sample(), utterances=turns)])
    first, second = row.utterances
    assert first.effects == second.effects
    assert first.audio != second.audio


@pytest.mark.parametrize(
    "fields",
    [{"labels": {"speech": "no"}}, {"parts": (Part("c/u1", "c/s1"),)}, {"audio": None}],
    ids=["no speech", "mixture", "nothing to hear"],
)
def test_what_is_left_alone(fields: dict[str, Any]) -> None:
    before = sample(**fields)
    (row,) = run(stage(keep_clean=True), [before])
    assert row == before


def test_rejected_samples_pass() -> None:
    before = sample().reject("too_short")
    assert run(stage(keep_clean=True), [before]) == [before]


def test_what_cannot_be_changed_stays_clean() -> None:
    silent = sample(audio=sound(1.0, 220.0, 0.0))
    assert run(stage({"noise": {"chance": 1.0}}, keep_clean=True), [silent]) == [silent]


def test_the_clean_row_stays_where_it_is_asked_for() -> None:
    samples = [sample(f"u{n}") for n in range(40)]
    samples = [replace(s, provenance=replace(s.provenance, attempts=2, prompt_tokens=9, reply="x")) for s in samples]
    done = run(stage(train=0.5, keep_clean=True), samples)
    clean = [row for row in done if not row.id.endswith(":augmented")]
    assert clean == samples
    changed = [row for row in done if row.id.endswith(":augmented")]
    assert 8 < len(changed) < 32
    assert len({row.id for row in done}) == len(done)
    for row in changed:
        (origin,) = (s for s in samples if s.id + ":augmented" == row.id)
        assert row.utterances[0].id == origin.utterances[0].id + ":augmented"
        assert row.utterances[0].clean_id == origin.utterances[0].id
        assert (row.messages, row.split, row.task) == (origin.messages, origin.split, origin.task)
        assert (row.provenance.attempts, row.provenance.prompt_tokens) == (0, 0), "what was paid for is counted once"


def test_clipping_is_told_of() -> None:
    (row,) = run(stage({"clipping": {"chance": 1.0, "share": [0.01, 0.01]}}), [sample()])
    assert row.utterances[0].audio is not None
    assert row.utterances[0].audio.clipped == pytest.approx(0.01, rel=0.01)


def test_a_noise_brings_its_licence(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "cafe.wav", np.random.default_rng(0).normal(0, 0.1, 20_000), 16_000)
    options = {"chance": 1.0, "folder": str(tmp_path), "licence": "CC-BY-SA-4.0"}
    (row,) = run(stage({"noise": options}), [sample(licence="CC0-1.0")])
    assert row.utterances[0].licence == "CC-BY-SA-4.0 AND CC0-1.0"
    assert row.utterances[0].effects["noise"] == "cafe.wav"
    (row,) = run(stage({"noise": {"chance": 1.0}}), [sample(licence="CC0-1.0")])
    assert row.utterances[0].licence == "CC0-1.0", "what is synthesised is free"


# Recipes.


@pytest.mark.parametrize(
    ("augment", "where", "text"),
    [
        ({"trian": 0.5}, "augment.trian", "Did you mean 'train'"),
        ({"train": 1.5}, "augment.train", "less than or equal to 1"),
        ({"effects": {}}, "augment.effects", "at least 1"),
        ({"effects": {"nose": None}}, "augment.effects.nose", "Did you mean 'noise'"),
        ({"effects": {"noise": {"snr": [1, 2]}}}, "augment.effects.noise.snr", "Did you mean 'snr_db'"),
        ({"effects": {"noise": {"snr_db": [25, 5]}}}, "augment.effects.noise.snr_db", "the lower one"),
        ({"effects": {"noise": {"folder": "nowhere"}}}, "augment.effects.noise.folder", "does not exist"),
        ({"effects": {"noise": {"folder": "."}}}, "augment.effects.noise.folder", "holds no audio that can be read"),
        ({"effects": {"gain": {"chance": 0}}}, "augment.effects", "none has a chance above 0"),
        (
            {"effects": {"speed": {"factor": [0.2, 1]}}},
            "augment.effects.speed.factor.0",
            "greater than or equal to 0.8",
        ),
    ],
)
def test_a_recipe_that_cannot_work(
    write_recipe: Callable[..., Path], augment: dict[str, Any], where: str, text: str
) -> None:
    prepare.cache_clear()
    with pytest.raises(RecipeError) as raised:
        prepare(str(write_recipe(augment=augment)))
    assert f": {where}: " in str(raised.value)
    assert text in str(raised.value)


def test_without_effects_the_usual_ones_are_meant(write_recipe: Callable[..., Path]) -> None:
    prepare.cache_clear()
    setup = prepare(str(write_recipe(augment={})))
    names = {effect.name for effect in setup.effects}
    assert names == set(DEFAULTS) == set(plugins.names("effects")) - {"opus", "tempo"}
    order = [name for name, _ in setup.stages(None, (), 1)]
    assert order.index("instruct") < order.index("augment")
    assert order.index("check_speech") < order.index("augment")


def test_the_fingerprint_knows_the_noises_and_not_their_place(
    write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    def fingerprint(folder: str, **options: Any) -> str:
        prepare.cache_clear()
        noise = {"folder": str(tmp_path / folder), **options}
        return prepare(str(write_recipe(augment={"effects": {"noise": noise}}))).fingerprint

    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / folder).mkdir()
        soundfile.write(tmp_path / folder / "x.wav", np.random.default_rng(seed).normal(0, 0.1, 9000), 16_000)
    reference = fingerprint("a")
    assert fingerprint("b") == reference
    assert fingerprint("c") != reference
    assert fingerprint("a", licence="CC0-1.0") != reference
    shutil.copy(tmp_path / "a" / "x.wav", tmp_path / "a" / "y.wav")
    assert fingerprint("a") != reference
    prepare.cache_clear()
    setup = prepare(str(write_recipe(augment={"effects": {"noise": {"folder": str(tmp_path / "b")}}})))
    assert str(tmp_path) not in json.dumps(setup.resolved["augment"])


# Datasets.


def test_clean_and_augmented_are_no_copies_but_copies_are_found(
    write_recipe: Callable[..., Path], corpus: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copies"
    shutil.copytree(corpus, folder)
    listed = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    for row in listed[:6]:  # the same recording twice, and quieter, in another format
        clip, rate = soundfile.read(folder / row["audio_filepath"])
        soundfile.write(folder / f"quiet-{row['audio_filepath']}", 0.3 * clip, rate, subtype="ULAW")
        shutil.copy(folder / row["audio_filepath"], folder / f"copy-{row['audio_filepath']}")
        listed += [row | {"audio_filepath": f"{what}-{row['audio_filepath']}"} for what in ("copy", "quiet")]
    (folder / "manifest.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in listed))
    corpora = [{"reader": "jsonl", "name": "tones", "path": str(folder), "licence": "CC0-1.0"}]
    plain = build(write_recipe("plain", corpora=corpora), tmp_path / "plain")
    _, aside = rows(tmp_path / "plain", plain)
    copies = {row.utterances[0].id for row in aside if "duplicate" in str(row.rejected)}
    assert len(copies) > 8, "exact and near ones"
    for keep_clean in (False, True):
        name = f"keep-{keep_clean}".lower()
        effects = {"gain": {"chance": 1.0}, "noise": {"chance": 0.5}}
        augment = {"train": 0.6, "test": 0.6, "keep_clean": keep_clean, "effects": effects}
        dataset = build(write_recipe(name, corpora=corpora, augment=augment), tmp_path / name)
        kept, aside = rows(tmp_path / name, dataset)
        found = {row.utterances[0].clean_id for row in aside if "duplicate" in str(row.rejected)}
        assert found == copies, "just as without augmentation"
        changed = [row for row in kept if row.utterances[0].effects]
        assert changed
        if keep_clean:
            names = {row.id for row in kept}
            assert all(row.id.removesuffix(":augmented") in names for row in changed)
            assert len(kept) - len(changed) == sum(s.rows for s in plain.splits.values())
        splits = dataset.splits.values()
        assert sum(s.augmented_rows for s in splits) == len(changed)
        assert sum(s.augmented for s in splits) == pytest.approx(
            sum({u.id: u.audio.seconds for row in changed for u in row.utterances if u.audio}.values()), abs=0.01
        )
        assert sum(s.utterances for s in splits) == sum(s.utterances for s in plain.splits.values())
        where: dict[str, set[str]] = {}
        for row in kept:
            where.setdefault(row.utterances[0].clean_id, set()).add(row.split)
        assert all(len(found_in) == 1 for found_in in where.values())


def test_the_card_tells_of_it(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "noises").mkdir()
    soundfile.write(tmp_path / "noises" / "a.wav", np.random.default_rng(0).normal(0, 0.1, 9000), 16_000)
    noise = {"chance": 1.0, "folder": str(tmp_path / "noises"), "licence": "CC-BY-3.0"}
    recipe = write_recipe(augment={"train": 1.0, "effects": {"noise": noise, "telephone": {"chance": 0.5}}})
    dataset = build(recipe, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    train, test = dataset.splits["train"], dataset.splits["test"]
    assert "## Augmentation" in card
    assert f"| train | {train.rows} of {train.rows} | {hours(train.augmented)} |" in card
    assert f"| test | 0 of {test.rows} | 0.00 |" in card
    assert "| noise | 1 | snr_db 5 to 25 |" in card
    assert "| telephone | 0.5 | codec mulaw, alaw, opus, none; opus_kbps 8 to 24 |" in card
    assert "The noises come from 1 files; licence: CC-BY-3.0." in card
    assert "CC-BY-3.0 AND CC0-1.0" in card
    assert str(tmp_path) not in card
    build(write_recipe("plain"), tmp_path / "plain")
    assert "Augmentation" not in (tmp_path / "plain" / "README.md").read_text()


@pytest.mark.long
def test_any_number_of_workers_makes_the_same_files(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    recipe = write_recipe(augment={"train": 0.8, "test": 0.5, "keep_clean": True}, samples_per_utterance=2)
    build(recipe, tmp_path / "one")
    job = Job(str(recipe), str(tmp_path / "two"), prepare(str(recipe)).fingerprint, workers=2)
    with shards.exclusive(tmp_path / "two"):
        shards.claim(tmp_path / "two", prepare(job.recipe).recipe.name)
        plan = prepare(job.recipe).plan(tmp_path / "two")
        with Workers(2) as workers:
            for unit in reversed(plan.units):
                workers.run(build_unit, job, unit)
        finish(job, plan)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_units_of_another_size_sound_the_same(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    found = []
    for size in (3, 512):
        recipe = write_recipe(f"size{size}", augment={"test": 0.5}, shards={"utterances": size})
        kept, aside = rows(tmp_path / f"out{size}", build(recipe, tmp_path / f"out{size}"))
        found.append({row.id: heard([row]) for row in kept + aside})
    assert found[0] == found[1]


def test_what_is_changed_is_not_judged_as_if_recorded(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    """Filters of duration, level and clipping have judged the sound before."""
    filters = {"duration": {"longest": 4.0}, "clipping": {"most": 0.0}, "silence": None}
    effects = {
        "silence": {"chance": 1.0, "before": [4.0, 5.0]},
        "clipping": {"chance": 1.0, "share": [0.05, 0.1]},
        "gain": {"chance": 1.0, "db": [-40.0, -40.0]},
    }
    plain = build(write_recipe("plain", filters=filters), tmp_path / "plain")
    changed = build(
        write_recipe("changed", filters=filters, augment={"train": 1.0, "effects": effects}), tmp_path / "out"
    )
    assert changed.reasons == plain.reasons
    assert {s: x.rows for s, x in changed.splits.items()} == {s: x.rows for s, x in plain.splits.items()}
    kept, _ = rows(tmp_path / "out", changed)
    for row in kept:
        if row.split == "train" and row.utterances[0].is_speech:
            assert row.utterances[0].audio is not None
            assert row.utterances[0].audio.seconds > 4
            assert np.isfinite(samples_of(row.utterances[0].audio)).all()

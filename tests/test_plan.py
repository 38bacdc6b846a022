"""The plan: units by content, splits by speaker, voices and companions by chance that repeats."""

from __future__ import annotations

import resource
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from pipeline import plugins
from pipeline.plan import Plan, make_plan, read_unit
from pipeline.shards import DiskError
from pipeline.tts.base import Voice
from schemas.recipe import SplitSpec
from schemas.utterance import AudioSource, Utterance


def utterance(number: int, speaker: str | None = None, **more: object) -> Utterance:
    who = f"c/{speaker}" if speaker else None
    source = AudioSource(f"{number}.wav", identity=f"100-{number}")
    return replace(Utterance(f"c/{number}", "c", f"words {number}", "en", who, source=source), **more)


def plan(utterances: list[Utterance], folder: Path, test: float = 0.3, size: int = 4, **more: object) -> Plan:
    spec = more.pop("spec", SplitSpec(test=test))
    more = {"seed": 1} | more
    return make_plan(utterances, folder, spec=spec, unit_utterances=size, **more)  # type: ignore[arg-type]


def planned(made: Plan) -> list[tuple[str, Utterance]]:
    return [(unit.split, u) for unit in made.units for u, _ in read_unit(made.folder, unit)]


ids = st.lists(st.tuples(st.integers(0, 30), st.sampled_from("abcdefg") | st.none()), max_size=40)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ids, st.integers(1, 9), st.floats(0, 0.9))
def test_every_utterance_is_planned_once_and_no_speaker_twice(
    tmp_path: Path, drawn: list[tuple[int, str | None]], size: int, test: float
) -> None:
    given_ = [utterance(number, speaker) for number, speaker in drawn]
    made = plan(given_, tmp_path, test, size)
    got = planned(made)
    assert len(got) == len(given_) == made.utterances == sum(u.utterances for u in made.units)
    assert len({u.id for _, u in got}) == len(got), "ids are told apart"
    assert Counter(u.id.split("  ")[0] for _, u in got) == Counter(u.id for u in given_)
    assert all(bool(u.problem) == ("  " in u.id) for _, u in got)
    splits: dict[str, set[str]] = {}
    for split, u in got:
        splits.setdefault(u.speaker or u.id.split("  ")[0], set()).add(split)
    # An utterance without a speaker that is listed twice is the same recording.
    assert all(len(s) == 1 for who, s in splits.items() if "/" in who and not who.rsplit("/", 1)[1].isdigit())
    assert all(unit.utterances <= size for unit in made.units)


@given(st.lists(st.sampled_from(["a", "a#2", "a x2", "a  x2", "a  x2  x2"]), max_size=12))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_duplicate_ids_are_told_apart_whatever_they_look_like(tmp_path: Path, ids: list[str]) -> None:
    got = [u for _, u in planned(plan([replace(utterance(1), id=i) for i in ids], tmp_path, test=0))]
    assert len({u.id for u in got}) == len(got) == len(ids)
    possible = [(given_, u) for given_, u in zip(ids, got, strict=True) if "  " not in given_]  # readers give no others
    seen: set[str] = set()
    for given_, u in possible:
        assert (u.problem is None) == (given_ not in seen)
        assert u.problem is not None or u.id == given_, "the id of the first of them stays"
        seen.add(given_)


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    whole = utterance(
        1,
        "s",
        labels={"gender": "male", "ä": "ö"},
        recording="c/r",
        licence="CC0",
        duration=2.5,
        sampling_rate=8000,
        problem="audio_missing: x",
        source=AudioSource("a.tar", "b.wav", 1.5, 2.0, 1, 512, 4096, "id"),
    )
    made = plan([whole, utterance(2)], tmp_path, test=0)
    assert [u for _, u in planned(made)] == [whole, utterance(2)]
    loaded = Plan.load(tmp_path)
    assert loaded is not None
    assert loaded.units == made.units


def test_a_units_id_changes_with_its_utterances_and_nothing_else(tmp_path: Path) -> None:
    given_ = [utterance(n, "abc"[n % 3]) for n in range(12)]
    first = plan(given_, tmp_path / "1", test=0)
    assert [u.id for u in first.units] == [u.id for u in plan(given_, tmp_path / "2", test=0).units]
    changed = [replace(u, transcript="other words") if u.id == "c/5" else u for u in given_]
    second = plan(changed, tmp_path / "3", test=0)
    assert [a.id == b.id for a, b in zip(first.units, second.units, strict=True)] == [True, False, True]
    touched = [
        replace(u, source=replace(u.source, identity="100-999")) if u.id == "c/5" and u.source else u for u in given_
    ]
    assert plan(touched, tmp_path / "4", test=0).units[1].id != first.units[1].id


def test_the_split_of_a_speaker_does_not_depend_on_the_others(tmp_path: Path) -> None:
    few = plan([utterance(n, f"s{n}") for n in range(40)], tmp_path / "1")
    many = plan([utterance(n, f"s{n}") for n in range(400)], tmp_path / "2")
    later = {u.speaker: split for split, u in planned(many)}
    assert all(later[u.speaker] == split for split, u in planned(few))
    share = sum(split == "test" for split in later.values()) / len(later)
    assert 0.22 < share < 0.38


def test_corpus_splits_are_kept_and_conflicts_are_named(tmp_path: Path) -> None:
    given_ = [
        utterance(1, "a", split="train"),
        utterance(2, "b", split="dev"),
        utterance(3, "c", split="test"),
        utterance(4, "a", split="test"),
    ]
    got = planned(plan(given_, tmp_path, test=0.5))
    assert {u.id: split for split, u in got} == {"c/1": "train", "c/2": "test", "c/3": "test", "c/4": "train"}
    problems = {u.id: u.problem for _, u in got if u.problem}
    assert list(problems) == ["c/4"]
    assert problems["c/4"].startswith("speaker_in_both_splits: c/a is in train already")


def test_named_test_speakers_and_forced_corpora(tmp_path: Path) -> None:
    spec = SplitSpec(test=0, test_speakers=["c/b", "c/nobody"])
    made = plan([utterance(1, "a"), utterance(2, "b")], tmp_path / "1", spec=spec)
    assert {u.speaker: split for split, u in planned(made)} == {"c/a": "train", "c/b": "test"}
    assert any("c/nobody" in w for w in made.warnings)
    made = plan([utterance(1, "a"), utterance(2, "b")], tmp_path / "2", test=0, forced={"c": "test"})
    assert {split for split, _ in planned(made)} == {"test"}
    assert any("everybody fell into test" in w for w in made.warnings)


def test_an_empty_test_split_is_warned_of(tmp_path: Path) -> None:
    made = plan([utterance(n, "only") for n in range(5)], tmp_path, test=0.01)
    assert any("nobody fell into test" in w for w in made.warnings)


def voices(language: str) -> list[Voice]:
    return [Voice(f"{language}-{n}", language, {"gender": "male" if n % 2 else "female"}) for n in range(10)]


def sentence(number: int, voice: int) -> Utterance:
    return Utterance(f"t/x:{number}#{voice}", "t", f"sentence {number}", "en", recording=f"t/x:{number}")


def test_sentences_and_voices_stay_in_one_split(tmp_path: Path) -> None:
    given_ = [sentence(n, v) for n in range(60) for v in (1, 2, 3)]
    got = planned(plan(given_, tmp_path, voices=voices))
    for key in (lambda u: u.recording, lambda u: u.voice):
        by_split = {split: {key(u) for s, u in got if s == split} for split in ("train", "test")}
        assert by_split["train"]
        assert by_split["test"]
        assert not by_split["train"] & by_split["test"]
    of_sentence: dict[str | None, set[str | None]] = {}
    for _, u in got:
        of_sentence.setdefault(u.recording, set()).add(u.voice)
        assert u.speaker == f"tts/{u.voice}"
        assert u.labels["gender"] in ("male", "female")
    assert all(len(v) == 3 for v in of_sentence.values()), "three voices, all different"


def test_no_voice_is_in_both_splits_whatever_the_tags(tmp_path: Path) -> None:
    tags = ["pt", "pt-BR", "en-US", "en", "en-GB", "ru", "es-419", "es"]
    given_ = [replace(sentence(n, 1), id=f"t/{tag}:{n}", language=tag) for n in range(80) for tag in tags]
    engine = plugins.load("tts", "espeak")()
    for seed in range(5):
        got = planned(plan(given_, tmp_path / str(seed), 0.1, voices=engine.voices, seed=seed))
        by_split = {split: {u.voice for s, u in got if s == split} for split in ("train", "test")}
        assert not by_split["train"] & by_split["test"]
        for tag in tags:
            own = {v.name for v in engine.voices(tag)}
            for split in ("train", "test"):
                used = {u.voice for s, u in got if s == split and u.language == tag}
                assert len(used) >= 2
                assert used <= own, "of the accent that is asked for"


def test_voices_that_languages_share_or_of_an_accent_each(tmp_path: Path) -> None:
    def shared(language: str) -> list[Voice]:
        own = [Voice(f"{language}-{n}", language, {"accent": str(n)}) for n in range(6)]
        return [*(Voice(f"all-{n}", language) for n in range(6)), *own] if language != "ru" else own

    given_ = [replace(sentence(n, 1), id=f"t/{tag}:{n}", language=tag) for n in range(80) for tag in ("en", "de", "ru")]
    got = planned(plan(given_, tmp_path, voices=shared))
    for tag in ("en", "de", "ru"):
        train, test = ({u.voice for s, u in got if s == split and u.language == tag} for split in ("train", "test"))
        assert len(train) >= 2
        assert len(test) >= 2
    assert not {u.voice for s, u in got if s == "train"} & {u.voice for s, u in got if s == "test"}


def test_a_text_whose_file_has_a_number_sign_in_its_name(tmp_path: Path) -> None:
    given_ = [replace(sentence(n, 1), id=f"t/c#.en:{n}{v}") for n in range(20) for v in ("", "#1", "#2")]
    assert len(planned(plan(given_, tmp_path, voices=voices))) == 60


@pytest.mark.parametrize("place", ["a file is in the way", "the file grows too large", "the companions do"])
def test_a_disk_that_does_not_take_the_plan_is_explained(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "plan" if "way" in place else tmp_path / "plan"
    given_ = [utterance(n, f"s{n % 9}") for n in range(3000)]
    if "way" in place:
        with pytest.raises(DiskError, match=f"{folder}: a part of this path is a file: give another --out"):
            plan(given_, folder)
        return
    most = 20_000 if "file" in place else 150_000
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        with pytest.raises(DiskError, match=rf"{folder}/0/\w+\.arrow: the file grew over the allowed size"):
            plan(given_, folder, size=1000, companions=60)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_language_without_voices(tmp_path: Path) -> None:
    (got,) = planned(plan([sentence(1, 1)], tmp_path, voices=lambda _: []))
    assert got[1].voice is None


@pytest.mark.parametrize("size", [3, 7, 50])
def test_companions_are_others_of_the_same_split_and_do_not_depend_on_units(tmp_path: Path, size: int) -> None:
    given_ = [utterance(n, "abcdefgh"[n % 8], language="en" if n % 3 else "ru") for n in range(90)]
    made = plan(given_, tmp_path / str(size), size=size, companions=3)
    found = {}
    members = {split: {u.id for s, u in planned(made) if s == split} for split in ("train", "test")}
    speakers = Counter({(s, u.language, u.speaker) for s, u in planned(made)})
    for unit in made.units:
        for own, others in read_unit(made.folder, unit):
            assert len(others) == 3
            there = sum((unit.split, own.language) == key[:2] for key in speakers)
            assert len({o.speaker for o in others} | {own.speaker}) == min(4, there)
            assert {o.language for o in others} == {own.language}
            assert all(o.id in members[unit.split] for o in others)
            assert own.id not in {o.id for o in others}
            found[own.id] = [o.id for o in others]
    reference = plan(given_, tmp_path / "reference", size=5, companions=3)
    for unit in reference.units:
        for own, others in read_unit(reference.folder, unit):
            assert found[own.id] == [o.id for o in others]


def test_companions_where_there_are_hardly_any(tmp_path: Path) -> None:
    made = plan([utterance(1, "a")], tmp_path / "1", test=0, companions=3)
    assert [others for u in made.units for _, others in read_unit(made.folder, u)] == [()]
    made = plan([utterance(n, "a") for n in range(3)], tmp_path / "2", test=0, companions=3)
    assert [len(others) for u in made.units for _, others in read_unit(made.folder, u)] == [2, 2, 2]
    broken = [utterance(1, "a"), utterance(2, "b", problem="audio_missing: x")]
    made = plan(broken, tmp_path / "3", test=0, companions=3)
    assert [len(others) for u in made.units for _, others in read_unit(made.folder, u)] == [0, 0]


def test_a_limit_draws_evenly_and_repeats(tmp_path: Path) -> None:
    given_ = [utterance(n, f"s{n // 10}") for n in range(200)]
    first = [u.id for _, u in planned(plan(given_, tmp_path / "1", test=0, limit=40))]
    assert len(first) == 40
    assert first == [u.id for _, u in planned(plan(given_, tmp_path / "2", test=0, limit=40))]
    assert first == sorted(first, key=lambda i: int(i.split("/")[1]))
    assert len({int(i.split("/")[1]) // 20 for i in first}) >= 9


def test_a_corpus_without_a_language_is_told(tmp_path: Path) -> None:
    known = [utterance(n, "a") for n in range(5)]
    noise = [utterance(n, "b", id=f"n/{n}", corpus="n", language=None, labels={"speech": "no"}) for n in range(5)]
    assert not [w for w in plan(known + noise, tmp_path, 0.0).warnings if "language" in w]
    unknown = [utterance(n, "c", id=f"d/{n}", corpus="d", language=None) for n in range(3)]
    (told,) = [w for w in plan(known + unknown, tmp_path, 0.0).warnings if "language" in w]
    assert "corpus d: no language is given for 3 utterances" in told
    assert "set `language` on this corpus" in told


def test_an_unseen_synthesiser_is_for_test_alone(tmp_path: Path) -> None:
    engine = plugins.load("tts", "espeak")()
    given_ = [replace(sentence(n, 1), language=("en", "pt-BR", "ru")[n % 3]) for n in range(1800)]
    held = {v.name for tag in ("en", "pt", "ru") for v in engine.voices(tag) if v.held_out}
    got = planned(plan(given_, tmp_path / "a", 0.2, voices=engine.voices))
    by_split = {split: [u.voice for s, u in got if s == split] for split in ("train", "test")}
    assert not held & set(by_split["train"])
    share = sum(voice in held for voice in by_split["test"]) / len(by_split["test"])
    assert 0.35 < share < 0.65, "half of the test, however many voices it has"
    alone = planned(plan(given_, tmp_path / "b", 0.0, voices=engine.voices))
    assert not held & {u.voice for _, u in alone}, "without a test it does not speak"


def test_two_voices_of_a_sentence_in_test_are_of_both_synthesisers(tmp_path: Path) -> None:
    engine = plugins.load("tts", "espeak")()
    given_ = [sentence(n, voice) for n in range(300) for voice in (1, 2)]
    kinds: dict[str | None, set[bool]] = {}
    for split, u in planned(plan(given_, tmp_path, 0.2, voices=engine.voices)):
        if split == "test":
            kinds.setdefault(u.recording, set()).add("klatt" in (u.voice or ""))
    assert all(kind == {True, False} for kind in kinds.values())


def test_a_split_without_a_voice_is_told_of(tmp_path: Path) -> None:
    """A voice is heard in one split only: of a single one nothing is left for the other."""
    given_ = [utterance(n, language="en", source=None) for n in range(40)]
    made = plan(given_, tmp_path, 0.3, voices=lambda language: voices(language)[:1])
    (warning,) = [text for text in made.warnings if "no voice is left" in text]
    mute = [u for _, u in planned(made) if u.voice is None]
    assert warning.startswith(f"{len(mute)} utterances in en fell into test")
    assert not any("no voice" in text for text in plan(given_, tmp_path, 0.3, voices=voices).warnings)

"""Synthesize: every turn is spoken once, in order; what fails has a reason; what was paid for is remembered."""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from pipeline.audio import SAMPLING_RATE, Samples, samples_of
from pipeline.memo import Memo
from pipeline.recipes import RecipeError
from pipeline.setup import prepare
from pipeline.stages._plausible import implausible
from pipeline.stages.synthesize import Synthesize
from pipeline.tts.base import TTS, Heard, Line, SpeechError, Voice, ignore, licences, restrictions
from pipeline.tts.espeak import Espeak
from schemas.sample import Rejection, Sample
from schemas.utterance import AudioSource, Utterance
from tests.building import build, rows
from tests.examples import LANGUAGES, ROOT, sentences

SHORT = {
    "en": "Stop. Yes. Go! Six. Help! Lights off. Next song. Shh. Fish. No. Sixty-six. Up.",
    "ru": "Стоп. Да. Дальше! Шесть. Ещё. Выключи свет. Я. Нет. Щи.",
    "pt": "Pare. Sim. Não! Seis. É. Luzes. Próxima. Já.",
}


class Siren(TTS):
    """Rises and falls for as long as its text is; what it does otherwise is in the text."""

    remembered: ClassVar[bool] = True
    asked: ClassVar[list[Line]] = []

    model: str = "siren"
    licence: str | None = "CC-BY-NC-SA-4.0"

    def all_voices(self, language: str | None) -> list[Voice]:
        names = {"low": self.licence, "high": "MIT"}
        return [Voice(name, language or "en", {}, licence) for name, licence in names.items() if language != "tlh"]

    def speak(self, lines: Sequence[Line], workers: int = 1, heard: Heard = ignore) -> list[Samples | Rejection]:
        self.asked.extend(lines)
        return [self._say(line) for line in lines]

    def _say(self, line: Line) -> Samples | Rejection:
        if "broken" in line.text:
            return Rejection("tts_failed", "no such word")
        seconds = len(line.text) / 15
        axis = np.arange(round(seconds * SAMPLING_RATE)) / SAMPLING_RATE
        sound = 0.3 * np.sin(2 * np.pi * 200 * axis) * np.abs(np.sin(2 * np.pi * 2 * axis)) ** 4
        noise = np.random.default_rng(1).normal(0, 0.1, len(axis))
        kinds = {
            "quiet": sound / 1e4,
            "noise": noise,
            "hum": 0.1 * np.sin(2 * np.pi * 50 * axis),
            "half": sound[: len(sound) // 2],
        }
        kinds |= {"nothing": sound[:0], "twice": np.tile(sound, 6), "nan": sound * np.nan}
        kind = next((k for k in kinds if k in line.text), "")
        return np.asarray(kinds.get(kind, sound), np.float32)


def turn(number: object, text: str, voice: str | None = "low", **fields: Any) -> Utterance:
    return Utterance(
        **{"id": f"t/{number}", "corpus": "t", "transcript": text, "language": "en", "voice": voice} | fields
    )


def sample(*turns: Utterance, task: str = "tool_call", **fields: Any) -> Sample:
    return Sample(id=turns[0].id, utterances=turns, split="train", task=task, **fields)


LONG = "please tell my brother that the train is late again"


@pytest.fixture(autouse=True)
def _nothing_asked() -> None:
    Siren.asked.clear()


# What is spoken.


def test_every_turn_of_a_sample_is_spoken_and_the_text_stays_as_it_is_written() -> None:
    (got,) = Synthesize(Espeak())(
        [sample(turn(1, "Wake me at 7:30.", "en-us+f1"), turn("1~2", "No, at 8.", "en-us+f1"))]
    )
    assert got.rejected is None
    for utterance in got.utterances:
        assert utterance.audio is not None
        assert utterance.audio.format == "espeak"
        assert utterance.delivery is not None
        assert (utterance.delivery.engine, utterance.delivery.licence) == ("espeak", "GPL-3.0-or-later")
        assert utterance.spoken
        assert not any(c.isdigit() for c in utterance.spoken)
    assert [u.transcript for u in got.utterances] == ["Wake me at 7:30.", "No, at 8."]
    assert got.utterances[0].delivery == got.utterances[1].delivery, "one conversation, one mood"


def test_what_is_not_to_be_spoken_is_left_alone() -> None:
    spoken = next(Synthesize(Espeak())([sample(turn(0, "Hello.", "en-us+f1"))])).utterances[0]
    recorded = turn(1, "hello", None, source=AudioSource("a.flac"))
    unwritten = turn(2, "", None, catalogue="home")
    done = sample(spoken, recorded, unwritten)
    rejected = sample(turn(3, "hello")).reject("too_short")
    assert list(Synthesize(Siren())([done, rejected])) == [done, rejected]
    assert Siren.asked == []


def test_of_a_draft_the_companions_are_not_spoken() -> None:
    (got,) = Synthesize(Siren())([sample(turn(1, LONG), turn(2, LONG), task="")])
    assert [u.audio is not None for u in got.utterances] == [True, False]


def test_deliveries_are_drawn_within_the_ranges_and_differ() -> None:
    engine = Espeak(rate=[0.9, 1.15], pitch=[0.95, 1.05])
    got = list(Synthesize(engine, seed=3)([sample(turn(n, "Good morning.", "en-us+f1")) for n in range(60)]))
    made = [s.utterances[0].delivery for s in got]
    assert all(d is not None and 0.9 <= d.rate <= 1.15 and 0.95 <= d.pitch <= 1.05 for d in made)
    assert len({d.rate for d in made if d}) > 15
    assert len({d.pitch for d in made if d}) > 8
    (other,) = Synthesize(engine, seed=4)([sample(turn(0, "Good morning.", "en-us+f1"))])
    assert other.utterances[0].delivery != made[0], "by the recipe's seed"
    fixed = Espeak(rate=[1.0, 1.0], pitch=[1, 1])
    (plain,) = Synthesize(fixed)([sample(turn(0, "Good morning.", "en-us+f1"))])
    assert plain.utterances[0].delivery == replace(made[0], rate=1.0, pitch=1.0)


def test_what_an_engine_cannot_do_is_not_claimed() -> None:
    (got,) = Synthesize(Siren())([sample(turn(1, LONG))])
    assert got.utterances[0].delivery is not None
    assert (got.utterances[0].delivery.rate, got.utterances[0].delivery.pitch) == (1.0, 1.0)


# Order, windows, workers.


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from(["said", "rejected", "recorded", "two", "broken", "same"]), max_size=40), st.integers(1, 9)
)
def test_samples_leave_in_the_order_in_which_they_came(kinds: list[str], at_once: int) -> None:
    Siren.asked.clear()
    given_ = []
    for n, kind in enumerate(kinds):
        one = sample(turn(n, f"{LONG} {n}"))
        if kind == "rejected":
            one = one.reject("too_short")
        elif kind == "recorded":
            one = sample(turn(n, "x", source=AudioSource("a")))
        elif kind == "two":
            one = sample(turn(n, f"{LONG} {n}"), turn(f"{n}~2", f"{LONG} again {n}"))
        elif kind == "broken":
            one = sample(turn(n, f"broken {n}"))
        elif kind == "same":
            one = sample(turn("same", LONG))
        given_.append(one)
    stage = Synthesize(Siren(at_once=at_once))
    got = list(stage(given_))
    assert [s.id for s in got] == [s.id for s in given_]
    assert [s.rejected for s in got] == [{"rejected": "too_short", "broken": "tts_failed"}.get(kind) for kind in kinds]
    assert all(u.audio or u.source for s in got if s.rejected is None for u in s.utterances)
    assert stage.asked == len(Siren.asked)


def test_an_utterance_that_samples_share_is_spoken_once() -> None:
    given_ = [sample(turn(n // 5, LONG + f" {n // 5}"), task=f"task{n}") for n in range(20)]
    got = list(Synthesize(Siren(at_once=2))(given_))
    assert len(Siren.asked) == 4
    assert len({id(s.utterances[0].audio) for s in got}) == 4


def test_it_is_a_stream() -> None:
    """Memory does not grow with what is to come."""
    taken = 0

    def endless() -> Any:
        nonlocal taken
        while True:
            taken += 1
            yield sample(turn(taken, f"{LONG} {taken}"))

    stream = Synthesize(Siren(at_once=4))(endless())
    for _ in range(20):
        next(stream)
    assert taken <= 24


def speak_part(numbers: list[int]) -> dict[int, bytes]:
    """What a worker makes of some utterances: their FLAC, in whatever order and company they come."""
    texts = {n: sentences(LANGUAGES[n % 3])[n] for n in numbers}
    engine = Espeak()
    drafts = []
    for n in numbers:
        voices = engine.voices(LANGUAGES[n % 3])
        drafts.append(sample(turn(n, texts[n], voices[n % len(voices)].name, language=LANGUAGES[n % 3]), task=""))
    got = Synthesize(engine, seed=5)(drafts)
    return {n: s.utterances[0].audio.flac for n, s in zip(numbers, got, strict=True) if s.utterances[0].audio}


@pytest.mark.long
def test_same_seed_any_worker_count_same_bytes() -> None:
    numbers = list(range(45))
    alone = speak_part(numbers)
    assert len(alone) == 45
    for workers in (2, 3):
        mixed = random.Random(workers).sample(numbers, len(numbers))
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            parts = pool.map(speak_part, [mixed[n::workers] for n in range(workers)])
        assert {n: flac for part in parts for n, flac in part.items()} == alone


# What can go wrong.


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("broken words are these", "tts_failed"),
        (f"{LONG} nothing", "not_spoken"),
        (f"{LONG} quiet", "tts_silent"),
        (f"{LONG} noise", "tts_noise"),
        (f"{LONG} hum", "tts_noise"),
        (f"{LONG} nan", "tts_noise"),
        (f"{LONG} half", "tts_too_short"),
        (f"{LONG} twice", "tts_too_long"),
        ("...", "not_spoken"),
    ],
)
def test_bad_speech_is_set_aside_with_a_reason_and_the_others_are_kept(text: str, reason: str, tmp_path: Path) -> None:
    given_ = [sample(turn(1, LONG)), sample(turn(2, LONG), turn("2~2", text)), sample(turn(3, LONG))]
    with Memo(tmp_path / "memo.sqlite") as memo:
        for found in (list(Synthesize(Siren())(given_)), list(Synthesize(Siren(), memo=memo)(given_))):
            assert [s.rejected for s in found] == [None, reason, None]
            assert found[1].detail
            assert all(u.audio is not None for s in (found[0], found[2]) for u in s.utterances)


def test_a_language_without_voices_and_a_voice_that_is_not_there() -> None:
    got = list(Synthesize(Siren())([sample(turn(1, "nuqneH", None, language="tlh")), sample(turn(2, LONG, "tenor"))]))
    assert [(s.rejected, s.detail) for s in got] == [
        ("no_voice", "siren has no voice for tlh".replace("siren", Siren().engine)),
        ("no_voice", f"{Siren().engine} has no voice 'tenor' for en"),
    ]


@pytest.mark.parametrize("language", sorted(SHORT))
def test_no_real_speech_is_taken_for_a_failure(language: str) -> None:
    rng = random.Random(7)
    voices = [v.name for v in Espeak().voices(language)]
    texts = sentences(language) + [t + end for t in SHORT[language].split(" ") for end in ("", "") if len(t) > 1]
    lines = [Line(t, rng.choice(voices), language, rng.choice([0.9, 1.0, 1.15])) for t in texts]
    for line, said in zip(lines, Espeak().speak(lines), strict=True):
        assert isinstance(said, np.ndarray)
        assert implausible(said, line.text, language, line.rate) is None, line


@pytest.mark.parametrize("language", sorted(SHORT))
def test_half_of_a_sentence_is_found(language: str) -> None:
    rng = random.Random(8)
    voices = [v.name for v in Espeak().voices(language)]
    found = []
    for text in sentences(language):
        (said,) = Espeak().speak([Line(text, rng.choice(voices), language)])
        assert isinstance(said, np.ndarray)
        cut = implausible(said[: len(said) // 2], text, language)
        found.append(cut is not None and cut.reason == "tts_too_short")
    assert np.mean(found) >= 0.97


# Memory of what was paid for.


def test_slow_speech_is_remembered_and_sounds_the_same(tmp_path: Path) -> None:
    given_ = [sample(turn(n, f"{LONG} {n}")) for n in range(10)] + [sample(turn(99, "broken"))]
    with Memo(tmp_path / "memo.sqlite") as memo:
        first = Synthesize(Siren(), memo=memo)
        one = list(first(given_))
        again = Synthesize(Siren(at_once=3), memo=memo)
        two = list(again(given_))
    assert one == two
    assert (first.asked, first.remembered) == (11, 0)
    assert (again.asked, again.remembered) == (1, 10), "what failed is tried again"
    with Memo(tmp_path / "memo.sqlite") as memo:
        other = Synthesize(Siren(model="other"), memo=memo)
        list(other(given_))
    assert other.asked == 11, "another model is another voice"
    assert one[0].utterances[0].audio is not None
    assert len(samples_of(one[0].utterances[0].audio)) > SAMPLING_RATE


def test_quick_speech_is_not_remembered(tmp_path: Path) -> None:
    with Memo(tmp_path / "memo.sqlite") as memo:
        list(Synthesize(Espeak(), memo=memo)([sample(turn(1, "Hello.", "en-us+f1"))]))
        assert len(memo) == 0


# Voices and licences.


def test_only_some_voices_speak() -> None:
    engine = Espeak(only_voices=["en-us+f1", "ru+m2"])
    engine.check()
    assert [v.name for v in engine.voices("en")] == ["en-us+f1"]
    assert [v.name for v in engine.voices("ru")] == ["ru+m2"]
    assert engine.voices("pt") == []
    with pytest.raises(SpeechError, match=r"espeak has no voice 'en-us\+f9'. Did you mean 'en-us\+f\d'\?"):
        Espeak(only_voices=["en-us+f9"]).check()
    with pytest.raises(SpeechError, match=r"has no voice 'pt-lisbon'. There are: pt\+f1, pt\+f2"):
        Espeak(only_voices=["pt-lisbon"]).check()


def test_forbidden_licences() -> None:
    engine = Siren(forbid=["non-commercial"])
    engine.check()
    assert [v.name for v in engine.voices("en")] == ["high"]
    assert engine.left_out == [
        f"voices of {engine.engine} with the licence CC-BY-NC-SA-4.0 (non-commercial) are left out"
    ]
    with pytest.raises(SpeechError, match=r"'low' has the licence CC-BY-NC-SA-4.0 \(share-alike\), which is forbidden"):
        Siren(forbid=["share-alike"], only_voices=["low", "high"]).check()
    with pytest.raises(SpeechError, match=r"no voice of espeak is left, whose licences are: GPL-3\.0-or-later"):
        Espeak(forbid=["copyleft"]).check()
    unknown = Siren(licence=None, forbid=["copyleft"])
    assert [v.name for v in unknown.voices("en")] == ["high"]
    assert "nobody knows" in unknown.left_out[0]
    assert Siren().left_out == []


@pytest.mark.parametrize(
    ("licence", "found"),
    [
        ("MIT", set()),
        ("Apache-2.0", set()),
        ("CC-BY-4.0", set()),
        ("CC0-1.0", set()),
        ("CC-BY-SA-4.0", {"share-alike"}),
        ("CC-BY-NC-4.0", {"non-commercial"}),
        ("cc-by-nc-sa-3.0", {"non-commercial", "share-alike"}),
        ("GPL-3.0-or-later", {"copyleft"}),
        ("MIT AND CC-BY-NC-4.0", {"non-commercial"}),
        ("(MIT OR LGPL-2.1-only)", {"copyleft"}),
        ("Non-commercial use only", {"non-commercial"}),
    ],
)
def test_what_a_licence_asks(licence: str, found: set[str]) -> None:
    assert restrictions(licence) == found


def test_licences_of_things_used_together() -> None:
    assert licences("MIT", "CC-BY-4.0") == "MIT AND CC-BY-4.0"
    assert licences("MIT", "MIT") == "MIT"
    assert licences("MIT", None) is None


@pytest.mark.parametrize(
    "wrong", [{"rate": [1.1, 0.9]}, {"pitch": [1.0]}, {"rate": [0.1, 1.0]}, {"forbid": ["paid"]}, {"at_once": 0}]
)
def test_options_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Espeak(**wrong)


# Recipes.


def recipe(folder: Path, tts: str) -> str:
    path = folder / "spoken.yaml"
    path.write_text(
        f"name: spoken\ncorpora:\n- {{reader: sentences, path: {ROOT / 'data' / 'text'}, languages: [en]}}\n"
        f"tts: {tts}\ntasks: {{transcription: }}\n"
    )
    prepare.cache_clear()
    return str(path)


@pytest.mark.parametrize(
    ("tts", "told"),
    [
        ("{engine: espeak, only_voices: [en-us+f11]}", r"spoken.yaml:4: tts: only_voices: .*Did you mean 'en-us\+f1'"),
        ("{engine: espeak, forbid: [copyleft]}", "spoken.yaml:4: tts: forbid: no voice of espeak is left"),
        ("{engine: espeak, forbid: [commercial]}", "spoken.yaml:4: tts.forbid"),
        ("{engine: espeak, rate: [2, 1]}", r"spoken.yaml:4: tts.rate: .*\[1, 2\]"),
        ("{engine: espeak, voices: [en-us+f1]}", "tts.voices: unknown key.*only_voices"),
        ("{engine: transformers, model: suno/bark}", "tts: licence: say which licence suno/bark has"),
        ("{engine: piper, folder: .}", "tts: folder: .* holds no voice of Piper"),
    ],
)
def test_a_recipe_that_cannot_speak_is_refused_before_any_work(tts: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=told):
        prepare(recipe(tmp_path, tts))


def test_the_options_that_shape_speech_shape_the_rows(tmp_path: Path) -> None:
    plain = prepare(recipe(tmp_path, "{engine: espeak}")).fingerprint
    for other in (
        "rate: [1, 1]",
        "pitch: [1, 1]",
        "only_voices: [en-us+f1, en-us+f2, en-us+f3]",
        "forbid: [share-alike]",
    ):
        assert prepare(recipe(tmp_path, f"{{engine: espeak, {other}}}")).fingerprint != plain
    assert prepare(recipe(tmp_path, "{engine: espeak, at_once: 7}")).fingerprint == plain, "a call's size does not"


def test_a_dataset_says_who_has_spoken(tmp_path: Path) -> None:
    built = build(Path(recipe(tmp_path, "{engine: espeak}")), tmp_path / "out")
    assert list(built.voices) == ["espeak, GPL-3.0-or-later"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "espeak, GPL-3.0-or-later" in card
    kept, _ = rows(tmp_path / "out", built)
    in_train = {s.utterances[0].voice or "" for s in kept if s.split == "train"}
    assert len(in_train) > 10
    assert not any("klatt" in voice for voice in in_train)
    assert all(s.utterances[0].spoken and s.utterances[0].delivery for s in kept)

"""The stage that listens: in order, in batches, each sound once, and nothing twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from pipeline import audio
from pipeline.asr.base import ASR, Clip, Heard, ignore
from pipeline.memo import Memo
from pipeline.stages.transcribe import Transcribe
from schemas.sample import Rejection, Sample
from schemas.utterance import Utterance


class Counting(ASR):
    """Hears how loud it is; notes what it was asked."""

    model: str = "counting"
    fails_on: list[str] = []

    def transcribe(self, clips: Sequence[Clip], workers: int = 1, heard: Heard = ignore) -> list[str | Rejection]:
        assert len(clips) <= self.at_once
        CALLS.append([clip.audio.digest for clip in clips])
        return [
            Rejection("asr_failed", "too hard") if c.audio.digest in self.fails_on else f"sound {c.audio.digest[:4]}"
            for c in clips
        ]


CALLS: list[list[str]] = []


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    CALLS.clear()


@pytest.fixture
def memo(tmp_path: Path) -> Iterator[Memo]:
    with Memo(tmp_path / "memo.sqlite") as made:
        yield made


def utterance(number: int, **changes: Any) -> Utterance:
    samples = np.random.default_rng(number).normal(0, 0.1, 8000).astype(np.float32)
    made = Utterance(f"c/{number}", "c", f"sound {number}", "en", voice="v", audio=audio.store(samples))
    return replace(made, **changes)


def sample(*utterances: Utterance, name: str = "t") -> Sample:
    return Sample(f"{utterances[0].id}:{name}", utterances, "train", task=name)


def test_samples_leave_in_the_order_in_which_they_came(memo: Memo) -> None:
    samples = [sample(utterance(n)) for n in range(11)]
    samples[3] = samples[3].reject("silent")
    samples[7] = sample(utterance(7, voice=None))
    stage = Transcribe(Counting(at_once=4), memo)
    told = list(stage(iter(samples)))
    assert [s.id for s in told] == [s.id for s in samples]
    assert [len(call) for call in CALLS] == [4, 4, 1]
    assert stage.asked == 9
    for before, after in zip(samples, told, strict=True):
        heard = after.utterances[0]
        if before.id in ("c/3:t", "c/7:t"):
            assert after == before
        else:
            assert heard.audio is not None
            assert heard.hypothesis == f"sound {heard.audio.digest[:4]}"
            assert after.scores.wer == 0.5
            assert after.scores.cer is not None


def test_a_sound_of_several_samples_is_heard_once(memo: Memo) -> None:
    one = utterance(1)
    told = list(Transcribe(Counting(), memo)([sample(one, name=name) for name in "abc"]))
    assert [len(call) for call in CALLS] == [1]
    assert len({s.utterances[0].hypothesis for s in told}) == 1


def test_nothing_is_heard_twice(memo: Memo) -> None:
    samples = [sample(utterance(n)) for n in range(5)]
    first = list(Transcribe(Counting(at_once=2), memo)(samples))
    CALLS.clear()
    stage = Transcribe(Counting(at_once=3), memo)
    assert list(stage(samples)) == first
    assert CALLS == []
    assert (stage.asked, stage.remembered) == (0, 5)


def test_another_model_or_language_is_another_question(memo: Memo) -> None:
    one = utterance(1)
    list(Transcribe(Counting(), memo)([sample(one)]))
    list(Transcribe(Counting(model="other"), memo)([sample(one)]))
    list(Transcribe(Counting(revision="b"), memo)([sample(one)]))
    list(Transcribe(Counting(), memo)([sample(replace(one, language="pt"))]))
    assert len(CALLS) == 4


def test_all_utterances_of_a_conversation_are_measured_together(memo: Memo) -> None:
    first, second = utterance(1), utterance(2, transcript="sound of the second one")
    (told,) = Transcribe(Counting(), memo)([sample(first, second)])
    assert all(u.hypothesis for u in told.utterances)
    assert told.scores.wer == pytest.approx((1 + 4) / 7, abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "only", "heard"),
    [
        ({}, "synthetic", True),
        ({"voice": None}, "synthetic", False),
        ({"voice": None}, "all", True),
        ({"voice": None, "effects": {"snr_db": "12.0"}}, "synthetic", True),
        ({"transcript": ""}, "all", False),
        ({"transcript": "<NOISE>"}, "all", False),
        ({"audio": None}, "all", False),
        ({"labels": {"speech": "no"}}, "all", False),
        ({"language": "ja"}, "all", False),
        ({"language": "en-GB"}, "all", True),
        ({"language": None}, "all", True),
    ],
)
def test_what_is_listened_to(memo: Memo, changes: dict[str, Any], only: Any, heard: bool) -> None:
    (told,) = Transcribe(Counting(only=only, languages=["en", "pt"]), memo)([sample(utterance(1, **changes))])
    assert (told.utterances[0].hypothesis is not None) == heard
    assert (told.scores.wer is not None) == heard
    assert told.rejected is None


def test_what_failed_is_set_aside_and_tried_again_another_time(memo: Memo) -> None:
    good, bad = utterance(1), utterance(2)
    assert bad.audio is not None
    told = list(Transcribe(Counting(fails_on=[bad.audio.digest]), memo)([sample(good), sample(bad), sample(good, bad)]))
    assert [s.rejected for s in told] == [None, "asr_failed", "asr_failed"]
    assert told[1].detail == "too hard"
    assert told[2].utterances[0].hypothesis is not None
    (again,) = Transcribe(Counting(), memo)([sample(bad)])
    assert again.rejected is None


def test_what_was_paid_for_before_a_kill_is_not_paid_again(memo: Memo) -> None:
    class Dying(Counting):
        def transcribe(self, clips: Sequence[Clip], workers: int = 1, heard: Heard = ignore) -> list[str | Rejection]:
            heard(1, "sound as paid for")
            raise KeyboardInterrupt

    samples = [sample(utterance(n)) for n in range(3)]
    with pytest.raises(KeyboardInterrupt):
        list(Transcribe(Dying(), memo)(samples))
    assert Dying().identity == Counting().identity
    told = list(Transcribe(Counting(), memo)(samples))
    assert told[1].utterances[0].hypothesis == "sound as paid for"
    assert [len(call) for call in CALLS] == [2]


def test_memory_is_bounded_by_what_waits(memo: Memo) -> None:
    taken = 0

    def many() -> Iterator[Sample]:
        nonlocal taken
        one = sample(utterance(1))
        for _ in range(1000):
            taken += 1
            yield one

    stream = Transcribe(Counting(at_once=2), memo)(many())
    next(stream)
    assert taken <= 16

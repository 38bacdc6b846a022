"""Synthesize: utterances that exist only as text are spoken."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace

from pipeline import audio, logs, seeds
from pipeline.memo import Memo
from pipeline.spoken import spoken
from pipeline.stage import Stage
from pipeline.stages._plausible import implausible
from pipeline.tts.base import TTS, Line
from schemas.sample import Rejection, Sample
from schemas.utterance import Audio, Delivery, Utterance

_WAITING = 8  # samples that wait for others, as a multiple of the lines in a call

Heard = dict[Line, Audio | Rejection]


class _Words(NamedTuple):
    """How an utterance is to be spoken."""

    line: Line
    delivery: Delivery


class Synthesize(Stage):
    """Speaks what has a transcript and neither audio nor a source, with the voice that the plan has given it.

    Of a draft that is its own utterance, not the companions; of a task's sample every turn. Utterances without
    a transcript are left for when they are written. Samples wait until there are enough lines for a call, and
    leave in the order in which they came; what several of them say alike is spoken once.

    Args:
        tts: The engine.
        seed: The recipe's.
        memo: Remembers speech of engines that are slow or paid for; without one nothing is remembered.
        workers: How many processes share the engine's concurrency.
    """

    def __init__(self, tts: TTS, seed: int = 0, memo: Memo | None = None, workers: int = 1) -> None:
        self._tts, self._seed, self._workers = tts, seed, workers
        self._memo = memo if tts.remembered else None
        self.asked = 0
        """Lines that were spoken."""
        self.remembered = 0
        """Lines whose speech was known."""

    def __call__(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        waiting: list[tuple[Sample, list[_Words | Rejection | None]]] = []
        wanted: dict[Line, None] = {}
        heard: Heard = {}
        for sample in samples:
            words = [self._words(utterance) for utterance in self._of(sample)]
            waiting.append((sample, words))
            wanted |= dict.fromkeys(w.line for w in words if isinstance(w, _Words) and w.line not in heard)
            if len(wanted) >= self._tts.at_once or len(waiting) >= _WAITING * self._tts.at_once:
                heard = self._speak(list(wanted), heard)
                yield from (self._told(*one, heard) for one in waiting)
                # The next samples may share an utterance with the last of these.
                heard = {line: heard[line] for w in waiting[-1][1] if isinstance(w, _Words) for line in [w.line]}
                waiting, wanted = [], {}
        heard = self._speak(list(wanted), heard)
        yield from (self._told(*one, heard) for one in waiting)

    def process(self, sample: Sample) -> Iterable[Sample]:
        return self([sample])

    def _of(self, sample: Sample) -> tuple[Utterance, ...]:
        """The utterances that a sample is about; a draft's others are companions."""
        if sample.rejected is not None:
            return ()
        return sample.utterances if sample.task else sample.utterances[:1]

    def _words(self, utterance: Utterance) -> _Words | Rejection | None:
        """How an utterance is to be spoken, why it cannot be, or None if there is nothing to do."""
        if utterance.audio is not None or utterance.source is not None or utterance.parts or not utterance.transcript:
            return None
        language = utterance.language or "en"
        if utterance.voice is None:
            return Rejection("no_voice", f"{self._tts.engine} has no voice for {utterance.language}")
        voice = self._tts.voice(utterance.voice, language)
        if voice is None:
            return Rejection("no_voice", f"{self._tts.engine} has no voice {utterance.voice!r} for {language}")
        text = spoken(utterance.transcript, language)
        if not any(c.isalnum() for c in text):
            return Rejection("not_spoken", f"there is no word in {utterance.transcript!r}")
        rate, pitch = self._tts.delivery(self._seed, utterance.id)
        drawn = seeds.derive(self._seed, utterance.id, "tts") if self._tts.draws else 0
        line = Line(text, voice.name, language, rate, pitch, drawn)
        return _Words(line, Delivery(self._tts.engine, voice.licence, rate, pitch))

    def _speak(self, lines: list[Line], heard: Heard) -> Heard:
        """What is known already, and the lines' speech."""
        found: Heard = dict(heard)
        unknown = []
        for line in lines:
            known = self._memo.get(self._tts.key(line)) if self._memo is not None else None
            if known is None:
                unknown.append(line)
            else:
                self.remembered += 1
                found[line] = self._stored(line, _decoded(known), known)
        for begin in range(0, len(unknown), self._tts.at_once):
            found |= self._ask(unknown[begin : begin + self._tts.at_once])
        return found

    def _ask(self, lines: list[Line]) -> Heard:
        """Lets the engine speak, and remembers what it said before it is used."""
        logs.here().sample = ""  # lines of several are spoken together
        encoded: dict[int, bytes] = {}

        def record(number: int, samples: audio.Samples) -> None:
            if self._memo is not None and len(samples) and np.isfinite(samples).all():
                encoded[number] = audio.encode(samples)
                self._memo.put(self._tts.key(lines[number]), encoded[number])

        answers = self._tts.speak(lines, self._workers, record)
        self.asked += len(lines)
        found: Heard = {}
        fresh = []
        for number, (line, answer) in enumerate(zip(lines, answers, strict=True)):
            if not isinstance(answer, Rejection) and not np.isfinite(answer).all():
                answer = Rejection("tts_noise", f"numbers that are no sound, where {line.text!r} should be heard")
            if isinstance(answer, Rejection):  # may succeed another time: it is not remembered
                found[line] = answer
                continue
            flac = encoded.get(number)
            if self._memo is not None and len(answer):
                if flac is None:
                    flac = audio.encode(answer)
                    fresh.append((self._tts.key(line), flac))
                answer = _decoded(flac)  # rounded as it will be when it is remembered
            found[line] = self._stored(line, answer, flac)
        if self._memo is not None and fresh:
            self._memo.put_all(fresh)
        return found

    def _stored(self, line: Line, samples: audio.Samples, flac: bytes | None) -> Audio | Rejection:
        """Speech as it is stored, or why it cannot be what the text asks for."""
        wrong = implausible(samples, line.text, line.language, line.rate)
        return wrong or audio.store(samples, kind=self._tts.engine, flac=flac)

    def _told(self, sample: Sample, words: list[_Words | Rejection | None], heard: Heard) -> Sample:
        """The sample with its speech."""
        utterances = list(sample.utterances)
        for place, one in enumerate(words):
            if one is None:
                continue
            said = one if isinstance(one, Rejection) else heard[one.line]
            if isinstance(said, Rejection):
                return sample.reject(*said)
            assert isinstance(one, _Words)
            utterances[place] = replace(utterances[place], spoken=one.line.text, delivery=one.delivery, audio=said)
        return replace(sample, utterances=tuple(utterances)) if any(words) else sample


def _decoded(flac: bytes) -> audio.Samples:
    return audio.mono(audio.decode(flac))

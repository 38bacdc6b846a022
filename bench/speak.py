"""eSpeak NG through the stage, against a bare loop over the same texts, voices, rates and pitches.

The floor is what cannot be done without: the library, loaded once, given the voice of each text as it comes;
soxr; FLAC. On top the stage finds spoken forms, makes equal texts sound equal, judges whether the sound can be
that of the text, and measures what every utterance is measured for. Two processes each.
"""

from __future__ import annotations

import io
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import soundfile
import soxr

from bench.measure import in_turn, ratios, report, spread, timed
from pipeline import audio, seeds
from pipeline.spoken import spoken
from pipeline.stages.synthesize import Synthesize
from pipeline.tts._espeak import Library
from pipeline.tts.base import Line
from pipeline.tts.espeak import Espeak
from schemas.sample import Sample
from schemas.utterance import Utterance

PROCESSES = 2
VOICES = 2  # of each sentence
TEXT = Path(__file__).resolve().parent.parent / "data" / "text"


def drafts() -> list[Sample]:
    """Every sentence of `data/text`, as the plan would have it: voices by chance, in the order of the files."""
    engine, found = Espeak(), []
    for path in sorted(TEXT.glob("daily.*.txt")):
        language = path.suffixes[0][1:]
        voices = [voice.name for voice in engine.voices(language) if not voice.held_out]
        for number, text in enumerate(path.read_text().splitlines()):
            for turn in range(VOICES):
                key = f"text/{path.stem}:{number}#{turn + 1}"
                voice = voices[seeds.derive(0, key) % len(voices)]
                utterance = Utterance(id=key, corpus="text", transcript=text, language=language, voice=voice)
                found.append(Sample(id=key, utterances=(utterance,), split="train"))
    return found


def lines() -> list[Line]:
    """The same, as the stage gives them to the engine."""
    engine, found = Espeak(), []
    for draft in drafts():
        said = draft.utterances[0]
        text, rates = spoken(said.transcript, said.language), engine.delivery(0, said.id)
        found.append(Line(text, said.voice or "", said.language or "", *rates))
    return found


@lru_cache(maxsize=1)
def _library() -> Library:
    library = Library()
    library.list_voices()
    return library


@lru_cache
def _part(number: int, ours: bool) -> list[Sample] | list[Line]:
    return (drafts() if ours else lines())[number::PROCESSES]


def bare(number: int) -> float:
    """Seconds of speech that the loop makes of one process's part."""
    library, seconds = _library(), 0.0
    for line in _part(number, False):
        library.choose(line.voice)
        said = library.say(line.text, line.rate, line.pitch)
        pcm = np.frombuffer(said.pcm, "<i2").astype(np.float32) / 32768.0
        samples = soxr.resample(pcm, said.sampling_rate, audio.SAMPLING_RATE, "HQ")
        stream = io.BytesIO()
        soundfile.write(stream, samples, audio.SAMPLING_RATE, format="FLAC", subtype="PCM_16")
        seconds += len(samples) / audio.SAMPLING_RATE
    return seconds


def stage(number: int) -> float:
    """The same of the stage."""
    made = Synthesize(Espeak())(_part(number, True))
    return sum(s.utterances[0].audio.seconds for s in made if s.utterances[0].audio)


def main(out: Path, runs: int = 9) -> None:
    """In turn, each with processes of its own that have warmed up."""
    pools = defaultdict(partial(ProcessPoolExecutor, PROCESSES, get_context("spawn")))
    seconds: dict[str, float] = {}

    def once(work) -> float:
        def all_parts() -> None:
            seconds[work.__name__] = sum(pools[work.__name__].map(work, range(PROCESSES)))

        taken = timed(all_parts)
        return seconds[work.__name__] / taken

    for work in (bare, stage, bare, stage):
        once(work)
    found = in_turn(runs, {"bare": partial(once, bare), "stage": partial(once, stage)})
    for pool in pools.values():
        pool.shutdown()
    share = ratios(found["stage"], found["bare"])
    table = [
        ("synthesis, soxr and FLAC in a loop, times real time", spread(found["bare"])),
        ("through the stage, times real time", spread(found["stage"])),
        ("ratio", spread(share, 2)),
        ("through the stage, hours of speech a minute", spread([x / 60 for x in found["stage"]], 1)),
    ]
    count, hours = len(drafts()), seconds["stage"] / 3600
    title = f"Speaking: {count} utterances, {hours:.2f} h, {PROCESSES} processes, {runs} runs: median (least-most)"
    report(title, ("what", "measured"), table, out)

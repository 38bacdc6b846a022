"""Spoken instructions: what was asked in writing is asked aloud, in a share of the samples, and nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.build import Job, build_unit
from pipeline.recipes import RecipeError
from pipeline.setup import prepare
from pipeline.shards import read
from pipeline.stages.speak_instructions import SpeakInstructions
from pipeline.tts.base import Voice
from schemas.conversation import AUDIO_PLACEHOLDER, Message
from schemas.sample import Provenance, Sample
from tests.examples import ROOT, sound, utterance

MARIA = Voice("maria", "pt", {"gender": "female"})


def asked(content: str, **fields: Any) -> Sample:
    fields = {"provenance": Provenance(instruction="reply/pt/abc")} | fields
    said = utterance("Bom dia.", "pt", id="c/1", audio=sound())
    messages = (Message("user", content), Message("assistant", "Bom dia!"))
    return Sample("c/1:reply:0", (said,), "train", "reply", "pt", messages, **fields)


def spoken(sample: Sample, share: float = 1.0, voice: Voice | None = MARIA) -> Sample:
    (made,) = SpeakInstructions(share, 0, lambda *_: voice).process(sample)
    return made


@pytest.mark.parametrize("content", [f"{AUDIO_PLACEHOLDER}\nO que diz ela?", f"O que diz ela?\n{AUDIO_PLACEHOLDER}"])
def test_the_instruction_becomes_an_utterance(content: str) -> None:
    made = spoken(asked(content))
    assert made.messages[0].content == f"{AUDIO_PLACEHOLDER}\n{AUDIO_PLACEHOLDER}"
    assert made.messages[1:] == asked(content).messages[1:]
    recording, instruction = made.utterances
    assert recording == asked(content).utterances[0]
    assert (instruction.transcript, instruction.language) == ("O que diz ela?", "pt")
    assert (instruction.voice, instruction.speaker, instruction.labels) == ("maria", "tts/maria", {"gender": "female"})
    assert instruction.audio is None
    assert instruction.id != recording.id


@pytest.mark.parametrize(
    "sample",
    [
        asked(AUDIO_PLACEHOLDER),
        asked(f"{AUDIO_PLACEHOLDER}\nWhich?\nA. this\nB. that"),
        asked(f"{AUDIO_PLACEHOLDER}\nWho?", provenance=Provenance()),
        asked(f"{AUDIO_PLACEHOLDER}\nWho?", rejected="too_short"),
    ],
    ids=["nothing is asked", "a list", "no instruction", "set aside"],
)
def test_what_stays_as_it_is(sample: Sample) -> None:
    assert list(SpeakInstructions(1.0, 0, lambda *_: MARIA)([sample])) == [sample]


def test_the_share_is_kept_and_nothing_is_lost_without_a_voice() -> None:
    samples = [asked(f"{AUDIO_PLACEHOLDER}\nWho?") for _ in range(400)]
    samples = [Sample(f"c/{n}:reply:0", s.utterances, s.split, s.task, s.language, s.messages, provenance=s.provenance)
               for n, s in enumerate(samples)]  # fmt: skip
    made = [spoken(sample, 0.3) for sample in samples]
    assert 80 < sum(len(sample.utterances) == 2 for sample in made) < 160
    assert [spoken(sample, 1.0, None) for sample in samples] == samples


def test_in_a_dataset(tmp_path: Path) -> None:
    """The voices of test are not those of train, and each spoken instruction says what was written."""
    recipe = tmp_path / "spoken.yaml"
    recipe.write_text(
        f"name: spoken\ncorpora: [{{reader: sentences, name: daily, path: {ROOT / 'data' / 'text'}, languages: [en]}}]\n"
        "tts: {engine: espeak}\ntasks: {word_question: }\nspoken_instructions: 0.5\nsplit: {test: 0.3}\n"
        "filters: {duplicates: false}\n"
    )
    prepare.cache_clear()
    setup = prepare(str(recipe))
    plan = setup.plan(tmp_path / "out")
    job = Job(str(recipe), str(tmp_path / "out"), setup.fingerprint)
    voices: dict[str, set[str | None]] = {"train": set(), "test": set()}
    count = 0
    for unit in plan.units:
        build_unit(job, unit)
        for sample in read(tmp_path / "out" / unit.split / f"shard-{unit.id}.arrow"):
            assert sample.messages[0].content.count(AUDIO_PLACEHOLDER) == len(sample.utterances)
            assert all(u.audio and u.spoken for u in sample.utterances)
            voices[sample.split] |= {u.voice for u in sample.utterances}
            count += len(sample.utterances) == 2
    assert 20 <= count <= 50
    assert voices["train"]
    assert voices["test"]
    assert not voices["train"] & voices["test"]


def test_nobody_to_speak_is_said_before_any_work(tmp_path: Path) -> None:
    recipe = tmp_path / "mute.yaml"
    recipe.write_text(
        f"name: mute\ncorpora: [{{reader: audio_text, path: {tmp_path}}}]\ntasks: {{transcription: }}\n"
        "spoken_instructions: 0.5\n"
    )
    prepare.cache_clear()
    with pytest.raises(RecipeError, match=r"mute\.yaml:4: spoken_instructions: name an engine that speaks them"):
        prepare(str(recipe))

"""Which of the tasks that fit an utterance are set for it."""

from __future__ import annotations

from collections import Counter

import pytest

from pipeline.stages.instruct import draw
from pipeline.tasks.intent import Intent
from pipeline.tasks.speech_detection import SpeechDetection
from pipeline.tasks.transcription import Transcription
from tests.examples import draft


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 1e6])
def test_only_the_ratio_of_weights_counts(scale: float) -> None:
    tasks = [Transcription(weight=scale), SpeechDetection(weight=3 * scale), Intent(weight=2 * scale)]
    counts: Counter[str] = Counter()
    for number in range(1200):
        (chosen,) = draw(tasks, draft("some words", id=f"c/{number}", labels={"intent": "call"}), 0, 1)
        counts[chosen.key] += 1
    assert 150 < counts["transcription"] < 250, counts
    assert 530 < counts["speech_detection"] < 670, counts
    assert 330 < counts["intent"] < 470, counts


def test_the_tasks_keep_the_order_of_the_recipe() -> None:
    tasks = [Transcription(), SpeechDetection(), Intent()]
    given = draft("some words")
    assert draw(tasks, given, 0, 3) == draw(tasks, given, 0, None) == tasks[:2], "nobody has told the intent"
    for seed in range(20):
        two = draw(tasks, draft("some words", labels={"intent": "call"}), seed, 2)
        assert two == [task for task in tasks if task in two]
        assert len(two) == 2

"""A corpus of any size: a manifest whose rows are pieces of a few recordings."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import soundfile

RECORDINGS, SECONDS = 40, 120
WORDS = (
    "wind turned road early train left station before rain came people walked across bridge talked about music "
    "market river city open window small garden paper letter wrote years captain said ship would wait until morning"
).split()


def make(folder: Path, utterances: int, longest: float = 6.0) -> Path:
    """Writes it; the manifest's path. Rows have 3 to so many seconds, a speaker for each 25 of them, and words."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, noise = random.Random(11), np.random.default_rng(11)
    axis = np.arange(SECONDS * 16_000) / 16_000
    for number in range(RECORDINGS):
        tone = 0.2 * np.sin(2 * np.pi * (150 + 11 * number) * axis) * (0.5 + 0.5 * np.sin(7 * axis))
        soundfile.write(folder / f"{number:02d}.flac", tone + noise.normal(0, 0.01, len(axis)), 16_000)
    manifest = folder / "manifest.jsonl"
    with open(manifest, "w") as stream:
        for number in range(utterances):
            duration = round(rng.uniform(3, longest), 2)
            row = {
                "audio_filepath": f"{number % RECORDINGS:02d}.flac",
                "offset": round(rng.uniform(0, SECONDS - duration), 2),
                "duration": duration,
                "text": " ".join(rng.choices(WORDS, k=10)),
                "speaker": f"s{number // 25}",
                "lang": "en",
            }
            stream.write(json.dumps(row) + "\n")
    return manifest


def recipe(folder: Path, manifest: Path, unit: int = 1000, llm: str = "null") -> Path:
    """Writes a recipe for it: one computed task, and one of the LLM's where there is one."""
    path = folder / "bench.yaml"
    tasks = "{transcription: , question_answer: {pairs: 1}}" if llm != "null" else "{transcription: }"
    path.write_text(
        "name: bench\ndescription: A benchmark.\n"
        f"corpora: [{{reader: jsonl, name: made, path: {manifest.resolve()}}}]\n"
        f"llm: {llm}\ntasks: {tasks}\nsamples_per_utterance: all\nshards: {{utterances: {unit}}}\n"
        "filters: {duplicates: false}\n"
    )
    return path

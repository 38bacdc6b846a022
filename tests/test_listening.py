"""A recipe with an ASR engine, the whole way: what is not said as it should be is set aside, and the card tells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline import cli
from pipeline.asr.base import ASRError
from pipeline.asr.scripted import _told
from pipeline.recipes import RecipeError
from pipeline.report import Report
from pipeline.setup import prepare
from schemas.manifest import DatasetManifest
from tests.building import build, files_of, rows

pytestmark = pytest.mark.long

SENTENCES = {
    "en": ("The train to the harbour leaves at 7 in the evening.", "Please water the plants twice a week.",
           "My sister bought 3 red umbrellas at the market.", "It's raining, so we stay at home today."),
    "ru": ("Поезд отправляется ещё раз в семь часов вечера.", "Полейте, пожалуйста, цветы на кухне.",
           "Моя сестра купила 3 красных зонта.", "Сегодня идёт дождь, и мы остаёмся дома."),
}  # fmt: skip


def recipe(folder: Path, **changes: Any) -> Path:
    (folder / "text").mkdir(exist_ok=True)
    for language, lines in SENTENCES.items():
        (folder / "text" / f"daily.{language}.txt").write_text("\n".join(lines) + "\n")
    content = {
        "name": "listening",
        "corpora": [{"reader": "sentences", "name": "daily", "path": "text", "licence": "CC0-1.0"}],
        "tts": {"engine": "espeak"},
        "tasks": {"transcription": None},
        "split": {"test": 0.3},
        "shards": {"utterances": 3, "rows_per_batch": 2},
    } | changes
    path = folder / "listening.yaml"
    with open(path, "w") as stream:
        YAML().dump(content, stream)
    return path


def write_table(folder: Path, table: dict[str, str]) -> None:
    lines = (json.dumps({"digest": digest, "text": text}) for digest, text in table.items())
    (folder / "heard.jsonl").write_text("\n".join(lines))


def card(out: Path) -> str:
    return (out / "README.md").read_text()


def test_without_an_engine_speech_is_not_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = build(recipe(tmp_path), tmp_path / "out")
    kept, _ = rows(tmp_path / "out", made)
    assert len(kept) == 8
    assert all(u.hypothesis is None for s in kept for u in s.utterances)
    assert all(s.scores.wer is None and s.scores.cer is None for s in kept)
    assert not made.speech_verified
    assert made.agreement == []
    assert "Speech not verified" in card(tmp_path / "out")
    assert "Speech not verified" in Report(made, []).markdown
    cli.inspect(tmp_path / "out")
    assert "speech not verified" in capsys.readouterr().out


@pytest.fixture
def heard(tmp_path: Path) -> tuple[DatasetManifest, Path]:
    """A dataset whose speech was heard: one sound of another text, one of nothing, the others as they should be."""
    first = build(recipe(tmp_path), tmp_path / "first")
    kept, _ = rows(tmp_path / "first", first)
    table = _told(tmp_path / "first")
    by_transcript = {s.utterances[0].transcript: s.utterances[0].audio for s in kept}
    for transcript, text in ((SENTENCES["en"][1], "nobody has said anything like it"), (SENTENCES["ru"][1], "")):
        sound = by_transcript[transcript]
        assert sound is not None
        table[sound.digest] = text
    table = {digest: text.lower().replace(",", "").replace("7", "seven") for digest, text in table.items()}
    write_table(tmp_path, table)
    path = recipe(tmp_path, asr={"engine": "scripted", "file": "heard.jsonl"})
    return build(path, tmp_path / "out"), tmp_path / "out"


def test_what_is_not_said_is_set_aside_and_the_card_tells(
    heard: tuple[DatasetManifest, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    made, out = heard
    kept, rejected = rows(out, made)
    assert {s.utterances[0].transcript: s.rejected for s in rejected} == {
        SENTENCES["en"][1]: "transcript_mismatch",
        SENTENCES["ru"][1]: "nothing_heard",
    }
    assert len(kept) == 6
    assert all(s.scores.wer == 0.0 and s.utterances[0].hypothesis for s in kept)
    assert made.speech_verified
    assert [(a.language, a.voice, a.rows, a.wer) for a in made.agreement] == [
        ("en", "espeak", 3, (0.0, 0.0)),
        ("ru", "espeak", 3, (0.0, 0.0)),
    ]
    assert "Speech not verified" not in card(out)
    assert "`scripted` (scripted) has listened to 6 of 6 rows" in card(out)
    assert "| en | espeak | 3 | 0.0% |" in card(out)
    text = Report(made, []).markdown
    assert "Speech not verified" not in text
    assert "| WER, median | en by espeak | 0.0 |" in text
    cli.inspect(out)
    shown = capsys.readouterr().out
    assert "speech not verified" not in shown
    assert "ru by espeak: WER 0.0% at the median, 0.0% at the 90th percentile" in " ".join(shown.split())
    assert "heard: " in shown


def test_the_recipe_that_is_stored_has_no_place_of_this_machine(heard: tuple[DatasetManifest, Path]) -> None:
    made, out = heard
    told = made.recipe["asr"]
    assert isinstance(told, dict)
    assert told["engine"] == "scripted"
    assert str(out.parent) not in json.dumps(made.recipe)


def test_what_is_heard_depends_on_nothing_but_the_sound(heard: tuple[DatasetManifest, Path], tmp_path: Path) -> None:
    _, out = heard
    again = tmp_path / "again"
    build(tmp_path / "listening.yaml", again)
    assert files_of(again) == files_of(out)


def test_another_engine_makes_other_rows(tmp_path: Path) -> None:
    write_table(tmp_path, {})
    prints = set()
    for asr in (None, {"error_rate": 0.1}, {"only": "all"}, {"revision": "b"}):
        prepare.cache_clear()
        changes = {"asr": {"engine": "scripted", "file": "heard.jsonl"} | asr} if asr else {}
        prints.add(prepare(str(recipe(tmp_path, **changes))).fingerprint)
    assert len(prints) == 4


def test_an_engine_that_cannot_work_is_told_before_any_work(tmp_path: Path) -> None:
    for asr, error, text in (
        ({"engine": "scripted"}, ASRError, "set `file`"),
        ({"engine": "scripted", "file": "missing.jsonl"}, RecipeError, "missing.jsonl does not exist"),
        ({"engine": "wisper"}, RecipeError, "asr has no 'wisper'"),
        ({"file": "heard.jsonl"}, RecipeError, "`engine` is missing"),
        ({"engine": "scripted", "beam": 2}, RecipeError, "unknown key"),
    ):
        with pytest.raises(error, match=text.replace(".", r"\.")):
            build(recipe(tmp_path, asr=asr), tmp_path / "out")
    assert not list((tmp_path / "out").glob("train/*"))

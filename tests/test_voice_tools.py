"""The recipe of voiced tool queries, the whole way: the same bytes whoever works, and a dataset that tells the truth."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import datasets
import pytest

from pipeline import cli, inspect
from pipeline.audio import samples_of
from pipeline.build import Job, build_unit
from pipeline.filters.tool_call import ToolCall
from pipeline.finish import LeakageError, finish
from pipeline.setup import prepare
from pipeline.text import normalise
from pipeline.tools.catalogue import SHIPPED
from pipeline.workers import Workers
from schemas.conversation import AUDIO_PLACEHOLDER
from tests.building import build, files_of, rows

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "queries.yaml"
    content = {
        "name": "queries",
        "corpora": [{"reader": "tool_queries", "name": "tools", "path": str(SHIPPED), "queries": 6}],
        "tts": {"engine": "espeak"},
        "tasks": {"tool_grammar": None},
        "augment": {"train": 0.4},
        "split": {"test": 0.2},
        "shards": {"utterances": 40},
    }
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, recipe: Path) -> Path:
    out = tmp_path_factory.mktemp("queries") / "out"
    build(recipe, out)
    return out


def test_workers_change_no_byte(tmp_path: Path, recipe: Path, folder: Path) -> None:
    """Two processes, each of which speaks other units, in another order."""
    out = tmp_path / "two"
    prepare.cache_clear()
    job = Job(str(recipe), str(out), prepare(str(recipe)).fingerprint, workers=2)
    plan = prepare(str(recipe)).plan(out)
    assert len(plan.units) > 3
    with Workers(2) as workers, ThreadPoolExecutor(2) as threads:
        list(threads.map(partial(workers.run, build_unit, job), reversed(plan.units)))
    finish(job, plan)
    assert files_of(out) == files_of(folder)


def test_a_few_at_first_and_the_others_later(tmp_path: Path) -> None:
    """Texts and requests have no sound to be known by; none is taken for another."""
    (tmp_path / "said.en.txt").write_text("".join(f"The train number {n} leaves at {n + 3}.\n" for n in range(3, 9)))
    content = {
        "name": "both",
        "corpora": [
            {"reader": "sentences", "name": "said", "path": "said.en.txt", "language": "en", "voices": 2},
            {"reader": "tool_queries", "name": "tools", "path": str(SHIPPED / "home.json"), "queries": 8},
        ],
        "tts": {"engine": "espeak"},
        "tasks": {"transcription": None, "tool_grammar": None},
        "filters": {"duplicates": False},
    }
    path = tmp_path / "both.yaml"
    path.write_text(json.dumps(content))
    build(path, tmp_path / "grown", limit=9)
    grown, at_once = (build(path, tmp_path / name) for name in ("grown", "at_once"))
    assert grown.planned_utterances == at_once.planned_utterances == grown.rows_in
    ids = [
        {s.id: s.messages for some in rows(tmp_path / d, m) for s in some}
        for d, m in (("grown", grown), ("at_once", at_once))
    ]
    assert ids[0] == ids[1]


def test_each_turn_is_heard_and_both_forms_are_kept(folder: Path) -> None:
    dataset = inspect.load(folder)
    kept, rejected = rows(folder, dataset)
    assert dataset.rows_in == len(kept) + len(rejected) == dataset.planned_utterances
    assert not [s for s in rejected if s.rejected not in ("duplicate_audio", "near_duplicate_audio")]
    differing = 0
    for sample in kept:
        turns = [m for m in sample.messages if m.role == "user"]
        assert [m.content for m in turns] == [AUDIO_PLACEHOLDER] * len(sample.utterances)
        assert len({u.voice for u in sample.utterances}) == 1, "one person speaks"
        assert len({(u.delivery.rate, u.delivery.pitch) for u in sample.utterances if u.delivery}) == 1
        for utterance in sample.utterances:
            assert utterance.audio is not None
            assert utterance.spoken
            assert utterance.delivery is not None
            assert utterance.delivery.engine == "espeak"
            heard = samples_of(utterance.audio)
            assert abs(len(heard) / 16_000 - utterance.audio.seconds) < 0.001
            assert 0.2 < utterance.audio.seconds < 30
            if any(c.isdigit() for c in utterance.transcript):
                assert not any(c.isdigit() for c in utterance.spoken), utterance.spoken
                differing += 1
        assert ToolCall().reason(sample) is None
    assert differing > 20


def test_the_manifest_and_the_card_tell_what_is_in_it(folder: Path) -> None:
    dataset = inspect.load(folder)
    kept, _ = rows(folder, dataset)
    assert sum(dataset.outcomes.values()) == len(kept)
    assert set(dataset.outcomes) == {"tool_call", "direct", "request_for_info", "cannot_answer"}
    assert dataset.leakage.queries_in_both == []
    said = {
        split: {normalise(u.transcript) for s in kept if s.split == split for u in s.utterances}
        for split in dataset.splits
    }
    assert said["test"]
    assert not said["train"] & said["test"]
    (voice,) = dataset.voices
    assert voice.startswith("espeak, ")
    assert dataset.splits["train"].augmented_rows > 0
    assert "augmented_rows" not in dataset.splits["test"].model_dump() or dataset.splits["test"].augmented_rows == 0
    card = (folder / "README.md").read_text()
    for told in ("request_for_info", voice, "Speech not verified"):
        assert told in card


def test_hugging_face_reads_calls_and_tools(folder: Path) -> None:
    train = datasets.load_dataset(str(folder), split="train")
    row = next(r for r in train if r["outcome"] == "tool_call")
    calls = [call["function"] for message in row["messages"] for call in message["tool_calls"]]
    offered = {tool["function"]["name"] for tool in row["tools"]}
    assert {call["name"] for call in calls} <= offered
    assert {name for entry in json.loads(row["answer"]) for name in entry} <= offered
    assert row["mentions"]


def test_a_query_in_both_splits_stops_the_dataset(tmp_path: Path, recipe: Path, folder: Path) -> None:
    """The proof can fail: with a manifest that tells of the same query in both."""
    out = tmp_path / "out"
    build(recipe, out)
    (test,) = sorted((out / "test").glob("shard-*.json"))[:1]
    (train,) = sorted((out / "train").glob("shard-*.json"))[:1]
    told, other = json.loads(train.read_text()), json.loads(test.read_text())
    told["queries"].append(other["queries"][0])
    train.write_text(json.dumps(told))
    (out / "dataset.json").unlink()  # a finished dataset is not looked through again
    with pytest.raises(LeakageError):
        build(recipe, out)


def test_what_an_llm_says_in_both_splits_is_set_aside_in_test(tmp_path: Path) -> None:
    """The scripted LLM says the same again and again: no dataset is lost for it, and no query is in both."""
    path = tmp_path / "talk.yaml"
    content = {
        "name": "talk",
        "corpora": [{"reader": "tool_queries", "path": str(SHIPPED / "home.json"), "queries": 60, "languages": ["en"]}],
        "llm": {"engine": "scripted"},
        "tts": {"engine": "espeak"},
        "tasks": {"tool_call": {"mix": {"no_tools": 1}}},
        "split": {"test": 0.3},
        "filters": {"duplicates": False},
    }
    path.write_text(json.dumps(content))
    dataset = build(path, tmp_path / "out")
    kept, rejected = rows(tmp_path / "out", dataset)
    said = {split: {normalise(s.transcript) for s in kept if s.split == split} for split in ("train", "test")}
    assert said["train"]
    assert not said["train"] & said["test"]
    assert dataset.leakage.queries_in_both == []
    assert {s.rejected for s in rejected} == {"query_in_train"}
    assert {s.split for s in rejected} == {"test"}
    assert dataset.rows_in == 60
    before = files_of(tmp_path / "out")
    assert build(path, tmp_path / "out") == dataset
    assert files_of(tmp_path / "out") == before


def test_a_row_shows_its_calls(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept, _ = rows(folder, inspect.load(folder))
    number, sample = next(
        (i, s)
        for i, s in enumerate(kept)
        if s.outcome == "tool_call" and s.utterances[0].spoken != s.utterances[0].transcript
    )
    cli.inspect(folder, row=number)
    shown = "".join(capsys.readouterr().out.replace("│", " ").split())
    call = next(call for message in sample.messages for call in message.tool_calls)
    for part in (
        f"assistant:{call.name}({call.arguments})",
        f"tools:{', '.join(tool.name for tool in sample.tools)}",
        f"voicedas:{sample.utterances[0].spoken}",
        f"outcome:tool_callsituation:{sample.situation}",
    ):
        assert "".join(part.split()) in shown

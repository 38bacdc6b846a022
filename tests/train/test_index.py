from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.model import compose
from pipeline.model.base import RowError, SpeechLM
from pipeline.train import indexing
from pipeline.train.index import Index
from pipeline.train.rows import DataError, Rows
from schemas.training import ModelSpec


@pytest.fixture(scope="module")
def speech_lm(bases: Path) -> SpeechLM:
    adapter = {"kind": "stack"}
    return compose(ModelSpec(encoders=[str(bases / "whisper")], adapter=adapter, llm=str(bases / "qwen2")))


def same(one: Index, other: Index) -> bool:
    pairs = ((getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(Index))
    return all(np.array_equal(a, b) for a, b in pairs)


def test_lengths_are_those_of_the_encoded_rows(dataset: Path, speech_lm: SpeechLM, tmp_path: Path):
    rows = Rows([dataset, dataset])
    told: list[tuple[int, int]] = []
    index = Index.of(rows, speech_lm, cache=tmp_path, told=lambda *done: told.append(done))
    assert len(index) == len(rows)
    assert told[-1] == (len(rows), len(rows))
    for number in range(len(rows)):
        sample = rows[number]
        encoded = speech_lm.encode(sample)  # with its audio decoded
        sizes = [len(sound) for sound in encoded.sounds]
        assert index.positions[number] == len(encoded.ids)
        assert index.targets[number] == encoded.targets.sum()
        assert (index.samples[number], index.longest[number], index.sounds[number]) == (sum(sizes), max(sizes), 1)
        assert index.tasks[index.task[number]] == sample.task
        assert index.dataset[number] == (number >= len(rows) // 2)
    names = {rows[n].utterances[0].speaker for n in range(len(rows))}
    assert len(np.unique(index.speakers)) == len(names)


def test_it_is_made_once_and_again_when_something_changes(
    dataset: Path, bases: Path, speech_lm: SpeechLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def of(speech_lm: SpeechLM, *datasets: Path) -> tuple[Index, bool]:
        told: list[int] = []
        found = Index.of(Rows(datasets), speech_lm, cache=tmp_path, told=lambda done, _: told.append(done))
        return found, bool(told)

    first, made = of(speech_lm, dataset)
    assert made
    again, made = of(speech_lm, dataset)
    assert not made
    assert same(first, again)
    assert of(speech_lm, dataset, dataset)[1]  # other rows
    slower = compose(
        ModelSpec(encoders=[str(bases / "whisper")], adapter={"kind": "stack", "factor": 4}, llm=str(bases / "qwen2"))
    )
    assert of(slower, dataset)[1]  # another length
    # The code that encodes has changed, and nothing else: some rows are looked at.
    encode = speech_lm.encode
    with monkeypatch.context() as patch:
        patch.setattr(speech_lm, "encode", lambda sample, **how: encode(sample, hear=False, **how))
        found, made = of(speech_lm, dataset)
    assert made
    assert not same(first, found)
    (next(tmp_path.glob("*/index.json"))).write_text("{}")
    folders = [folder for folder in tmp_path.iterdir() if folder.is_dir()]
    for folder in folders:
        (folder / "positions.npy").write_bytes(b"half of i")
    found, made = of(speech_lm, dataset)
    assert made
    assert same(first, found)


def test_several_processes_find_what_one_finds(
    dataset: Path, speech_lm: SpeechLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rows = Rows([dataset, dataset])
    alone = Index.of(rows, speech_lm, cache=tmp_path / "a", workers=1)
    monkeypatch.setattr(indexing, "_FEW", 0)
    assert same(alone, Index.of(rows, speech_lm, cache=tmp_path / "b", workers=2))


def test_rows_that_are_too_long_are_all_named_at_once(dataset: Path, speech_lm: SpeechLM, tmp_path: Path):
    rows = Rows([dataset])
    index = Index.of(rows, speech_lm, cache=tmp_path)
    index.check(rows, int(index.positions.max()))
    over = int((index.positions > 40).sum())
    with pytest.raises(RowError) as caught:
        index.check(rows, 40)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{over} of {len(rows)} rows cannot be trained on:"
    assert len(lines) == 1 + min(over, 10) + (over > 10) + 1
    assert "positions, at most 40 are allowed" in lines[1]
    assert str(rows.identity(int(np.flatnonzero(index.positions > 40)[0]))) in lines[1]
    assert "`batches.longest`" in lines[-1]


def test_rows_that_the_model_refuses_are_all_named_at_once(
    dataset: Path, speech_lm: SpeechLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rows = Rows([dataset])
    lengths = sorted(Index.of(rows, speech_lm, cache=tmp_path).positions)
    monkeypatch.setattr(speech_lm, "longest", int(lengths[-3]))
    with pytest.raises(RowError) as caught:
        Index.of(rows, speech_lm, cache=tmp_path)
    assert str(caught.value).startswith(
        f"{sum(n > lengths[-3] for n in lengths)} of {len(rows)} rows cannot be trained"
    )


def test_rows_of_tasks_that_are_not_trained_need_not_fit_the_model(
    dataset: Path, speech_lm: SpeechLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rows = Rows([dataset])
    whole = Index.of(rows, speech_lm, cache=tmp_path)
    longest = [int(whole.positions[whole.task == number].max()) for number in range(len(whole.tasks))]
    short = whole.tasks[int(np.argmin(longest))]
    monkeypatch.setattr(speech_lm, "longest", min(longest))
    with pytest.raises(RowError):
        Index.of(rows, speech_lm, cache=tmp_path)
    for _ in range(2):  # made, and loaded
        index = Index.of(rows, speech_lm, tasks=[short], cache=tmp_path)
        of_it = index.task == index.tasks.index(short)
        assert np.array_equal(index.positions, np.where(of_it, whole.positions, 0))
        assert 0 < of_it.sum() < len(rows)


def test_damage_is_found_while_it_is_made(dataset: Path, speech_lm: SpeechLM, tmp_path: Path):
    copied = Path(shutil.copytree(dataset, tmp_path / "copied"))
    file = next((copied / "train").glob("*.arrow"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match=rf"{file.name} is damaged.*build it again"):
        Index.of(Rows([copied]), speech_lm, cache=tmp_path / "cache")

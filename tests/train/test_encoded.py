from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.model import compose
from pipeline.model.base import Batch, ModelError, SpeechLM
from pipeline.train import caching, encoded
from pipeline.train.batches import Plan, plan
from pipeline.train.caching import decide
from pipeline.train.encoded import Heard, Sounds, keep
from pipeline.train.index import Index
from pipeline.train.loader import Loader
from pipeline.train.rows import Rows
from schemas.training import BatchSpec, ModelSpec

ROUNDED = 0.03  # of states of about 1, after fp16


def model(bases: Path, seed: int = 0, **adapter: object) -> SpeechLM:
    options = {"kind": "stack"} | adapter
    return compose(ModelSpec(encoders=[str(bases / "whisper")], adapter=options, llm=str(bases / "qwen2")), seed=seed)


@pytest.fixture(scope="module")
def speech_lm(bases: Path) -> SpeechLM:
    return model(bases)


@pytest.fixture(scope="module")
def rows(dataset: Path) -> Rows:
    return Rows([dataset])


@pytest.fixture(scope="module")
def epoch(rows: Rows, speech_lm: SpeechLM, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    index = Index.of(rows, speech_lm, cache=tmp_path_factory.mktemp("cache"))
    return plan(index, BatchSpec(tokens=500), seed=1, stage="a", epoch=0)


def files(cache: Path) -> dict[str, int]:
    return {str(path.relative_to(cache)): path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}


def agree(speech_lm: SpeechLM, rows: Rows, epoch: Plan, heard: Heard, tolerance: float) -> None:
    plain = Loader(rows, epoch, speech_lm, workers=0)
    kept = Loader(rows, epoch, speech_lm, workers=1, encoded=heard)
    for one, other in zip(plain, kept, strict=True):
        a, b = one.passes[0].batch, other.passes[0].batch
        assert a is not None
        assert b is not None
        assert torch.equal(a.ids, b.ids)
        assert "waveforms" not in b.sounds
        listened: dict[str, torch.Tensor] = speech_lm.listen(a.sounds)  # type: ignore[attr-defined]
        assert {n: (t.shape, t.dtype) for n, t in listened.items()} == {
            n: (t.shape, t.dtype) for n, t in b.sounds.items()
        }
        assert torch.equal(listened["frame_lengths"], b.sounds["frame_lengths"])
        with torch.no_grad():
            torch.testing.assert_close(speech_lm.states(b), speech_lm.states(a), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("weighted", [False, True])
def test_what_is_kept_stands_for_the_sound(rows: Rows, epoch: Plan, bases: Path, tmp_path: Path, weighted: bool):
    speech_lm = model(bases, weighted_layers=weighted)
    agree(speech_lm, rows, epoch, keep(rows, Sounds.of(rows), speech_lm, cache=tmp_path)(), ROUNDED)


def test_two_encoders_and_sound_in_pieces(rows: Rows, bases: Path, tmp_path: Path):
    from pipeline.model import tiny

    tiny.encoder(tmp_path / "wavlm", "wavlm")
    spec = ModelSpec(
        encoders=[str(bases / "whisper"), str(tmp_path / "wavlm")],
        adapter={"kind": "stack", "weighted_layers": True},
        llm=str(bases / "qwen2"),
    )
    speech_lm = compose(spec)
    speech_lm.spans.window = 16_000  # type: ignore[attr-defined]  # a second: every sound is cut
    index = Index.of(rows, speech_lm, cache=tmp_path / "index")
    assert index.sounds.max() > 1
    assert index.longest.max() == 16_000
    some = plan(index, BatchSpec(tokens=500), seed=1, stage="a", epoch=0, rows=np.arange(8))
    agree(speech_lm, rows, some, keep(rows, Sounds.of(rows), speech_lm, cache=tmp_path)(), ROUNDED)


def test_sounds_are_kept_once(dataset: Path, bases: Path, speech_lm: SpeechLM, tmp_path: Path):
    rows = Rows([dataset, dataset])
    sounds = Sounds.of(rows)
    heard = {u.audio.digest: u.audio.seconds for row in rows for u in row.utterances if u.audio}
    assert len(sounds) == len(heard) == len(rows) / 2
    assert np.isclose(sounds.seconds, sum(heard.values()))
    assert (np.diff(sounds.samples) >= 0).all()
    some = Sounds.of(rows, np.arange(3))
    assert set(some.rows.tolist()) <= {0, 1, 2}
    keep(rows, sounds, speech_lm, cache=tmp_path)
    written = files(tmp_path)
    once = Rows([dataset])
    keep(once, Sounds.of(once), model(bases, seed=5, factor=4), cache=tmp_path)  # another adapter, other rows
    assert files(tmp_path) == written
    with torch.autocast("cpu", torch.bfloat16):  # frames of another precision
        keep(rows, sounds, speech_lm, cache=tmp_path)
    assert len(files(tmp_path)) == 2 * len(written)
    other = model(bases)
    with torch.no_grad():
        next(other.model.encoders.parameters()).add_(1e-3)
    keep(rows, sounds, other, cache=tmp_path)
    assert len(files(tmp_path)) == 3 * len(written)


def test_processes_share_it_and_a_killed_run_goes_on(
    rows: Rows, epoch: Plan, speech_lm: SpeechLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(encoded, "_CHUNK", 10.0)
    monkeypatch.setattr(encoded, "_PASS", 8.0)
    sounds = Sounds.of(rows)
    told: list[tuple[float, float]] = []
    keep(rows, sounds, speech_lm, cache=tmp_path, rank=0, world=2, told=lambda *done: told.append(done))
    assert told[-1][0] == told[-1][1] < sounds.seconds
    first = files(tmp_path)
    half = next(path for path in tmp_path.rglob("*.json"))
    half.unlink()  # killed before its last file was written
    opened = keep(rows, sounds, speech_lm, cache=tmp_path, rank=1, world=2)
    with pytest.raises(FileNotFoundError):
        opened()
    keep(rows, sounds, speech_lm, cache=tmp_path, rank=0, world=2)
    now = files(tmp_path)
    name = half.stem
    assert all(now[path] == stamp for path, stamp in first.items() if name not in path)
    assert len(now) == 2 * -(-len(now) // 2) > 4
    agree(speech_lm, rows, epoch, opened(), ROUNDED)


def test_a_sound_that_is_not_there_is_an_error(rows: Rows, epoch: Plan, speech_lm: SpeechLM, tmp_path: Path):
    few = keep(rows, Sounds.of(rows, np.arange(2)), speech_lm, cache=tmp_path)()
    with pytest.raises(ModelError, match="frames of a sound are not there: delete"):
        list(Loader(rows, epoch, speech_lm, workers=1, encoded=few))


def test_numbers_beyond_16_bits_are_an_error(rows: Rows, bases: Path, tmp_path: Path):
    speech_lm = model(bases)
    with torch.no_grad():
        for name, parameter in speech_lm.model.encoders.named_parameters():
            if name.endswith("layer_norm.weight"):
                parameter.fill_(1e6)
    with pytest.raises(ModelError, match=r"`batches.cache_encoder: false`"):
        keep(rows, Sounds.of(rows), speech_lm, cache=tmp_path)


class Deaf:
    """Of a class that does not tell its encoder's output apart."""


def test_the_decision_is_told_with_its_figures(
    rows: Rows, speech_lm: SpeechLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    sounds, try_disk = Sounds.of(rows), caching._try_disk
    monkeypatch.setattr(caching, "_TRIAL", 6.0)

    def after(epochs: int) -> caching.Decision:
        return decide(rows, sounds, speech_lm, heard_seconds=epochs * sounds.seconds, cache=tmp_path)

    # A disk of 100 GB/s, and one that is slower than the encoder.
    monkeypatch.setattr(caching, "_try_disk", lambda _: 1e11)
    assert not after(1).keep
    assert after(100).keep
    assert "times real time" in after(100).reason
    assert "GB for" in after(100).reason
    monkeypatch.setattr(caching, "_try_disk", lambda _: 1e3)
    assert not after(100).keep
    monkeypatch.setattr(caching, "_TRIAL_BYTES", 2**20)
    assert try_disk(tmp_path) > 1e5
    monkeypatch.setattr(caching, "_SPARE", 0.0)
    found = after(100)
    assert not found.keep
    assert "are to be had in" in found.reason
    assert not decide(rows, sounds, Deaf(), heard_seconds=1.0, cache=tmp_path).keep  # type: ignore[arg-type]


def test_a_batch_of_text_has_no_sounds(rows: Rows, speech_lm: SpeechLM, tmp_path: Path):
    heard = keep(rows, Sounds.of(rows, np.arange(1)), speech_lm, cache=tmp_path)()
    assert heard.sounds([]) == {}
    batch = speech_lm.collate([speech_lm.encode(rows[0], hear=False)])
    assert isinstance(batch, Batch)
    assert not batch.sounds

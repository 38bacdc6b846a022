"""The commands, as people type them, with corpus, dataset and Hub on loopback; and URLs where none can be."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import hub as hubs
from tests.conftest import ROOT

pytest.importorskip("s3fs", reason="the extra `s3` is not installed")
pytest.importorskip("moto", reason="moto, an S3 server for tests, is not installed")

from tests import stores

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("storage")]

RECIPE = """
name: small
corpora: [{reader: jsonl, name: tones, path: "s3://corpora/tones", licence: CC0-1.0}]
tasks: {transcription: , keyword_spotting: , word_question: }
split: {test: 0.3}
shards: {utterances: 5}
"""
TRAINING = """
name: heard
data: [{path: "s3://datasets/small"}]
model: {encoders: [builtin:tiny-whisper], adapter: {kind: stack}, llm: builtin:tiny-llm}
stages: [{name: words, trains: [adapter], learning_rate: 1e-3, warmup: 1, steps: 2}]
batches: {tokens: 1024, seconds: 60, per_step: 1, workers: 0}
validation: {share: 0.4, every: 2, rows: 4, decode: 1, most_tokens: 4}
precision: fp32
"""


def run(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "160", "OMP_NUM_THREADS": "1"} | env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture
def store() -> Iterator[stores.Store]:
    made = stores.Store()
    try:
        for name in ("corpora", "datasets"):
            made.bucket(name)
        yield made
    finally:
        made.stop()


@pytest.mark.services
def test_a_dataset_in_a_store_is_built_looked_at_published_and_trained_on(
    store: stores.Store, corpus: Path, tmp_path: Path
) -> None:
    pytest.importorskip("torch", reason="the extra `train` is not installed")
    store.upload(corpus, "s3://corpora/tones")
    (tmp_path / "small.yaml").write_text(RECIPE)
    (tmp_path / "heard.yaml").write_text(TRAINING)
    env = stores.ENVIRONMENT | {
        "AWS_ENDPOINT_URL": store.url,
        "EARWITNESS_WORK": str(tmp_path / "work"),
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": hubs.TOKEN,
    }
    url = "s3://datasets/small"

    def said(*arguments: str, **more: str) -> str:
        done = run(tmp_path, *arguments, **env | more)
        assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return " ".join(done.stdout.split())

    assert "24 utterances" in said("corpora", "s3://corpora/tones", "--no-headers")
    assert f"--out {url}" in said("status", "small.yaml", "--out", url)
    assert f"datasets.load_from_disk('{url}')" in said("build", "small.yaml", "--out", url)
    elsewhere = {"EARWITNESS_WORK": str(tmp_path / "another machine")}
    assert "24 of 24" in said("status", "small.yaml", "--out", url, **elsewhere)
    assert f"No run is under way in {url}" in said("status", "small.yaml", "--out", url, "--watch", **elsewhere)
    assert "as they were written" in said("inspect", url, "--verify", **elsewhere)
    with hubs.serving() as hub:
        assert "somebody/small" in said("publish", url, "somebody/small", HF_ENDPOINT=hub.url, **elsewhere)
        assert any(name.endswith(".parquet") for name in hub.repositories["somebody/small"].head[1])
    said("train", "heard.yaml", **elsewhere)
    model = str(tmp_path / "out/heard/model")
    asked = ("--limit", "2", "--most-tokens", "4", "--timed", "0", "--system", "end_to_end")
    assert "model on small" in said("evaluate", model, url, *asked)
    tried = run(tmp_path, "overfit", url, "--rows", "2", "--steps", "2", **env)
    assert "trained on shuffled sound" in tried.stdout, tried.stderr
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith("s3:")]


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "tiny", "--out", "s3://datasets/model"),
        ("evaluate", "model", "data", "--out", "s3://datasets/report"),
        ("evaluate", "s3://datasets/model", "data"),
        ("export", "model", "gs://datasets/served"),
        ("closed-world", "--out", "s3://datasets/world"),
        ("inspect", "data", "--html", "s3://datasets/page.html"),
        ("build", "s3://corpora/small.yaml"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_what_can_lie_in_no_store_is_refused(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipeline import cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["earwitness", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    told = " ".join(capsys.readouterr().err.split())
    assert ended.value.code == 1, told
    assert "Name a path of the disk here" in told
    assert not list(tmp_path.iterdir())

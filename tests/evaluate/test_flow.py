"""The flow around an evaluation, with its artifacts."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.testing.utilities import prefect_test_harness

from flows.evaluate import evaluate

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("prefect")]


def test_the_flow_leaves_figures(model: Path, dataset: Path, tmp_path: Path) -> None:
    with prefect_test_harness(server_startup_timeout=120):
        result = evaluate(str(model), str(dataset), str(tmp_path), systems=["oracle", "silent"], limit=2)
        with get_client(sync_client=True) as client:
            kept = {artifact.key: artifact for artifact in client.read_artifacts()}
    assert [run.system for run in result.runs] == ["oracle", "silent"]
    assert (tmp_path / "report.html").is_file()
    assert kept.keys() == {"model-dataset-systems", "model-dataset-evaluation"}
    assert "Systems on the same rows" in kept["model-dataset-evaluation"].data

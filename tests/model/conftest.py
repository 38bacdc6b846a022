"""Tiny bases that the tests of models share, made once a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.examples import sentences


@pytest.fixture(scope="session")
def tiny_llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2 of random weights with a ChatML template."""
    tiny = pytest.importorskip("pipeline.model.tiny")
    pytest.importorskip("torch")
    return tiny.llm(tmp_path_factory.mktemp("bases") / "llm", sentences("en"))


@pytest.fixture(scope="session")
def tiny_whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Whisper of random weights."""
    tiny = pytest.importorskip("pipeline.model.tiny")
    pytest.importorskip("torch")
    return tiny.encoder(tmp_path_factory.mktemp("bases") / "whisper", "whisper")

"""The README's commands and examples, run as they stand, in a copy of the repository."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import wave
from pathlib import Path

import pytest
import soundfile

from pipeline import recipes
from pipeline.setup import prepare
from tests.conftest import ROOT

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("prefect")]

TEXT = (ROOT / "README.md").read_text()
INSTEAD = {
    # The whole of it takes half a minute, and these make environments: what they would do is looked at.
    # And a copy must not install itself into the environment of the original, which it borrows.
    "make quickstart": "make --old-file .venv/.installed quickstart LIMIT=12",
    "make test": "make --dry-run test",
    "make vllm": "make --dry-run vllm",
    "earwitness corpora PATH": "earwitness corpora corpora",
    "earwitness build voice_tools --limit 200": "earwitness build voice_tools --limit 24",
    # A Hub, a trained model and half an hour are not there. Tests of their own run these commands.
    "HF_TOKEN=... earwitness publish out/mine OWNER/NAME": "earwitness publish --help",
    "earwitness overfit out/quickstart": "earwitness overfit --help",
    # By its path: by its name it would be the original's, whose data is not there.
    "earwitness train tiny": "earwitness train data/training/tiny.yaml",
    "earwitness export out/mine/model served": "earwitness export --help",
    "earwitness evaluate out/tiny/model out/quickstart --limit 40": (
        "earwitness evaluate out/tiny/model out/quickstart --limit 3 --most-tokens 8 --timed 0"
    ),
    "earwitness closed-world": "earwitness closed-world --help",
    # Started and used by tests/test_deployments.py.
    "make serve": "make --dry-run serve",
    "export PREFECT_API_URL=http://127.0.0.1:4200/api": "true",
    "prefect deployment run build-dataset/build -p recipe=quickstart": "prefect deployment run --help",
}


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    return [text for name, text in found if name == language]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """A copy of the repository with the environment of this one, and a corpus in LibriSpeech's layout."""
    copy = tmp_path_factory.mktemp("clone") / "earwitness"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".venv*", "out", ".git", ".*_cache", "__pycache__"))
    (copy / ".venv").symlink_to(ROOT / ".venv")
    tiny = copy / "data" / "training" / "tiny.yaml"  # the whole of it takes minutes
    shorter = tiny.read_text()
    for key, value in (("warmup", "1"), ("steps", "2"), ("share", "0.4")):
        shorter = re.sub(rf"\b{key}: [\d.]+", f"{key}: {value}", shorter)
    tiny.write_text(shorter)
    chapter = copy / "corpora" / "LibriSpeech" / "dev-clean" / "84" / "121"
    chapter.mkdir(parents=True)
    with open(chapter / "84-121.trans.txt", "w") as listing:
        for number, path in enumerate(sorted(corpus.glob("*.wav"))[:8]):
            soundfile.write(chapter / f"84-121-{number:04d}.flac", *soundfile.read(path))
            listing.write(f"84-121-{number:04d} THE LETTER ON THE TABLE IS FOR MISTER BROWN\n")
    return copy


def run(command: str, clone: Path) -> subprocess.CompletedProcess[str]:
    binaries = Path(sys.executable).parent
    env = os.environ | {
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        "CORPORA": str(clone / "corpora"),
        "HF_HOME": str(clone / "hf"),
        "PREFECT_HOME": str(clone / "prefect"),
    }
    env.pop("PREFECT_API_URL", None)
    return subprocess.run(
        command, shell=True, cwd=clone, env=env, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.services
@pytest.mark.skipif(not (ROOT / ".venv").exists(), reason="the README's environment is not there: make install")
def test_its_commands(clone: Path) -> None:
    (mine,) = [text for text in blocks("yaml") if text.startswith("name: ")]
    (clone / "mine.yaml").write_text(mine)
    commands = [line for block in blocks("sh") for line in block.splitlines()]
    assert set(INSTEAD) < set(commands)
    for command in commands:
        done = run(INSTEAD.get(command, command), clone)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        if command == "earwitness corpora PATH":
            assert "reader: librispeech" in done.stdout
    with wave.open(str(clone / "row.wav")) as sound:
        assert sound.getframerate() == 16_000
        assert sound.getnframes() > 16_000
    (python,) = blocks("python")
    done = run(f"{sys.executable} - <<'END'\n{python}END", clone)
    assert done.returncode == 0, done.stderr
    assert "16000" in done.stdout


def test_its_engines(clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORPORA", str(clone / "corpora"))
    monkeypatch.setenv("KEY", "secret")
    (mine,) = [text for text in blocks("yaml") if text.startswith("name: ")]
    engines = [text for text in blocks("yaml") if text.startswith("llm: ")]
    assert len(engines) == 2
    for number, engine in enumerate(engines):
        path = tmp_path / f"{number}.yaml"
        path.write_text(f"{mine}  reply:\n{engine}")
        setup = prepare(str(path))
        assert setup.llm is not None
        assert not setup.tasks_left_out
    names = re.search(r"With `llm` set, the tasks that need one are made too: (.*?)\.\n", TEXT, re.DOTALL)
    assert names is not None
    said = set(re.findall(r"`(\w+)`", names[1]))
    from pipeline import plugins

    assert said == {name for name in plugins.names("tasks") if plugins.load("tasks", name).uses_llm}


def test_its_tree() -> None:
    (tree,) = [block for block in blocks("") if block.startswith("README.md ")]
    said = {name.rstrip("/") for line in tree.splitlines() for name in line.split("  ")[0].split() if name}
    there = {
        path.name
        for path in ROOT.iterdir()
        if not path.name.startswith(".") and path.name not in ("out", "build", "constraints.txt")
        if not path.name.endswith(".egg-info")
    }
    assert said == there, "the tree in the README has one line a room"


def test_what_it_names_is_there() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXT):
        assert (ROOT / target).exists(), target
    from pipeline import plugins

    readers = re.search(r"The readers are (.*?)\. Audio", TEXT, re.DOTALL)
    assert readers is not None
    assert set(plugins.names("readers")) <= set(re.findall(r"`(\w+)`", readers[1]))
    assert "reference" in recipes.shipped()

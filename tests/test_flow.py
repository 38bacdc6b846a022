"""The flow and its command, as people run them: with a Prefect server, in processes, with Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from msgspec.structs import replace

from pipeline import inspect
from tests import hub as hubs
from tests.building import build, files_of, rows
from tests.conftest import ROOT, LLMServer

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("prefect")]

ASKING = {"reply": None, "question_answer": None, "transcription": None}


def ask(env: dict[str, str], path: str, **body: Any) -> Any:
    """A question to Prefect's API."""
    request = urllib.request.Request(
        f"{env['PREFECT_API_URL']}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def command(recipe: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "pipeline.cli", "build", str(recipe), "--out", str(out), *more]


def run(env: dict[str, str], recipe: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    wide = env | {"COLUMNS": "200"}
    return subprocess.run(
        command(recipe, out, *more), cwd=ROOT, env=wide, capture_output=True, text=True, timeout=180, check=False
    )


def begin(recipe: Path, out: Path, env: dict[str, str]) -> subprocess.Popen[str]:
    """A run in a session of its own, as a terminal has them."""
    return subprocess.Popen(
        command(recipe, out, "--workers", "2"),
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_a_run_with_a_server(prefect: dict[str, str], tmp_path: Path, write_recipe: Callable[..., Path]) -> None:
    recipe = write_recipe("with_server")
    result = run(prefect, recipe, tmp_path / "out", "--log-format", "json", "--metrics", "0", "--verbose")
    assert result.returncode == 0, result.stderr
    assert "with_server: " in result.stdout
    lines = [json.loads(line) for line in result.stderr.splitlines()]
    built = {line["unit"] for line in lines if line["message"] == "unit built"}
    assert built == {path.stem.partition("-")[2] for path in (tmp_path / "out").glob("*/shard-*.json")}
    assert {line["logger"].partition(".")[0] for line in lines} >= {"earwitness", "prefect"}, "all lines have one form"
    assert len({line["run"] for line in lines if line["logger"] == "earwitness"}) == 1
    build(recipe, tmp_path / "plain")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "plain"), "the flow adds nothing and loses nothing"

    dataset = inspect.load(tmp_path / "out")
    units = len(list((tmp_path / "out").glob("*/shard-*.json")))
    (flow_run,) = [f for f in ask(prefect, "flow_runs/filter") if str(tmp_path) in f["parameters"]["out"]]
    assert flow_run["state"]["type"] == "COMPLETED"
    tasks = ask(prefect, "task_runs/filter", flow_runs={"id": {"any_": [flow_run["id"]]}})
    assert len(tasks) == units + 2, "one task a unit, and the plan and the end"
    assert {t["state"]["type"] for t in tasks} == {"COMPLETED"}

    found = {a["key"]: a for a in ask(prefect, "artifacts/filter") if a["flow_run_id"] == flow_run["id"]}
    assert set(found) == {"with-server-summary", "with-server-figures", "with-server-progress"}
    assert float(found["with-server-progress"]["data"]) == 100
    shown = [entry["message"] for entry in ask(prefect, "logs/filter") if entry["flow_run_id"] == flow_run["id"]]
    (served,) = [text for text in shown if text.startswith("metrics: http://127.0.0.1:")]
    assert served in [line["message"] for line in lines]
    figures = (tmp_path / "out/.build/metrics.prom").read_text()
    assert 'earwitness_units{state="done"} ' + f"{units}.0" in figures
    kept = sum(s.rows for s in dataset.splits.values())
    assert f"{kept} rows" in found["with-server-summary"]["data"]
    figures = found["with-server-figures"]["data"]
    figures = json.loads(figures) if isinstance(figures, str) else figures
    assert {"what": "rows", "name": "kept", "value": kept} in figures
    assert {f["what"] for f in figures} >= {"rows", "hours", "rows of task", "seconds of stage"}


def test_publishing_tells_nobody_the_token(
    prefect: dict[str, str], tmp_path: Path, write_recipe: Callable[..., Path]
) -> None:
    pytest.importorskip("matplotlib", reason="the extra `publish` is not installed")
    build(write_recipe("spoken"), tmp_path / "out")
    code = "import sys; from flows.publish import publish; publish(sys.argv[1], 'somebody/spoken', rejected=True)"
    loud = {"PREFECT_LOGGING_LEVEL": "DEBUG", "PREFECT_LOGGING_ROOT_LEVEL": "DEBUG", "HF_DEBUG": "1"}
    loud |= {"HF_HUB_DISABLE_XET": "1", "HF_TOKEN": hubs.TOKEN, "HF_HOME": str(tmp_path / "hf")}
    with hubs.serving() as hub:
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "out")],
            cwd=ROOT,
            env=prefect | loud | {"HF_ENDPOINT": hub.url},
            capture_output=True,
            timeout=180,
            check=False,
        )
    assert done.returncode == 0, done.stderr.decode()
    assert [a["key"] for a in ask(prefect, "artifacts/filter") if a["key"] == "spoken-release"]
    written = [path for folder in (tmp_path, Path(prefect["PREFECT_HOME"])) for path in folder.rglob("*")]
    told = {str(path): path.read_bytes() for path in written if path.is_file()}
    told |= {"output": done.stdout + done.stderr} | hub.repositories["somebody/spoken"].head[1]
    assert not [name for name, content in told.items() if hubs.TOKEN.encode() in content]


def test_neither_workers_nor_shards_change_the_samples(
    prefect: dict[str, str], tmp_path: Path, write_recipe: Callable[..., Path], llm_server: Callable[..., LLMServer]
) -> None:
    server = llm_server("--faults", "0.1", "--kinds", "error", "not_json", "refusal")
    llm = {"engine": "openai", "base_url": server.url, "model": "scripted"}
    tasks = ASKING | {"keyword_spotting": None, "speaker_count": None, "speech_detection": None}
    found = []
    for workers, size in ((1, 24), (3, 5)):
        shards = {"utterances": size, "rows_per_batch": 4}
        recipe = write_recipe("sizes", llm=llm, tasks=tasks, samples_per_utterance=3, shards=shards)
        out = tmp_path / f"out{workers}"
        result = run(prefect, recipe, out, "--workers", str(workers))
        assert result.returncode == 0, result.stderr
        kept, rejected = rows(out, inspect.load(out))
        # Where in its unit a row stands follows from the size of units.
        found.append([sorted((replace(s, position=0) for s in part), key=lambda s: s.id) for part in (kept, rejected)])
    assert [s.id for s in found[0][0]] == [s.id for s in found[1][0]]
    assert found[0] == found[1]


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes of a run that build."""
    return [
        p
        for p in psutil.Process(process.pid).children(recursive=True)
        if any("spawn_main" in part for part in p.cmdline())
    ]


def wait_for_workers(process: subprocess.Popen[str], out: Path) -> list[psutil.Process]:
    """Waits until a unit is under way."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        if list(out.glob(".build/progress/*")) or list(out.glob(".build/tmp/*")):
            found = workers_of(process)
            if found:
                return found
        time.sleep(0.02)
    raise AssertionError("no unit was begun")


@pytest.fixture
def no_server(tmp_path: Path) -> dict[str, str]:
    """The environment of a run without a Prefect server."""
    env = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    return env | {
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "0",
    }


def started(recipe: Path, out: Path, env: dict[str, str]) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """A run with a scripted LLM of its own that is in the middle of its work, and all its processes."""
    process = begin(recipe, out, env)
    wait_for_workers(process, out)
    time.sleep(1.0)  # some requests are under way
    return process, psutil.Process(process.pid).children(recursive=True)


@pytest.mark.parametrize(("number", "group", "status"), [("INT", True, 130), ("TERM", False, 143)])
def test_a_signal_ends_all_at_once_also_without_a_server(
    no_server: dict[str, str], tmp_path: Path, write_recipe: Callable[..., Path], number: str, group: bool, status: int
) -> None:
    llm = {"engine": "scripted", "latency": 0.5, "concurrency": 2}
    recipe = write_recipe("stopped", llm=llm, tasks=ASKING, samples_per_utterance=2)
    process, family = started(recipe, tmp_path / "out", no_server)
    (os.killpg if group else os.kill)(process.pid, getattr(signal, f"SIG{number}"))
    began = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - began < 20
    assert process.returncode == status, errors
    assert "the same command goes on from there" in " ".join(errors.split())
    assert "Traceback" not in errors
    psutil.wait_procs(family, timeout=25)
    assert not [p.cmdline() for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def test_a_run_that_is_killed_takes_all_its_processes_along(
    no_server: dict[str, str], tmp_path: Path, write_recipe: Callable[..., Path], llm_server: Callable[..., LLMServer]
) -> None:
    server = llm_server("--latency", "0.4")
    llm = {"engine": "openai", "base_url": server.url, "model": "scripted", "concurrency": 4}
    recipe = write_recipe("killed", llm=llm, tasks=ASKING, samples_per_utterance=3)
    out = tmp_path / "out"
    process, family = started(recipe, out, no_server)
    os.kill(process.pid, signal.SIGKILL)  # the run alone
    process.wait()
    again = run(no_server, recipe, out)
    assert again.returncode == 0, again.stderr
    left = psutil.wait_procs(family, timeout=20)[1] if sys.platform == "linux" else []
    assert not [p.cmdline() for p in left if p.status() != psutil.STATUS_ZOMBIE], "Prefect's server, too, is gone"
    twice = [body for body, times in Counter(server.served).items() if times > 1]
    # Four are asked at a time, and as many may have been answered and not have reached the disk.
    assert len(twice) <= 8, "only what was under way at the kill is asked for again"
    build(recipe, tmp_path / "plain")
    assert files_of(out) == files_of(tmp_path / "plain")


@pytest.mark.parametrize(
    ("arguments", "llm", "part"),
    [
        (("--key", "right"), {"api_key_env": "WRONG_KEY"}, "the key is not accepted"),
        (("--key", "right"), {}, "it was given no key"),
        ((), {"model": "no-such-model"}, "has no model 'no-such-model'; it has: scripted"),
        ((), {"api_key_env": "NOT_SET_AT_ALL"}, "NOT_SET_AT_ALL, which is to hold the API key, is not set"),
    ],
)
def test_a_wrong_key_or_model_ends_it_at_once(
    prefect: dict[str, str],
    tmp_path: Path,
    write_recipe: Callable[..., Path],
    llm_server: Callable[..., LLMServer],
    arguments: tuple[str, ...],
    llm: dict[str, str],
    part: str,
) -> None:
    server = llm_server(*arguments)
    given = {"engine": "openai", "base_url": server.url, "model": "scripted"} | llm
    result = run(prefect | {"WRONG_KEY": "hunter2"}, write_recipe("wrong", llm=given, tasks=ASKING), tmp_path / "out")
    assert result.returncode == 1
    assert part in result.stderr
    assert "Traceback" not in result.stderr
    assert "hunter2" not in result.stderr + result.stdout
    assert not server.served


def test_a_unit_that_fails_leaves_the_others(
    prefect: dict[str, str], tmp_path: Path, write_recipe: Callable[..., Path]
) -> None:
    """A template may break on one row only; the message says why, and the others are finished."""
    own = tmp_path / "prompts" / "keyword_spotting"
    own.mkdir(parents=True)
    source = (ROOT / "prompts/keyword_spotting/en.yaml").read_text()
    broken = "    - '{{ 1 // (keyword|length - 6) }} {{ keyword }}'\n"
    (own / "en.yaml").write_text(
        re.sub(r"(?ms)(^instructions:\n  default:\n).*?(?=^held_out)", rf"\g<1>{broken}", source)
    )
    recipe = write_recipe("failing", tasks={"keyword_spotting": None}, prompts=str(tmp_path / "prompts"))
    out = tmp_path / "out"
    result = run(prefect, recipe, out)
    assert result.returncode == 1
    told = " ".join(result.stderr.split())
    assert "units failed" in told
    assert "en.yaml: '{{ 1 //" in told
    assert "by zero" in told
    assert list(out.glob("*/shard-*.json")), "the other units are finished"
    assert not (out / "dataset.json").exists()


def test_a_folder_of_another_recipe_is_not_touched(
    prefect: dict[str, str], tmp_path: Path, write_recipe: Callable[..., Path]
) -> None:
    out = tmp_path / "out"
    build(write_recipe("first"), out)
    before = files_of(out)
    result = run(prefect, write_recipe("second"), out)
    assert result.returncode == 1
    assert "holds the dataset 'first'" in result.stderr
    assert files_of(out) == before

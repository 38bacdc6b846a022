"""What runs on a schedule: `make serve`, deployments from build to evaluation, limits, alerts, PostgreSQL.

In the order of the file: the schedule's minute and the silence of a dead run pass while other tests do their work.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest
from ruamel.yaml import YAML

from pipeline import inspect
from tests import hub as hubs
from tests.conftest import ROOT, _free_port

pytestmark = [
    pytest.mark.services,
    pytest.mark.long,
    pytest.mark.xdist_group("deployments"),
    pytest.mark.skipif(sys.platform != "linux", reason="processes are found by /proc"),
]

PATIENCE = 240.0  # seconds, on a machine that is busy; what is waited for takes 5 to 60
T = TypeVar("T")
TRAINING = {
    "name": "short",
    "data": [{"path": "out/quick"}],
    "model": {"encoders": ["builtin:tiny-wav2vec2"], "adapter": {"kind": "stack"}, "llm": "builtin:tiny-llm"},
    "stages": [{"name": "words", "trains": ["adapter", "llm"], "tasks": {"transcription": 1}, "steps": 3, "warmup": 1}],
    "batches": {"tokens": 1024, "seconds": 60, "per_step": 1, "workers": 0},
    "validation": {"share": 0.1, "every": 3, "rows": 2, "decode": 1, "most_tokens": 4},
    "precision": "fp32",
}


def until(found: Callable[[], T], what: str, seconds: float = PATIENCE) -> T:
    """Waits for what is not None and not False."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = found()
        if value is not None and value is not False:
            return value
        time.sleep(0.3)
    raise AssertionError(f"in vain: {what}")


@dataclass
class Served:
    """A running `make serve`, and the API of its server."""

    process: subprocess.Popen[str]
    api: str
    home: Path
    log: Path

    def call(self, path: str, body: Any = None, method: str | None = None) -> Any:
        """A question to Prefect's API; POST if there is a body."""
        data = None if body is None else json.dumps(body).encode()
        method = method or ("GET" if data is None else "POST")
        head = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.api}/{path}", data, head, method=method)
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(request, timeout=120) as answer:  # SQLite may be locked for 60 s
                    return json.loads(answer.read() or "null")
            except urllib.error.HTTPError as error:
                if error.code != 503 or time.monotonic() > deadline:  # its database is busy: nothing was done
                    raise
                time.sleep(1.0)

    def deployments(self) -> dict[str, Any]:
        return {d["name"]: d for d in self.call("deployments/filter", {})}

    def start(self, name: str, **parameters: Any) -> str:
        """Starts a run of a deployment, as the page does; its id."""
        path = f"deployments/{self.deployments()[name]['id']}/create_flow_run"
        return str(self.call(path, {"parameters": parameters})["id"])

    def run(self, run: str) -> dict[str, Any]:
        return dict(self.call(f"flow_runs/{run}"))

    def becomes(self, run: str, *states: str) -> dict[str, Any]:
        """Waits for a state of a run, and for no other end."""

        def look() -> dict[str, Any] | None:
            found = self.run(run)
            if found["state"]["type"] in states:
                return found
            assert found["state"]["type"] not in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"), found["state"]
            return None

        return until(look, f"run {run} becomes {states}")

    def family(self) -> list[psutil.Process]:
        """All processes that were started with this home."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                alive = process.status() != psutil.STATUS_ZOMBIE
                if alive and process.environ().get("PREFECT_HOME") == str(self.home):
                    found.append(process)
        return found

    def engine(self, run: str) -> psutil.Process:
        """The process of a run."""
        return until(
            lambda: next((p for p in self.family() if p.environ().get("PREFECT__FLOW_RUN_ID") == run), None),
            "the run has a process",
        )


@contextlib.contextmanager
def serving(command: list[str], cwd: Path, folder: Path, **env: str) -> Iterator[Served]:
    """Runs a command that serves, until it is ready; whatever is left of it at the end is killed."""
    home, port = folder / "prefect", str(_free_port())
    folder.mkdir()
    given = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")} | {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_API_PORT": port,
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PYTHONPATH": str(cwd),
        **env,
    }
    log = folder / "serve.log"
    with open(log, "w") as output:
        process = subprocess.Popen(command, cwd=cwd, env=given, stdout=output, stderr=output, text=True)
    served = Served(process, env.get("PREFECT_API_URL", f"http://127.0.0.1:{port}/api"), home, log)
    try:
        ready = until(lambda: "Ctrl-C stops" in log.read_text() or process.poll() is not None, "it serves")
        assert ready
        assert process.poll() is None, log.read_text()
        yield served
    finally:
        for member in (psutil.Process(process.pid), *served.family()) if process.poll() is None else served.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        process.wait()


@pytest.fixture(scope="module")
def told() -> Iterator[tuple[str, list[str]]]:
    """A webhook on loopback: its address, and what it was told."""
    texts: list[str] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.headers["Content-Type"] == "application/json"
            texts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hook", texts
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> dict[str, Path]:
    """A quick one, and one that takes half a minute."""
    folder = tmp_path_factory.mktemp("recipes")
    corpora = [{"reader": "jsonl", "name": "tones", "path": str(corpus), "licence": "CC0-1.0"}]
    slow = {"llm": {"engine": "scripted", "latency": 1.0, "concurrency": 1}, "shards": {"utterances": 12}}
    made = {"quick": {"tasks": {"transcription": None}}, "slow": {"tasks": {"reply": None}, **slow}}
    for name, keys in made.items():
        with open(folder / f"{name}.yaml", "w") as stream:
            YAML().dump({"name": name, "corpora": corpora, "split": {"test": 0.3}, **keys}, stream)
    return {name: folder / f"{name}.yaml" for name in made}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory, recipes: dict[str, Path]) -> Path:
    """A copy of the repository in whose prefect.yaml a user has switched a schedule on."""
    copy = tmp_path_factory.mktemp("clone") / "earwitness"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".venv*", "out", ".git", ".*_cache", "__pycache__"))
    (copy / ".venv").symlink_to(sys.prefix)
    shutil.copy(recipes["quick"], copy / "mine.yaml")
    with open(copy / "model.yaml", "w") as stream:
        YAML().dump(TRAINING, stream)
    text = (copy / "prefect.yaml").read_text()
    text = text.replace("{recipe: quickstart}", "{recipe: mine.yaml, workers: 1}")
    text, times = re.subn(r'cron: "0 1 \* \* \*"(.*)active: false', r'cron: "* * * * *"\1active: true', text)
    assert times == 1
    (copy / "prefect.yaml").write_text(text)
    return copy


@pytest.fixture(scope="module")
def hub() -> Iterator[hubs.Hub]:
    with hubs.serving() as it:
        yield it


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, clone: Path, told: tuple[str, list[str]], hub: hubs.Hub
) -> Iterator[Served]:
    """`make serve` in that copy."""
    command = ["make", "--silent", "--old-file", ".venv/.installed", "serve"]
    folder = tmp_path_factory.mktemp("served") / "it"
    env = {"EARWITNESS_ALERT_URL": told[0], "HF_ENDPOINT": hub.url, "HF_TOKEN": hubs.TOKEN, "OMP_NUM_THREADS": "1"}
    env |= {"HF_HUB_DISABLE_XET": "1", "HF_HOME": str(folder / "hf"), "XDG_CACHE_HOME": str(folder / "cache")}
    with serving(command, clone, folder, **env) as it:
        yield it


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The address of a PostgreSQL cluster of its own."""
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin")) or [Path(shutil.which("initdb") or "/none").parent]
    if not (binaries[-1] / "initdb").exists():
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="earwitness-postgres-", dir="/tmp"))  # where its user can go
    who: dict[str, Any] = {"cwd": "/", "stdout": subprocess.DEVNULL}
    if os.getuid() == 0:  # it refuses root
        try:
            user = pwd.getpwnam("postgres")
        except KeyError:
            user = pwd.getpwnam("nobody")
        os.chown(folder, user.pw_uid, user.pw_gid)
        who |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    port = str(_free_port())
    initdb = [binaries[-1] / "initdb", "--username=tester", "--auth=trust", "--no-sync", folder / "data"]
    subprocess.run(initdb, check=True, timeout=120, **who)
    options = ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
    server = subprocess.Popen(
        [binaries[-1] / "postgres", "-D", folder / "data", "-k", folder, "-p", port, *options],
        stderr=subprocess.DEVNULL,
        **who,
    )
    ready = [binaries[-1] / "pg_isready", "-q", "-h", "127.0.0.1", "-p", port]
    try:
        until(lambda: not subprocess.run(ready, check=False).returncode, "PostgreSQL answers")
        yield f"postgresql+asyncpg://tester@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)  # its fast shutdown
        server.wait()
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, postgres: str) -> Iterator[str]:
    """The API of a Prefect server that others run, on PostgreSQL."""
    home, port = tmp_path_factory.mktemp("shared"), str(_free_port())
    env = os.environ | {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": postgres,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--no-ui", "--host", "127.0.0.1", "--port", port]
    with open(home / "server.log", "wb") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
    api = f"http://127.0.0.1:{port}/api"

    def answers() -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{api}/health", timeout=2):
            return True
        return False

    try:
        until(answers, "Prefect's server answers")
        yield api
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def test_what_is_deployed(served: Served) -> None:
    deployments = served.deployments()
    assert deployments.keys() == {"build", "publish", "train", "evaluate"}
    queues = {queue["name"]: queue for queue in served.call("work_pools/earwitness/queues/filter", {})}
    assert {name: queues[name]["concurrency_limit"] for name in ("data", "gpu")} == {"data": 1, "gpu": 1}
    for name, deployment in deployments.items():
        (schedule,) = deployment["schedules"]
        assert schedule["schedule"]["timezone"] == "Europe/Berlin"
        assert schedule["active"] == (name == "build"), "nothing runs unasked"
        assert deployment["work_queue_name"] == ("data" if name in ("build", "publish") else "gpu")
        assert deployment["enforce_parameter_schema"]
        form = deployment["parameter_openapi_schema"]["properties"]
        assert all(field["description"] for field in form.values()), "each field of the form says what it is"
        assert deployment["parameters"].keys() >= set(deployment["parameter_openapi_schema"].get("required", ()))
    form = deployments["evaluate"]["parameter_openapi_schema"]["properties"]
    assert form["dtype"]["enum"] == ["auto", "float32", "bfloat16"]
    assert "oracle" in form["systems"]["anyOf"][0]["items"]["enum"]
    with pytest.raises(urllib.error.HTTPError, match=r"Error 4(09|22)"):
        served.start("build", recipe="mine.yaml", limit=0)
    found = []
    for process in served.family():
        with contextlib.suppress(psutil.NoSuchProcess):
            found += process.net_connections("inet")
    assert {c.laddr.ip for c in found if c.status == psutil.CONN_LISTEN} == {"127.0.0.1"}
    assert {c.raddr.ip for c in found if c.raddr} <= {"127.0.0.1"}, "nobody outside is asked"


def _killed_in_a_terminal(it: Served, recipe: Path, out: Path) -> None:
    """A build that nobody's worker started, killed outright after its first sign of life."""
    command = [sys.executable, "-m", "pipeline.cli", "build", str(recipe), "--out", str(out), "--workers", "1"]
    env = os.environ | {"PREFECT_API_URL": it.api, "PREFECT_HOME": str(it.home)}
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, start_new_session=True)
    until(lambda: by_hand(it), "it has told that it is by hand")
    until(lambda: list(out.glob(".build/tmp/*")) or None, "its unit is under way")
    time.sleep(1.0)  # signs of life go out each second or so
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def by_hand(it: Served) -> dict[str, Any] | None:
    """The run of a terminal."""
    runs = it.call("flow_runs/filter", {"flow_runs": {"tags": {"all_": ["earwitness-terminal"]}}})
    return runs[0] if runs else None


@pytest.fixture(scope="module")
def lost(
    tmp_path_factory: pytest.TempPathFactory,
    shared: str,
    recipes: dict[str, Path],
    told: tuple[str, list[str]],
) -> tuple[Served, dict[str, Any], str, Path]:
    """On a server of others: a run that ended well, and one that was killed with its worker and all else."""
    folder = tmp_path_factory.mktemp("lost") / "it"
    env = {"PREFECT_API_URL": shared, "EARWITNESS_ALERT_URL": told[0]}
    with serving([sys.executable, "-m", "flows.serve"], ROOT, folder, **env) as it:
        out = folder / "quick"
        quick = it.start("build", recipe=str(recipes["quick"]), out=str(out), workers=1)
        ended = it.becomes(quick, "COMPLETED")
        (silent,) = it.call(
            "automations/filter", {"automations": {"name": {"any_": ["earwitness: silent runs have crashed"]}}}
        )
        assert silent["trigger"]["within"] == 150.0
        silent["trigger"]["within"] = 33.0  # so that it need not be waited for
        it.call(f"automations/{silent['id']}", {k: silent[k] for k in ("name", "trigger", "actions")}, "PUT")
        slow = it.start("build", recipe=str(recipes["slow"]), out=str(folder / "slow"), workers=1)
        _killed_in_a_terminal(it, recipes["slow"], folder / "by_hand")
        it.becomes(slow, "RUNNING")
        until(lambda: list((folder / "slow").glob(".build/tmp/*")) or None, "its unit is under way")
        it.process.kill()
        it.process.wait()
        until(lambda: not it.family(), "nobody is left of what was killed outright", 40)
        return it, ended, slow, out


def test_on_postgresql(lost: tuple[Served, dict[str, Any], str, Path]) -> None:
    it, ended, _, out = lost
    assert ended["state"]["name"] == "Completed"
    artifacts = {a["key"] for a in it.call("artifacts/filter", {}) if a["flow_run_id"] == ended["id"]}
    assert artifacts >= {"quick-summary", "quick-figures"}
    assert inspect.load(out).name == "quick"
    assert not inspect.verify(out, inspect.load(out))


def test_a_schedule_fires(served: Served, clone: Path) -> None:
    build = served.deployments()["build"]

    def look() -> dict[str, Any] | None:
        found = served.call("flow_runs/filter", {"deployments": {"id": {"any_": [build["id"]]}}})
        fired = [run for run in found if run["auto_scheduled"] and run["state"]["type"] in ("COMPLETED", "FAILED")]
        return fired[0] if fired else None

    run = until(look, "the schedule of each minute has fired, and its run has ended")
    assert run["state"]["type"] == "COMPLETED", run["state"]
    assert (
        run["expected_start_time"].endswith(":00Z")
        or ":00+" in run["expected_start_time"]
        or ":00." in run["expected_start_time"]
    )
    (schedule,) = build["schedules"]
    served.call(f"deployments/{build['id']}/schedules/{schedule['id']}", {"active": False}, "PATCH")

    dataset = inspect.load(clone / "out" / "quick")  # the run's folder is the repository's
    assert not inspect.verify(clone / "out" / "quick", dataset)
    kept = sum(split.rows for split in dataset.splits.values())
    artifacts = {a["key"]: a for a in served.call("artifacts/filter", {}) if a["flow_run_id"] == run["id"]}
    assert artifacts.keys() >= {"quick-summary", "quick-figures"}
    assert f"{kept} rows" in artifacts["quick-summary"]["data"]


def test_what_was_built_is_published_trained_on_and_evaluated(served: Served, clone: Path, hub: hubs.Hub) -> None:
    """One after the other: two runs that a worker takes at one moment can lock the server's SQLite for a minute."""
    steps: dict[str, dict[str, Any]] = {
        "publish": {"dataset": "out/quick", "repository": "team/quick"},
        "train": {"recipe": "model.yaml", "out": "out/short"},
        "evaluate": {
            "model": "out/short/model",
            "dataset": "out/quick",
            "out": "out/short/evaluation",
            "limit": 2,
            "systems": ["end_to_end", "oracle"],
        },
    }
    runs = {}
    for name, parameters in steps.items():
        runs[name] = served.start(name, **parameters)
        served.becomes(runs[name], "COMPLETED")
    splits = inspect.load(clone / "out" / "quick").splits
    assert "dataset_info" in hub.repositories["team/quick"].head[1]["README.md"].decode()
    assert len([name for name in hub.repositories["team/quick"].head[1] if name.endswith(".parquet")]) == len(splits)
    assert (clone / "out" / "short" / "evaluation" / "report.html").is_file()
    kept = {(a["flow_run_id"], a["key"]) for a in served.call("artifacts/filter", {})}
    there = {name: {key for run, key in kept if run == runs[name]} for name in runs}
    assert there["publish"] == {"quick-release"}
    assert there["train"] == {"short-progress", "short-training", "short-validations"}
    assert there["evaluate"] == {"model-quick-systems", "model-quick-evaluation"}


@pytest.fixture(scope="module")
def second(
    served: Served, recipes: dict[str, Path], told: tuple[str, list[str]], tmp_path_factory: pytest.TempPathFactory
) -> str:
    """Of two runs of one dataset the first was killed; the second, which waited, is under way."""
    parameters = {"recipe": str(recipes["slow"]), "out": str(tmp_path_factory.mktemp("slow") / "it"), "workers": 1}
    runs = [served.start("build", **parameters) for _ in range(2)]
    served.becomes(runs[0], "RUNNING")
    until(lambda: list(Path(parameters["out"]).glob(".build/tmp/*")) or None, "its unit is under way")
    assert served.run(runs[1])["state"]["type"] == "SCHEDULED", "one run a dataset"
    served.engine(runs[0]).kill()
    assert "SIGKILL" in served.becomes(runs[0], "CRASHED")["state"]["message"]
    served.becomes(runs[1], "RUNNING")
    name = served.run(runs[0])["name"]
    until(lambda: any(f"build-dataset (build): run {name} is Crashed." in text for text in told[1]), "it was told")
    return runs[1]


def test_a_second_run_waits_and_a_crash_is_told(second: str, told: tuple[str, list[str]]) -> None:
    assert second
    (text,) = {text for text in told[1] if "SIGKILL" in text}
    assert "/runs/flow-run/" in text, "with the address of the run"


def test_a_run_without_a_sign_of_life_has_crashed(
    lost: tuple[Served, dict[str, Any], str, Path], told: tuple[str, list[str]]
) -> None:
    it, _, slow, _ = lost
    run = it.becomes(slow, "CRASHED")
    assert "no sign of life" in run["state"]["message"]
    run_by_hand = by_hand(it)
    assert run_by_hand is not None
    ended = it.becomes(run_by_hand["id"], "CRASHED")
    assert "no sign of life" in ended["state"]["message"], "also one that was killed in a terminal"
    until(lambda: any(run["name"] in text for text in told[1]), "it was told")


def test_stopping_leaves_nobody_and_puts_runs_back(served: Served, second: str) -> None:
    until(lambda: served.run(second)["state"]["type"] == "RUNNING", "it is under way")
    served.process.terminate()
    assert served.process.wait(60) is not None
    assert not served.family()
    assert "Traceback" not in served.log.read_text()
    with contextlib.closing(sqlite3.connect(served.home / "prefect.db")) as records:
        query = "SELECT state_name FROM flow_run WHERE id = ?"
        assert records.execute(query, (second,)).fetchall() == [("AwaitingRetry",)], "the next start goes on with it"
        assert (
            records.execute("SELECT name, count(*) FROM automation GROUP BY name HAVING count(*) > 1").fetchall() == []
        )

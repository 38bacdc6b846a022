"""One small dataset, what disturbs its making, and the one check that follows each disturbance."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psutil
from ruamel.yaml import YAML

from pipeline import inspect
from pipeline.endpoint import PLAIN
from pipeline.plan import Plan, read_unit
from tests.building import build, files_of, rows
from tests.chaos.endpoint import Endpoint
from tests.conftest import ROOT, make_corpus
from tests.prefect_server import PrefectServer

CONCURRENCY = 4  # requests in flight, over both workers
PATIENCE = 8.0  # seconds without an answer after which a run ends
MOST_RUNS = 6  # of the same command, until it ends well
LONGEST = 400.0  # seconds that a run of this size may take on a loaded machine


class Run:
    """One `earwitness build`, in a session of its own, as a terminal has them."""

    def __init__(self, command: list[str], env: dict[str, str], log: Path) -> None:
        self._log = log
        with open(log, "wb") as stream:
            self.process = psutil.Popen(
                command,
                cwd=ROOT,
                env=env,
                stdout=stream,
                stderr=stream,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    @property
    def over(self) -> bool:
        return self.process.poll() is not None

    def family(self) -> list[psutil.Process]:
        """All its processes, itself last."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return [*self.process.children(recursive=True), self.process]
        return []

    def workers(self) -> list[psutil.Process]:
        """The processes that build."""
        found = []
        for process in self.family():
            with contextlib.suppress(psutil.Error):
                if any("spawn_main" in part for part in process.cmdline()):
                    found.append(process)
        return found

    def kill(self) -> None:
        """Kills all that is left of it."""
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def end(self) -> int:
        """Waits for its end.

        Raises:
            TimeoutError: It hangs; it is killed.
        """
        try:
            return int(self.process.wait(LONGEST))
        except psutil.TimeoutExpired as error:
            self.kill()
            raise TimeoutError(f"it hangs:\n{self.output[-3000:]}") from error

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def said(self) -> str:
        """What it told a person when it ended, or on its way."""
        lines = [" ".join(line.split()) for line in self.output.splitlines()]
        telling = [line for line in lines if any(word in line for word in ("Error:", "Stopped.", "WARNING", "damaged"))]
        return telling[-1] if telling else ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a disturbance."""

    disturbance: str
    moment: float
    """Share of all requests that had been answered."""
    said: str
    runs: int
    repeated: int
    """Requests that were answered twice."""
    seconds: float


class World:
    """A corpus, a recipe, an endpoint, a Prefect server, and the dataset that is made where nothing is disturbed."""

    def __init__(self, folder: Path, prefect: PrefectServer) -> None:
        self.folder, self.prefect = folder, prefect
        folder.mkdir(parents=True, exist_ok=True)
        self.endpoint = Endpoint(folder)
        self._second: Endpoint | None = None
        self._corpus = make_corpus(_made(folder / "corpus"))
        self.recipe = self.write("chaos", {"base_url": self.endpoint.url})
        self._trials = 0
        self._undisturbed: dict[Path, dict[str, str]] = {}
        self.undisturbed(self.recipe)
        self.requests = set(self.endpoint.served)
        """The bodies of the requests that the dataset takes."""

    @property
    def second(self) -> Endpoint:
        """One like the first, which keeps the same record."""
        self._second = self._second or Endpoint(self.folder)
        return self._second

    def write(self, name: str, llm: dict[str, object]) -> Path:
        """Writes a recipe with an LLM of some kind."""
        usual = {
            "engine": "openai",
            "model": "scripted",
            "concurrency": CONCURRENCY,
            "timeout": 3.0,
            "patience": PATIENCE,
        }
        recipe = {
            "name": name,
            "corpora": [{"reader": "jsonl", "name": "tones", "path": str(self._corpus), "licence": "CC0-1.0"}],
            "tasks": {"reply": None, "question_answer": None, "transcription": None},
            "samples_per_utterance": 3,
            "split": {"test": 0.3},
            "shards": {"utterances": 4, "rows_per_batch": 4},
            "llm": usual | llm,
        }
        path = self.folder / f"{name}.yaml"
        with open(path, "w") as stream:
            YAML().dump(recipe, stream)
        return path

    def undisturbed(self, recipe: Path) -> dict[str, str]:
        """Digests of the files that a recipe makes where nothing is disturbed."""
        if recipe not in self._undisturbed:
            out = self.folder / f"undisturbed-{recipe.stem}"
            build(recipe, out)
            self._undisturbed[recipe] = files_of(out)
        return self._undisturbed[recipe]

    def fresh(self) -> Path:
        """A folder that is not there yet."""
        self._trials += 1
        return _made(self.folder / f"trial{self._trials}") / "out"

    def begin(self, out: Path, *more: str, recipe: Path | None = None, env: dict[str, str] | None = None) -> Run:
        """Starts the command."""
        command = [sys.executable, "-m", "pipeline.cli", "build", str(recipe or self.recipe)]
        log = self.folder / f"trial{self._trials}.{time.monotonic_ns()}.log"
        return Run([*command, "--out", str(out), "--workers", "2", *more], env or self.prefect.env, log)

    def until(self, run: Run, out: Path, begun: int, moment: float) -> bool:
        """Waits for a moment of a run; False if it is over before.

        Args:
            run: The run.
            out: Its folder.
            begun: Requests that had been answered before the trial.
            moment: The share of the requests that are answered by then.
        """
        wanted = 1 + int(moment * (len(self.requests) - 2))
        deadline = time.monotonic() + LONGEST
        while time.monotonic() < deadline and not run.over:
            if len(self.endpoint.served) - begun >= wanted:
                return True
            time.sleep(0.01)
        return False

    def check(self, out: Path, recipe: Path, begun: int, most_repeated: int) -> int:
        """What must hold after every disturbance; the number of requests that were answered twice."""
        manifest = inspect.load(out)
        kept, rejected = rows(out, manifest)
        ids = Counter(sample.id for sample in kept + rejected)
        assert manifest.rows_in == len(kept) + len(rejected), "rows in = kept + rejected"
        assert not [name for name, times in ids.items() if times > 1], "no row is there twice"
        heard = {u.id for sample in kept + rejected for u in sample.utterances}
        assert planned(out) <= heard, "no utterance is lost"
        assert inspect.verify(out, manifest) == []
        wanted, found = self.undisturbed(recipe), files_of(out)
        different = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        assert not different, f"not as if nothing had happened: {different}"
        left = [
            p.name for p in out.rglob("*") if p.name.endswith((".tmp", ".saving", ".mended")) or p.parent.name == "tmp"
        ]
        assert not left, f"left behind: {left}"
        served = Counter(body for body in self.endpoint.served[begun:] if PLAIN.encode() not in body)
        if served:
            assert set(served) == self.requests, "what is asked is what an undisturbed run asks"
        repeated = sum(times - 1 for times in served.values())
        assert repeated <= most_repeated, f"{repeated} requests were asked again, at most {most_repeated} are allowed"
        return repeated

    def close(self) -> None:
        self.endpoint.kill()
        if self._second is not None:
            self._second.kill()


def planned(out: Path) -> set[str]:
    """The ids of the utterances of a plan."""
    folder = out / ".build" / "plan"
    plan = Plan.load(folder)
    assert plan is not None
    return {utterance.id for unit in plan.units for utterance, _ in read_unit(folder, unit)}


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder

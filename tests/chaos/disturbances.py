"""The disturbances: what is done to a run, when, and what may follow from it."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import psutil

from tests.chaos.world import CONCURRENCY, LONGEST, MOST_RUNS, PATIENCE, Outcome, Run, World
from tests.prefect_server import quiet

UNDER_WAY = 2 * CONCURRENCY
"""Requests that a kill may cost: those in flight, and as many that were answered and had not reached the disk."""


class Skipped(Exception):
    """This machine cannot be disturbed so; the text says why."""


class Disturbance:
    """Something that happens to a run. The same command is given again until it ends well."""

    survives: ClassVar[bool] = False
    """Whether the run itself must get over it."""
    says: ClassVar[str] = ""
    """What a run that does not get over it must say, and one that must, if anything; a regular expression."""
    repeats: ClassVar[int] = UNDER_WAY
    """Requests that may be answered twice."""
    more: ClassVar[tuple[str, ...]] = ()
    """Options of the run that goes on."""

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.random = world, random.Random(seed)
        self.recipe = world.recipe
        self.env = world.prefect.env

    @property
    def name(self) -> str:
        """For the table."""
        return re.sub(r"(?<!^)(?=[A-Z])", " ", type(self).__name__).lower()

    @contextlib.contextmanager
    def place(self) -> Iterator[Path]:
        """The folder of a trial, for as long as it lasts."""
        yield self.world.fresh()

    def meet(self, run: Run, out: Path, begun: int, moment: float) -> bool:
        """Waits for the moment; False if the run is over before."""
        return self.world.until(run, out, begun, moment)

    def strike(self, run: Run, out: Path) -> None:
        """Does it, in the middle of a run."""

    def relieve(self, out: Path) -> None:
        """Ends what lasts, between two runs."""

    def again(self, runs: int) -> bool:
        """Whether the command is given again though it has ended well."""
        return False


def trial(disturbance: Disturbance, moment: float) -> Outcome:
    """Disturbs a run at a moment, goes on until it ends well, and checks all that must hold.

    Raises:
        AssertionError: Something does not hold.
        Skipped: This machine cannot be disturbed so.
    """
    world, began = disturbance.world, time.monotonic()
    assert world.undisturbed(disturbance.recipe), "made before it is measured how long it takes"
    with disturbance.place() as out:
        begun, said, runs = len(world.endpoint.served), "", 1
        run = world.begin(out, recipe=disturbance.recipe, env=disturbance.env)
        try:
            met = disturbance.meet(run, out, begun, moment)
            if met:
                disturbance.strike(run, out)
            status = run.end()
            said = run.said
            if disturbance.survives:
                assert status == 0, f"the run did not get over it:\n{run.output[-3000:]}"
        finally:
            run.kill()
        if (status or (met and disturbance.survives)) and disturbance.says:
            assert re.search(disturbance.says, " ".join(run.output.split())), run.output[-3000:]
        while status or disturbance.again(runs):
            assert "Traceback" not in run.output, run.output[-3000:]
            assert runs < MOST_RUNS, f"it does not end well:\n{run.output[-3000:]}"
            disturbance.relieve(out)
            run, runs = world.begin(out, *disturbance.more, recipe=disturbance.recipe, env=disturbance.env), runs + 1
            status = run.end()
            said = said or run.said
        repeated = world.check(out, disturbance.recipe, begun, disturbance.repeats)
    return Outcome(disturbance.name, moment, said, runs, repeated, time.monotonic() - began)


class KillRun(Disturbance):
    """kill -9 of the flow's process: its workers and servers go with it."""

    def strike(self, run: Run, out: Path) -> None:
        run.process.kill()


class KillAll(Disturbance):
    """kill -9 of all its processes at once, as a power cut does."""

    def strike(self, run: Run, out: Path) -> None:
        family = run.family()
        for process in family:
            process.suspend()
        for process in family:
            process.kill()


class KillWorker(Disturbance):
    """kill -9 of a worker: it costs its unit, not the run."""

    survives = True

    def strike(self, run: Run, out: Path) -> None:
        workers = run.workers()
        if workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                self.random.choice(workers).kill()


class _Signal(Disturbance):
    """A signal that asks a run to stop: it does so soon, leaves nobody behind and says how to go on."""

    says = "the same command goes on from there"
    status: ClassVar[int]

    def send(self, run: Run) -> None:
        """Sends it."""
        raise NotImplementedError

    def strike(self, run: Run, out: Path) -> None:
        family, began = run.family(), time.monotonic()
        self.send(run)
        assert run.end() in (0, self.status), run.output[-3000:]
        assert time.monotonic() - began < 20, "it ends at once"
        psutil.wait_procs(family, timeout=25)
        left = [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        assert not left, f"still there: {left}"


class Terminate(_Signal):
    """SIGTERM to the run alone, as a service manager does."""

    status = 128 + signal.SIGTERM

    def send(self, run: Run) -> None:
        run.process.terminate()


class Interrupt(_Signal):
    """Ctrl-C, which reaches all processes of a terminal."""

    status = 128 + signal.SIGINT

    def send(self, run: Run) -> None:
        os.killpg(run.process.pid, signal.SIGINT)


class KillPrefectServer(Disturbance):
    """kill -9 of the Prefect server that other runs share: it is missed, and no row waits for it."""

    survives = True
    says = "Prefect's server cannot be told how this run ended.*Nothing is lost"

    def strike(self, run: Run, out: Path) -> None:
        self.world.prefect.kill()

    def relieve(self, out: Path) -> None:
        self.world.prefect.kill()
        self.world.prefect.start()

    @contextlib.contextmanager
    def place(self) -> Iterator[Path]:
        try:
            yield self.world.fresh()
        finally:
            self.relieve(Path())


class KillOwnPrefectServer(Disturbance):
    """kill -9 of the server that Prefect starts for a run where there is none."""

    survives = True
    says = KillPrefectServer.says

    def __init__(self, world: World, seed: int) -> None:
        super().__init__(world, seed)
        self.env = quiet(world.folder / "home")

    def strike(self, run: Run, out: Path) -> None:
        for process in run.family():
            with contextlib.suppress(psutil.Error):
                if "uvicorn" in " ".join(process.cmdline()):
                    process.kill()


class KillEndpoint(Disturbance):
    """kill -9 of the LLM's server, which somebody starts again a moment later."""

    survives = True

    def strike(self, run: Run, out: Path) -> None:
        self.world.endpoint.kill()
        time.sleep(self.random.uniform(0.2, PATIENCE / 4))
        self.world.endpoint.start()


class LoseEndpoint(Disturbance):
    """kill -9 of the LLM's server, which nobody starts again before the run has given it up."""

    says = "has not answered for .*all replies so far are remembered"

    def strike(self, run: Run, out: Path) -> None:
        self.world.endpoint.kill()
        finished = {path: path.read_bytes() for path in out.glob("*/shard-*.json")}
        assert run.end() == 0 or all(path.read_bytes() == content for path, content in finished.items())

    def relieve(self, out: Path) -> None:
        self.world.endpoint.kill()
        self.world.endpoint.start()


class _Two(Disturbance):
    """The recipe names two LLM servers. What one of them does not make, the other makes."""

    survives = True

    def __init__(self, world: World, seed: int) -> None:
        super().__init__(world, seed)
        self.recipe = world.write("two_servers", {"base_url": [world.second.url, world.endpoint.url]})

    @contextlib.contextmanager
    def place(self) -> Iterator[Path]:
        try:
            yield self.world.fresh()
        finally:
            self.world.second.kill()
            self.world.second.start()


class LoseOneOfTwoEndpoints(_Two):
    """kill -9 of one of two LLM servers, which nobody starts again."""

    def strike(self, run: Run, out: Path) -> None:
        self.world.second.kill()


class OneOfTwoEndpointsHangs(_Two):
    """One of two LLM servers takes requests and never answers again."""

    def strike(self, run: Run, out: Path) -> None:
        self.world.second.become("hang")


class OneOfTwoEndpointsIsDead(_Two):
    """One of two LLM servers is not there from the start."""

    says = "(nobody answers at|has not answered for) .*The other servers do its work"

    @contextlib.contextmanager
    def place(self) -> Iterator[Path]:
        with super().place() as out:
            self.world.second.kill()
            yield out


class KillOwnEndpoint(Disturbance):
    """kill -9 of an LLM server that the run has started itself."""

    says = "ll replies so far are remembered"

    def __init__(self, world: World, seed: int) -> None:
        super().__init__(world, seed)
        self.recipe = world.write("own_server", {"engine": "scripted", "latency": 0.3})

    def meet(self, run: Run, out: Path, begun: int, moment: float) -> bool:
        deadline = time.monotonic() + LONGEST
        while not run.over and time.monotonic() < deadline:
            if len(list(out.glob("*/shard-*.json"))) > 4 * moment:  # of six
                return True
            time.sleep(0.01)
        return False

    def strike(self, run: Run, out: Path) -> None:
        for process in run.family():
            with contextlib.suppress(psutil.Error):
                command = process.cmdline()
                if "pipeline.llm.scripted" in command and not any("_keeper" in part for part in command):
                    process.kill()


class _Mood(Disturbance):
    """An endpoint that misbehaves for a while, and then answers as before."""

    survives = True
    mood: ClassVar[str]
    seconds: ClassVar[tuple[float, float]] = (0.5, PATIENCE / 2)

    def strike(self, run: Run, out: Path) -> None:
        self.world.endpoint.become(self.mood)
        try:
            time.sleep(self.random.uniform(*self.seconds))
        finally:
            self.world.endpoint.become("fine")


class Hang(_Mood):
    """It takes requests and never answers."""

    mood = "hang"


class Cut(_Mood):
    """It closes the connection in the middle of each answer."""

    mood = "cut"


class Page(_Mood):
    """It answers 200 with a gateway's page."""

    mood = "page"


class HalfAnswer(_Mood):
    """It answers 200 with JSON that stops in the middle."""

    mood = "half"


class NoChoice(_Mood):
    """It answers 200, and there is no choice in the answer."""

    mood, seconds = "empty", (0.5, 1.5)  # so long that some would be refused, it is believed


class NullAnswer(_Mood):
    """It answers 200 with a JSON null."""

    mood = "null"


class ServerError(_Mood):
    """It answers 500."""

    mood = "error"


class Busy(_Mood):
    """It answers 429, and does not say for how long."""

    mood = "busy"


class BusyForAWhile(_Mood):
    """It answers 429 and says when to come back."""

    mood = "asked"


class BusyForMinutes(_Mood):
    """It answers 429 for longer than the run is patient."""

    survives = False
    says = "has not answered for .*HTTP 429.*all replies so far are remembered"
    mood, seconds = "busy", (PATIENCE * 4, PATIENCE * 4)


class HangForMinutes(_Mood):
    """It does not answer for longer than the run is patient."""

    survives = False
    says = "has not answered for .*all replies so far are remembered"
    mood, seconds = "hang", (PATIENCE * 4, PATIENCE * 4)


class SecondRun(Disturbance):
    """The same command a second time while the first is at work: it is refused, and the first ends well."""

    survives = True

    def __init__(self, world: World, seed: int) -> None:
        super().__init__(world, seed)
        self.recipe = world.write("patient", {"base_url": world.endpoint.url, "timeout": LONGEST, "patience": LONGEST})

    def strike(self, run: Run, out: Path) -> None:
        self.world.endpoint.become("hang")  # the first does not come to its end meanwhile
        try:
            second = self.world.begin(out, recipe=self.recipe)
            status = second.end()
        finally:
            self.world.endpoint.become("fine")
        assert status == 1
        assert "another run is building in" in second.said, second.output[-3000:]


class FullDisk(Disturbance):
    """No space is left in the dataset's folder; then some is freed."""

    says = "disk is full|No space left"
    repeats = 3 * CONCURRENCY  # an answer is recorded after the next request went out, and both workers meet it

    @contextlib.contextmanager
    def place(self) -> Iterator[Path]:
        used = sum(p.stat().st_size for p in (self.world.folder / "undisturbed-chaos").rglob("*") if p.is_file())
        size = int(used * self.random.uniform(0.35, 0.9)) // 4096 * 4
        with mounted(self.world.fresh().parent / "disk", f"size={size}k") as disk:
            yield disk / "out"

    def relieve(self, out: Path) -> None:
        subprocess.run(["mount", "-o", "remount,size=200m", out.parent], check=True)


class ReadOnlyDisk(Disturbance):
    """Between two runs the file system becomes read-only, as one with errors does."""

    says = ""

    @contextlib.contextmanager
    def place(self) -> Iterator[Path]:
        with mounted(self.world.fresh().parent / "disk", "size=200m") as disk:
            yield disk / "out"

    def strike(self, run: Run, out: Path) -> None:
        run.process.kill()
        run.end()
        psutil.wait_procs(run.family(), timeout=40)

    def relieve(self, out: Path) -> None:
        deadline = time.monotonic() + 40  # workers of the run that was killed end a moment later
        while subprocess.run(["mount", "-o", "remount,ro", out.parent], capture_output=True).returncode:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        refused = self.world.begin(out)
        assert refused.end() == 1
        assert "read-only" in refused.said.lower(), refused.output[-3000:]
        subprocess.run(["mount", "-o", "remount,rw", out.parent], check=True)


class ReadOnlyFolder(Disturbance):
    """A folder of the dataset cannot be written to any more."""

    says = "cannot be written to|Operation not permitted"

    def strike(self, run: Run, out: Path) -> None:
        if not shutil.which("chattr") or os.getuid():
            raise Skipped("only root's chattr makes a folder read-only for root")
        self._folder = out / "train"
        self._folder.mkdir(exist_ok=True)
        if subprocess.run(["chattr", "+i", self._folder], capture_output=True).returncode:
            raise Skipped("this file system knows no immutable folders")
        try:
            run.end()
        finally:
            subprocess.run(["chattr", "-i", self._folder], check=True)


class _Jump(Disturbance):
    """The wall clock jumps."""

    survives = True
    seconds: ClassVar[int]

    def __init__(self, world: World, seed: int) -> None:
        super().__init__(world, seed)
        self._clock = world.folder / f"clock{seed}-{self.seconds}"
        self._clock.write_bytes(struct.pack("l", 0))
        self.env = self.env | {"LD_PRELOAD": str(_jumping_clock(world.folder)), "CHAOS_CLOCK": str(self._clock)}

    def strike(self, run: Run, out: Path) -> None:
        with open(self._clock, "r+b") as stream:
            stream.write(struct.pack("l", self.seconds))


class ClockJumpsAnHourAhead(_Jump):
    """As when a clock is set after a long sleep."""

    seconds = 3600


class ClockJumpsAnHourBack(_Jump):
    """As when summer time was mistaken for a time zone."""

    seconds = -3600


class ClockJumpsADayAhead(_Jump):
    """As when a machine's battery is empty."""

    seconds = 86400


class ClockJumpsADayBack(_Jump):
    """The same, the other way."""

    seconds = -86400


def _jumping_clock(folder: Path) -> Path:
    """The library that tells programs another time.

    Raises:
        Skipped: There is no C compiler.
    """
    made, source = folder / "clock.so", Path(__file__).with_name("clock.c")
    compiler = shutil.which((sysconfig.get_config_var("CC") or "cc").split()[0]) or shutil.which("cc")
    if compiler is None or os.name != "posix":
        raise Skipped("there is no C compiler for the clock that jumps")
    if not made.exists():
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", made, source, "-ldl"], check=True)
    return made


class _Damage(Disturbance):
    """A run is killed, and while nobody is at work a file is damaged."""

    def __init__(self, world: World, seed: int) -> None:
        super().__init__(world, seed)
        self._done = False

    def strike(self, run: Run, out: Path) -> None:
        family = run.family()
        with contextlib.suppress(psutil.NoSuchProcess):
            run.process.kill()
        psutil.wait_procs(family, timeout=40)

    def relieve(self, out: Path) -> None:
        if not self._done:
            self._done = True
            self.damage(out)

    def damage(self, out: Path) -> None:
        """Damages the folder."""
        raise NotImplementedError

    def files(self, out: Path, pattern: str) -> list[Path]:
        """Some, in an order that the seed gives."""
        found = sorted(out.glob(pattern))
        self.random.shuffle(found)
        return found

    def overwrite(self, path: Path, most: int = 64) -> None:
        """Puts random bytes somewhere into a file."""
        size = path.stat().st_size
        if size:
            with open(path, "r+b") as stream:
                stream.seek(self.random.randrange(size))
                stream.write(self.random.randbytes(most))


class DamagedManifests(_Damage):
    """Manifests of shards are cut off, garbage, empty."""

    def damage(self, out: Path) -> None:
        for number, path in enumerate(self.files(out, "*/shard-*.json")[:3]):
            content = path.read_bytes()
            path.write_bytes((content[: len(content) // 2], b"\0" * len(content), b"")[number])


class LostFiles(_Damage):
    """A manifest without its shard, and a shard without its manifest."""

    def damage(self, out: Path) -> None:
        for pattern in ("train/shard-*.arrow", "*/shard-*.json"):
            for path in self.files(out, pattern)[:1]:
                path.unlink()


class CutShard(_Damage):
    """A shard is shorter than it was."""

    def damage(self, out: Path) -> None:
        for path in self.files(out, "*/shard-*.arrow")[:1]:
            os.truncate(path, path.stat().st_size - 100)


class FlippedBit(_Damage):
    """One bit of a finished shard is another; sizes are as they were. `--verify` finds it."""

    more = ("--verify",)

    def damage(self, out: Path) -> None:
        for path in self.files(out, "*/shard-*.arrow")[:1]:
            content = bytearray(path.read_bytes())
            content[self.random.randrange(len(content))] ^= 1 << self.random.randrange(8)
            path.write_bytes(content)


class DamagedDataset(_Damage):
    """What was written last, when all else was there, is garbage."""

    def strike(self, run: Run, out: Path) -> None:
        """Nothing: the run comes to its end."""

    def again(self, runs: int) -> bool:
        return runs == 1

    def damage(self, out: Path) -> None:
        for path in self.files(out, "*.json"):
            path.write_bytes(path.read_bytes()[:-200])


class DamagedPlan(_Damage):
    """The plan, and all else that only serves to go on, is garbage."""

    def damage(self, out: Path) -> None:
        for path in self.files(out, ".build/**/*"):
            if path.is_file() and "memo" not in path.name and path.name != "name":
                path.write_bytes(self.random.randbytes(300))


class DamagedMemo(_Damage):
    """Random bytes in the memo, and in its journal."""

    repeats = 10**6  # what was lost

    def damage(self, out: Path) -> None:
        for path in self.files(out, ".build/memo.sqlite*"):
            if path.name.endswith(("sqlite", "-wal")):
                for _ in range(6):
                    self.overwrite(path)


class MemoOfGarbage(_Damage):
    """The memo is no database at all; what its journal holds is saved."""

    repeats = 10**6
    says = ""

    def damage(self, out: Path) -> None:
        (out / ".build" / "memo.sqlite").write_bytes(b"all of this was written by somebody else" * 200)


class LostMemo(_Damage):
    """The memo is gone: what is lacking is asked for again."""

    repeats = 10**6

    def damage(self, out: Path) -> None:
        for path in self.files(out, ".build/memo.sqlite*"):
            path.unlink()


class MemoDamagedAtWork(Disturbance):
    """The memo is overwritten while workers hold it: the run itself mends it."""

    survives = True
    repeats = 10**6

    def strike(self, run: Run, out: Path) -> None:
        for name in ("memo.sqlite", "memo.sqlite-wal"):
            path = out / ".build" / name
            if path.exists() and path.stat().st_size > 4096:
                with open(path, "r+b") as stream:
                    stream.seek(4096 if name.endswith("wal") else 0)
                    stream.write(self.random.randbytes(path.stat().st_size // 2))


@contextlib.contextmanager
def mounted(place: Path, options: str) -> Iterator[Path]:
    """A file system of its own in memory.

    Raises:
        Skipped: Nothing can be mounted here.
    """
    place.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True).returncode:
        raise Skipped("a small file system can only be mounted by root")
    try:
        yield place
    finally:
        subprocess.run(["mount", "-o", "remount,rw", place], capture_output=True)
        subprocess.run(["umount", "-l", place], check=True)


ALL: tuple[type[Disturbance], ...] = (
    *(KillRun, KillAll, KillWorker, Terminate, Interrupt),
    *(KillPrefectServer, KillOwnPrefectServer, KillEndpoint, LoseEndpoint, KillOwnEndpoint),
    *(LoseOneOfTwoEndpoints, OneOfTwoEndpointsHangs, OneOfTwoEndpointsIsDead),
    *(Hang, Cut, Page, HalfAnswer, NoChoice, NullAnswer, ServerError, Busy, BusyForAWhile),
    *(BusyForMinutes, HangForMinutes, SecondRun, FullDisk, ReadOnlyDisk, ReadOnlyFolder),
    *(ClockJumpsAnHourAhead, ClockJumpsAnHourBack, ClockJumpsADayAhead, ClockJumpsADayBack),
    *(
        DamagedManifests,
        LostFiles,
        CutShard,
        FlippedBit,
        DamagedDataset,
        DamagedPlan,
        DamagedMemo,
        MemoOfGarbage,
        LostMemo,
        MemoDamagedAtWork,
    ),
)

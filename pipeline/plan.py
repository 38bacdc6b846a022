"""Plan: corpora become units of work. No audio is decoded.

Utterances are listed, given a split by their speaker (and a voice, if they are text), and written to
one Arrow file a split, one record batch a unit. A unit's id is the digest of its batch, so it changes
with any of its utterances and with nothing else.

A plan lasts. A later run knows its utterances by their content and plans only those that are new, as
another generation of units; what it says of the others is in `pipeline.known`.
"""

from __future__ import annotations

import bisect
import gc
import heapq
import itertools
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from msgspec.structs import replace

from pipeline import companions as company
from pipeline import known as earlier
from pipeline import planfile, seeds
from pipeline.known import FATES, Known, Rules, Spool, plan_path
from pipeline.planfile import AGAIN, PlanFile, told_apart
from pipeline.shards import SPLITS, explained, log, sync, write_atomically
from pipeline.splits import Speaking, Splitter
from schemas.recipe import SplitSpec
from schemas.utterance import Utterance

VERSION = 2
"""Raised when plans of earlier versions cannot be gone on with."""
_ANEW = (
    "how corpora are read or utterances are divided was changed: the plan is made anew from what is there now, and "
    "units of other utterances than before are built again"
)


@dataclass(frozen=True, slots=True)
class Unit:
    """A piece of work: one record batch of the plan, which becomes one shard."""

    id: str
    split: str
    batch: int
    utterances: int
    generation: int = 0
    """The run that planned it: those of later ones give way to those of earlier ones."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Digests of what shapes a plan beside the utterances themselves: with another it is made anew."""

    whole: str
    corpora: Mapping[str, str]
    """Of the options of each, by name. A new corpus, or one that is gone, changes nothing about the others."""

    def goes_on(self, other: Shape) -> bool:
        """Whether a plan of the other shape can be gone on with."""
        same = all(other.corpora[name] == digest for name, digest in self.corpora.items() if name in other.corpora)
        return self.whole == other.whole and same


@dataclass(slots=True)
class Plan:
    """What is to be built."""

    folder: Path
    units: list[Unit] = field(default_factory=list)
    utterances: int = 0
    """All that were ever planned, also those that are gone by now."""
    seconds: float = 0.0
    """As far as the corpora claim durations."""
    warnings: list[str] = field(default_factory=list)
    gone: dict[str, int] = field(default_factory=dict)
    """Utterances that were taken out, by `FATES`."""
    found: Counter[str] = field(default_factory=Counter)
    """What this run has seen: new, known, moved, ... It is not saved."""
    shape: Shape | None = None
    written: int = 0
    """How often its files were written anew: another machine must see that its copies are old."""
    met: list[int] = field(default_factory=list)
    """Hashes of names that were withdrawn, so that they are not missed where nothing of them is left."""

    @property
    def generations(self) -> list[int]:
        """In their order."""
        return sorted({unit.generation for unit in self.units})

    def save(self) -> None:
        """Writes `plan.json`, by which others see how far a run is. A plan without it does not exist."""
        content = {
            "version": VERSION,
            "units": [[u.id, u.split, u.batch, u.utterances, u.generation] for u in self.units],
            "utterances": self.utterances,
            "seconds": round(self.seconds, 3),
            "gone": self.gone,
            "shape": [self.shape.whole, dict(self.shape.corpora)] if self.shape else None,
            "met": self.met,
            "written": self.written,
        }
        write_atomically(self.folder / "plan.json", json.dumps(content).encode())

    @classmethod
    def load(cls, folder: Path) -> Plan | None:
        """A plan that was saved, or None."""
        try:
            content = json.loads((folder / "plan.json").read_text())
            if content["version"] != VERSION:
                return None
            units = [Unit(*unit) for unit in content["units"]]
            shape = Shape(*content["shape"]) if content["shape"] else None
            given = {"gone": content["gone"], "shape": shape, "met": content["met"], "written": content["written"]}
            return cls(folder, units, content["utterances"], content["seconds"], **given)
        except (OSError, ValueError, KeyError, TypeError):
            return None


def make_plan(
    utterances: Iterable[Utterance],
    folder: Path,
    *,
    spec: SplitSpec,
    seed: int,
    unit_utterances: int,
    forced: Mapping[str, str | None] | None = None,
    voices: Any = None,
    companions: int = 0,
    limit: int | None = None,
    shape: Shape | None = None,
    rules: Rules = Rules(),  # noqa: B008 - it is frozen
    scratch: Path | None = None,
) -> Plan:
    """Writes the plan of a dataset, or goes on with the one that is there.

    Args:
        utterances: Of all corpora, in their order.
        folder: Where the plan's files go.
        spec: How speakers are divided.
        seed: The recipe's.
        unit_utterances: The grain of work.
        forced: Splits of whole corpora.
        voices: Gives the TTS voices of a language; None if nothing is to be spoken.
        companions: How many other utterances of the same split and language each is given.
        limit: At most so many utterances, drawn by chance, evenly; those of earlier runs stay.
        shape: What shapes the plan; a plan of the same shape is gone on with. None: it is made anew.
        rules: What becomes of utterances that are lost, changed or withdrawn.
        scratch: A folder for the new units; then nothing is changed in the plan's own.

    Raises:
        CorpusError: A corpus cannot be read.
        DiskError: The plan cannot be written.
    """
    if scratch is None:
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
    gc.freeze()  # what is loaded by now stays; looking through it again and again takes a quarter of the time
    making = _Making(folder, scratch, shape, rules)
    fresh = making.fresh(utterances, _Draw(limit, seed))
    splitter = Splitter(spec, seed, forced or {}, making.known.split_of)
    speaking = Speaking(voices, spec, seed) if voices is not None else None
    making.add(fresh, splitter, speaking, forced or {}, unit_utterances)
    making.keep_company(companions)
    plan = making.plan
    plan.warnings += _warnings(plan, spec, making.missing(spec, splitter))
    for (language, split), count in sorted(speaking.mute.items() if speaking is not None else ()):
        plan.warnings.append(
            f"{count} utterances in {language} fell into {split}, where no voice is left to speak them: a voice is "
            f"heard in one split only. Name a second voice, or set split.test: 0"
        )
    making.save()
    return plan


class _Making:
    """A plan that is being made, or gone on with."""

    def __init__(self, folder: Path, scratch: Path | None, shape: Shape | None, rules: Rules) -> None:
        self._folder, self._scratch, self._rules, self._shape = folder, scratch, rules, shape
        self.plan, self.known = self._begin()
        there = (int(path.name) for path in folder.glob("[0-9]*") if path.name.isdecimal())
        self._generation = max(there, default=-1) + 1
        self._files: dict[str, PlanFile] = {}
        self._added: list[Unit] = []
        self._met: set[tuple[str, str]] = set()

    def _begin(self) -> tuple[Plan, Known]:
        new = Plan(self._folder, shape=self._shape), Known(self._folder)
        old = Plan.load(self._folder) if self._shape is not None else None
        if old is None or old.shape is None or self._shape is None:
            if self._shape is not None and (self._folder / "plan.json").exists():
                log.warning("%s is damaged or of another version: the plan is made anew", self._folder / "plan.json")
            return new
        if not self._shape.goes_on(old.shape):
            new[0].warnings.append(_ANEW)
            return new
        try:
            known = Known.load(self._folder, old.generations)
        except (OSError, pa.ArrowInvalid) as error:
            log.warning("the plan in %s is damaged (%s): it is made anew from the corpora", self._folder, error)
            return new
        old.shape = self._shape
        return old, known

    def fresh(self, utterances: Iterable[Utterance], draw: _Draw) -> Iterator[Utterance]:
        """The utterances that are to be planned, and what the listing says of the known ones."""
        if not len(self.known):
            yield from draw.some(self._not_withdrawn(utterances))
            return
        known = self.known
        listed = np.unique(known.listed)  # what may have taken the place of a known one
        unknown = known.unknown(draw.watched(utterances))
        spool = Spool((self._scratch or self._folder) / ".listing.tmp")
        try:
            spool.fill(u for u in unknown if draw.may(u) or _among(listed, planfile.hashed(u.id)))
            self._met = known.judge(self._rules, self._corpora, np.frombuffer(spool.ids, np.uint64))
            superseded = np.unique(known.listed[known.fate == FATES.index("superseded")])
            for utterance in self._not_withdrawn(self._welcome(spool)):
                if draw.may(utterance) or _among(superseded, planfile.hashed(utterance.id)):
                    yield utterance
        finally:
            spool.path.unlink(missing_ok=True)

    def _welcome(self, unknown: Iterable[Utterance]) -> Iterator[Utterance]:
        """Those in whose stead no other is kept, and that were not withdrawn for having changed."""
        known = self.known
        kept = np.unique(known.listed[(known.fate == 0) & ~known.found])
        changed = (known.fate == FATES.index("changed")) & (self._rules.changed == "withdraw")
        barred, again = (np.unique(hashes[changed]) for hashes in (known.listed, known.key))
        for utterance in unknown:
            name = planfile.hashed(utterance.id)
            if _among(kept, name) or (_among(barred, name) and not _among(again, planfile.key_of(utterance))):
                self.plan.found["left out"] += 1
            else:
                yield utterance

    def _not_withdrawn(self, utterances: Iterable[Utterance]) -> Iterator[Utterance]:
        withdrawn = self._rules.withdrawn
        if not withdrawn.names:
            yield from utterances
            return
        keys, _ = self.known.withdrawn(self._rules)
        for utterance in utterances:
            named = withdrawn.named(utterance)
            self._met.update(named)
            if named or _among(keys, planfile.key_of(utterance)):
                self.plan.found["withheld"] += 1
            else:
                yield utterance

    @property
    def _corpora(self) -> Iterable[str]:
        assert self._shape is not None
        return self._shape.corpora

    def add(
        self,
        fresh: Iterator[Utterance],
        splitter: Splitter,
        speaking: Speaking | None,
        forced: Mapping[str, str | None],
        per_unit: int,
    ) -> None:
        """Writes new utterances, if there are any."""
        first = next(fresh, None)
        if first is None and len(self.known):
            return
        folder = self._scratch or self._folder
        self._files = {s: PlanFile(plan_path(folder, self._generation, s), per_unit) for s in SPLITS}
        known = self.known
        taken, listed = np.unique(known.name[known.fate == 0]), np.unique(known.listed[known.found])
        told = told_apart(
            itertools.chain([first] if first is not None else (), fresh),
            lambda name: _among(taken, name),
            lambda name: _among(listed, name),
        )
        for own, given, name in told:
            if speaking is not None and own.source is None and own.problem is None:
                spoken, split = speaking(given, forced.get(own.corpus))
                own = replace(spoken, id=own.id)
            else:
                split, problem = splitter(given)
                if problem is not None and own.problem is None:
                    own = replace(own, problem=problem)
            self._files[split].add(own, name, given)
        for file in self._files.values():
            file.close()
            self.plan.utterances += len(file.names)
            self.plan.seconds += file.seconds
            self.plan.found["new"] += len(file.names)
        self.plan.warnings += _of_no_language(sum((file.of_no_language for file in self._files.values()), Counter()))

    def keep_company(self, count: int) -> None:
        """Gives new utterances their companions, and the units their ids, which cover them."""
        for split, file in self._files.items():
            digests = [digest for digest, _ in file.units]
            if count and file.names:
                digests = self._with_companions(split, file, count)
            taken = {unit.id for unit in self.plan.units if unit.split == split}
            for batch, ((_, size), digest) in enumerate(zip(file.units, digests, strict=True)):
                while digest in taken:  # the same was taken out, and has come back
                    digest = xxhash.xxh3_64_hexdigest(f"{digest}{AGAIN}".encode())
                taken.add(digest)
                self._added.append(Unit(digest, split, batch, size, self._generation))
        self.plan.units += self._added

    def _with_companions(self, split: str, file: PlanFile, count: int) -> list[str]:
        pieces = [piece for piece in self.known.pieces if piece.split == split]
        gone = [self.known.fate[p.begin : p.begin + p.rows] for p in pieces]
        away = np.flatnonzero(np.concatenate(gone)) if gone else np.zeros(0, np.int64)
        chosen, hashed = company.choose([*(piece.path for piece in pieces), file.path], away, count)
        begin = len(hashed) - len(file.names)
        place = _companions_path(file.path)
        with explained(file.path):
            np.save(place, chosen[begin:])
            sync(place)
        digests = []
        for digest, size in file.units:
            rows = chosen[begin : begin + size]
            begin += size
            named = np.where(rows >= 0, hashed[rows], 0).tobytes()
            digests.append(xxhash.xxh3_64_hexdigest(digest.encode() + named))
        return digests

    def missing(self, spec: SplitSpec, splitter: Splitter) -> set[str]:
        """Speakers that the recipe names, but nobody has."""
        absent = set(spec.test_speakers) - splitter.seen_test_speakers
        for piece in self.known.pieces if absent else ():
            speakers = planfile.columns(piece.path, ["speaker"])["speaker"]
            absent.difference_update(pc.unique(speakers).to_pylist())
        return absent

    def save(self) -> None:
        """Writes what has changed; the plan itself last."""
        plan, known = self.plan, self.known
        names = self._rules.withdrawn.names
        met = {*plan.met, *(earlier.hash_of(*name) for name in self._met)}
        unmet = [name for kind, name in names if earlier.hash_of(kind, name) not in met]
        if unmet:
            others = f" and {len(unmet) - 5} more" if len(unmet) > 5 else ""
            plan.warnings.append(
                f"`withdrawn` names {', '.join(unmet[:5])}{others}, which nothing has: speakers, utterances and "
                "recordings are called as in rows, `CORPUS/NAME`"
            )
        plan.met = sorted(met & {earlier.hash_of(*name) for name in names})
        plan.gone = {FATES[fate]: int(n) for fate, n in enumerate(np.bincount(known.fate)) if fate and n}
        plan.found["known"] = int(known.found.sum())
        plan.found["missing"] = int(((known.fate == 0) & ~known.found).sum())
        plan.found["moved"] = len(known.moves.rows)
        plan.found.update(FATES[fate] for fate in known.fate[known.going].tolist())
        if self._scratch is not None:
            return
        plan.written += known.save()
        plan.save()
        for path in self._folder.glob("[0-9]*"):
            if path.name.isdecimal() and int(path.name) not in plan.generations:
                shutil.rmtree(path)
        for split in SPLITS:  # of a version that had one generation: they would outlive a withdrawal
            for path in self._folder.glob(f"{split}.*"):
                path.unlink()


def _companions_path(file: Path) -> Path:
    return file.with_suffix(".companions.npy")


def _among(ordered: Any, value: int) -> bool:
    """Whether a value is in an ordered array."""
    at = int(np.searchsorted(ordered, np.uint64(value)))
    return at < len(ordered) and int(ordered[at]) == value


class _Draw:
    """At most so many utterances: a choice that depends on their ids alone."""

    def __init__(self, limit: int | None, seed: int) -> None:
        self._limit, self._seed = limit, seed
        self._smallest: list[int] = []  # negative, so that the largest of them is the first of the heap

    def some(self, utterances: Iterable[Utterance]) -> Iterator[Utterance]:
        """Those that are drawn, in the order of the listing."""
        if self._limit is None:
            return iter(utterances)
        drawn = ((self._of(u), i, u) for i, u in enumerate(utterances))
        chosen = heapq.nsmallest(self._limit, drawn, key=lambda d: d[:2])
        return (u for _, _, u in sorted(chosen, key=lambda d: d[1]))

    def watched(self, utterances: Iterable[Utterance]) -> Iterator[Utterance]:
        """The same utterances; their draws are noted."""
        for utterance in utterances:
            if self._limit is not None:
                push = heapq.heappush if len(self._smallest) < self._limit else heapq.heappushpop
                push(self._smallest, -self._of(utterance))
            yield utterance

    def may(self, utterance: Utterance) -> bool:
        """Whether an utterance is among those drawn so far; when all were watched, whether it is drawn."""
        return self._limit is None or self._of(utterance) <= -self._smallest[0]

    def _of(self, utterance: Utterance) -> int:
        return seeds.derive(self._seed, "limit", utterance.id)


class _Layout:
    """Where the rows of a plan lie, and which are gone. Rows are counted over all generations of a split."""

    def __init__(self, folder: Path) -> None:
        plan, taken = Plan.load(folder), earlier.gone(folder)
        assert plan is not None, f"there is no plan in {folder}"
        self.generations = plan.generations
        self.begins: dict[str, list[int]] = {}
        """By split, where each generation begins, in their order."""
        self.gone: dict[str, dict[int, str]] = {}
        """By split and row, why."""
        for split in SPLITS:
            rows = Counter(dict.fromkeys(self.generations, 0))
            for unit in plan.units:
                rows[unit.generation] += unit.utterances if unit.split == split else 0
            self.begins[split] = list(itertools.accumulate(rows.values(), initial=0))[:-1]
            self.gone[split] = {}
            for generation, begin in zip(self.generations, self.begins[split], strict=True):
                own = earlier.rows_gone(taken, generation, split)
                places = (own["row"].to_numpy() + begin).tolist()
                self.gone[split].update(zip(places, (FATES[n] for n in own["fate"].to_pylist()), strict=True))

    def begin(self, unit: Unit) -> int:
        """The first row of a unit's generation."""
        return self.begins[unit.split][self.generations.index(unit.generation)]

    def find(self, split: str, row: int) -> tuple[int, int]:
        """Generation of a row, and its number in that."""
        at = bisect.bisect_right(self.begins[split], row) - 1
        return self.generations[at], row - self.begins[split][at]


@lru_cache(maxsize=2)
def _layout(folder: Path, _written: tuple[int, ...]) -> _Layout:
    return _Layout(folder)


def layout(folder: Path) -> _Layout:
    """Of the plan as it is now."""
    written = []
    for name in ("plan.json", earlier.GONE):
        with suppress(FileNotFoundError):
            found = (folder / name).stat()
            written += [found.st_mtime_ns, found.st_ino]
    return _layout(folder, tuple(written))


def read_unit(folder: Path, unit: Unit) -> Iterator[tuple[Utterance, tuple[Utterance, ...]]]:
    """The utterances of a unit that are not gone, each with its companions."""
    where = layout(folder)
    gone = where.gone[unit.split]
    with ExitStack() as stack:
        file = cache(lambda generation: stack.enter_context(opened(plan_path(folder, generation, unit.split))))
        own = file(unit.generation)
        rows = own.get_batch(unit.batch).to_pylist()
        first = unit.batch * own.get_batch(0).num_rows
        for number, (row, others) in enumerate(zip(rows, companions_of(folder, unit, first, len(rows)), strict=True)):
            if where.begin(unit) + first + number in gone:
                continue
            there = (where.find(unit.split, other) for other in others if other >= 0 and other not in gone)
            yield planfile.from_row(row), tuple(_row(file(generation), place) for generation, place in there)


def origins(row: str) -> set[str]:
    """What a row's id may begin with: an utterance's id, to which a task appends its name and a number."""
    return {row, row.rpartition(":")[0], row.rsplit(":", 2)[0]}


def taken_out(folder: Path, unit: Unit) -> Counter[str]:
    """How many utterances of a unit are gone, by reason."""
    where = layout(folder)
    with opened(plan_path(folder, unit.generation, unit.split)) as file:
        first = where.begin(unit) + unit.batch * file.get_batch(0).num_rows
    gone = where.gone[unit.split]
    return Counter(gone[row] for row in range(first, first + unit.utterances) if row in gone)


def companions_of(folder: Path, unit: Unit, first: int, rows: int) -> list[list[int]]:
    """Rows of the companions of some of a generation's rows; -1 where there is none."""
    place = _companions_path(plan_path(folder, unit.generation, unit.split))
    if not place.is_file():
        return [[]] * rows
    chosen: list[list[int]] = np.load(place, mmap_mode="r")[first : first + rows].tolist()
    return chosen


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A plan file, whose batches are views of it: only the rows that are asked for are read."""
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as file:
        yield file


def _row(file: Any, row: int) -> Utterance:
    batch, place = divmod(row, file.get_batch(0).num_rows)
    return planfile.from_row(file.get_batch(batch).slice(place, 1).to_pylist()[0])


def _of_no_language(counts: Counter[str]) -> list[str]:
    return [
        f"corpus {corpus}: no language is given for {count} utterances, so they are treated as if in English, "
        f"words parted by spaces: set `language` on this corpus in the recipe"
        for corpus, count in sorted(counts.items())
    ]


def _warnings(plan: Plan, spec: SplitSpec, unknown: set[str]) -> list[str]:
    found = []
    if unknown:
        found.append(f"split.test_speakers names {', '.join(sorted(unknown))}, whom no corpus has")
    splits = {unit.split for unit in plan.units}
    if spec.test and splits == {"train"}:
        found.append(
            f"nobody fell into test, of whom {spec.test:.0%} are asked for: raise split.test, or name "
            f"speakers in split.test_speakers"
        )
    if splits == {"test"}:
        found.append(
            "everybody fell into test: lower split.test; or, if the corpus calls itself test or dev, set "
            "`split: train` on it or `split.use_corpus_splits: false`"
        )
    return found

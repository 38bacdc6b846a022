"""Plan: corpora become units of work. No audio is decoded.

Utterances are listed, given a split by their speaker (and a voice, if they are text), and written to
one Arrow file a split, one record batch a unit. A unit's id is the digest of its batch, so it changes
with any of its utterances and with nothing else.
"""

from __future__ import annotations

import gc
import heapq
import itertools
import json
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as changed
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from msgspec.structs import replace

from pipeline import seeds
from pipeline.shards import SPLITS, explained, write_atomically
from pipeline.text import base
from schemas.recipe import SplitSpec
from schemas.utterance import AudioSource, Utterance

AGAIN = "  x"  # two spaces, of which readers leave one: no id of a corpus looks like `c/a  x2`
NEIGHBOURS = 64  # places in hash order that are searched for a companion of another speaker

_TEXT = (
    *("id", "corpus", "transcript", "language", "speaker", "recording", "licence", "split", "voice", "problem"),
    "catalogue",
)
_SOURCE = {
    "path": pa.string(),
    "member": pa.string(),
    "start": pa.float64(),
    "duration": pa.float64(),
    "channel": pa.int32(),
    "offset": pa.int64(),
    "size": pa.int64(),
    "identity": pa.string(),
}
_SCHEMA = pa.schema(
    {
        **{name: pa.string() for name in _TEXT},
        "duration": pa.float64(),
        "sampling_rate": pa.int32(),
        "labels": pa.list_(pa.struct({"name": pa.string(), "value": pa.string()})),
        **{f"source_{name}": kind for name, kind in _SOURCE.items()},
    }
)
_NO_SOURCE = AudioSource("")


@dataclass(frozen=True, slots=True)
class Unit:
    """A piece of work: one record batch of the plan, which becomes one shard."""

    id: str
    split: str
    batch: int
    utterances: int


@dataclass(slots=True)
class Plan:
    """What is to be built."""

    folder: Path
    units: list[Unit] = field(default_factory=list)
    utterances: int = 0
    seconds: float = 0.0
    """As far as the corpora claim durations."""
    warnings: list[str] = field(default_factory=list)

    def save(self) -> None:
        """Writes `plan.json`, by which others see how far a run is."""
        content = {
            "units": [[u.id, u.split, u.batch, u.utterances] for u in self.units],
            "utterances": self.utterances,
            "seconds": round(self.seconds, 3),
        }
        write_atomically(self.folder / "plan.json", json.dumps(content).encode())

    @classmethod
    def load(cls, folder: Path) -> Plan | None:
        """A plan that was saved, or None."""
        try:
            content = json.loads((folder / "plan.json").read_text())
            units = [Unit(*unit) for unit in content["units"]]
            return cls(folder, units, content["utterances"], content["seconds"])
        except (OSError, ValueError, KeyError, TypeError):
            return None


Voices = Mapping[str, Sequence[Any]]


class _Splitter:
    """Gives each speaker one split.

    It does not depend on the order in which utterances come, unless a corpus puts a speaker into
    both: then the first of them decides, and the others are set aside.
    """

    def __init__(self, spec: SplitSpec, seed: int, forced: Mapping[str, str | None]) -> None:
        self._spec, self._seed, self._forced = spec, seed, forced
        self._of: dict[str, str] = {}
        self._named = set(spec.test_speakers)
        self.seen_test_speakers: set[str] = set()

    def __call__(self, utterance: Utterance) -> tuple[str, str | None]:
        """The split, and what is wrong if the corpus puts one speaker into both."""
        key = utterance.speaker or utterance.recording or utterance.id
        known = self._of.get(key)
        if known is not None and utterance.split is None and not self._forced.get(utterance.corpus):
            return known, None
        wanted = self._wanted(utterance, key)
        known = self._of.setdefault(key, wanted)
        if known != wanted:
            problem = f"speaker_in_both_splits: {key} is in {known} already, {utterance.corpus} puts it in {wanted}"
            return known, problem
        return known, None

    def _wanted(self, utterance: Utterance, key: str) -> str:
        forced = self._forced.get(utterance.corpus)
        if forced is not None:
            return forced
        if utterance.speaker in self._named:
            self.seen_test_speakers.add(utterance.speaker or "")
            return "test"
        if self._spec.use_corpus_splits and utterance.split is not None:
            return "train" if utterance.split.startswith("train") else "test"
        return "test" if seeds.share(self._seed, "split", key) < self._spec.test else "train"


class Speaking:
    """Gives text a split and a voice: a sentence is in one split, and so is a voice."""

    def __init__(self, voices: Any, spec: SplitSpec, seed: int) -> None:
        self._voices_of, self._spec, self._seed = voices, spec, seed
        self._known: dict[str, dict[str, list[Any]]] = {}
        self._split_of: dict[str, str] = {}
        self.mute: Counter[tuple[str, str]] = Counter()
        """Utterances that have no voice, by language and split."""

    def __call__(self, utterance: Utterance, forced: str | None) -> tuple[Utterance, str]:
        text, _, number = utterance.id.rpartition("#")
        if not number.isdecimal():  # a file may be called so
            text, number = utterance.id, "1"
        share = seeds.share(self._seed, "split", text)
        split = forced or ("test" if share < self._spec.test else "train")
        language = utterance.language or "en"
        voices = self._of(language)[split]
        if not voices:
            self.mute[language, split] += 1
            return utterance, split
        # The second voice of a sentence is another one than the first.
        order = self._order(voices, text)
        voice = order[(int(number) - 1) % len(order)]
        spoken = replace(
            utterance,
            voice=voice.name,
            speaker=f"tts/{voice.name}",
            labels={**voice.labels, **utterance.labels},
        )
        return spoken, split

    def voice(self, language: str, split: str, key: str) -> Any:
        """A voice for something that is said in a split; None where there is none."""
        voices = self._of(language)[split]
        return self._order(voices, key)[0] if voices else None

    def _order(self, voices: list[Any], text: str) -> list[Any]:
        """Voices by chance; those of an unseen synthesiser and the others by turns, however many there are of each."""
        drawn = sorted(voices, key=lambda v: seeds.derive(self._seed, "voice", text, v.name))
        pair = [[v for v in drawn if v.held_out], [v for v in drawn if not v.held_out]]
        if seeds.share(self._seed, "unseen", text) < 0.5:
            pair.reverse()
        return [v for turn in itertools.zip_longest(*pair) for v in turn if v is not None]

    def _of(self, language: str) -> dict[str, list[Any]]:
        """The voices of a language by split."""
        if language not in self._known:
            everywhere, here = (list(self._voices_of(name)) for name in (base(language), language))
            self._divide(everywhere)
            self._divide(here)
            # Where a split has none of the accent that is asked for, it takes what the language has.
            self._known[language] = {split: self._in(split, here) or self._in(split, everywhere) for split in SPLITS}
        return self._known[language]

    def _in(self, split: str, voices: Iterable[Any]) -> list[Any]:
        return [v for v in voices if self._split_of[v.name] == split]

    def _divide(self, voices: Iterable[Any]) -> None:
        """Gives voices a split by their name, once: `pt` and `pt-BR` share some, and so may two languages.

        An unseen synthesiser is for test alone; where there is no test it does not speak.
        """
        by_accent: dict[str, set[str]] = defaultdict(set)
        for voice in voices:
            if voice.held_out:
                self._split_of[voice.name] = "test" if self._spec.test else ""
            elif voice.name not in self._split_of:
                by_accent[voice.labels.get("accent", "")].add(voice.name)
        held = {name for names in by_accent.values() for name in self._held_out(names)}
        every = set().union(*by_accent.values())
        held = held or set(self._held_out(every))  # so many accents that no one can spare a voice
        self._split_of |= {name: "test" if name in held else "train" for name in every}

    def _held_out(self, names: set[str]) -> list[str]:
        """Those for test: at least two where there are four."""
        ranked = sorted(names, key=lambda name: (seeds.share(self._seed, "split", f"tts/{name}"), name))
        held = max(round(len(ranked) * self._spec.test), min(2, len(ranked) // 2)) if self._spec.test else 0
        return ranked[:held]


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
) -> Plan:
    """Writes the plan of a dataset.

    Args:
        utterances: Of all corpora, in their order.
        folder: Where the plan's files go.
        spec: How speakers are divided.
        seed: The recipe's.
        unit_utterances: The grain of work.
        forced: Splits of whole corpora.
        voices: Gives the TTS voices of a language; None if nothing is to be spoken.
        companions: How many other utterances of the same split and language each is given.
        limit: At most so many utterances, drawn by chance, evenly.

    Raises:
        CorpusError: A corpus cannot be read.
        DiskError: The plan cannot be written.
    """
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    gc.freeze()  # what is loaded by now stays; looking through it again and again takes a quarter of the time
    plan = Plan(folder)
    forced = forced or {}
    splitter = _Splitter(spec, seed, forced)
    speaking = Speaking(voices, spec, seed) if voices is not None else None
    if limit is not None:
        utterances = _some(utterances, limit, seed)
    files = {split: _PlanFile(folder / f"{split}.arrow", split, unit_utterances) for split in SPLITS}
    for utterance, name in _told_apart(utterances):
        if speaking is not None and utterance.source is None and utterance.problem is None:
            utterance, split = speaking(utterance, forced.get(utterance.corpus))
        else:
            split, problem = splitter(utterance)
            if problem is not None and utterance.problem is None:
                utterance = replace(utterance, problem=problem)
        files[split].add(utterance, name)
    for file in files.values():
        plan.units += file.close()
        plan.utterances += len(file.names)
        plan.seconds += file.seconds
        if companions:
            _write_companions(file, companions, plan)
    plan.warnings += _warnings(plan, spec, splitter)
    for (language, split), count in sorted(speaking.mute.items() if speaking is not None else ()):
        plan.warnings.append(
            f"{count} utterances in {language} fell into {split}, where no voice is left to speak them: a voice is "
            f"heard in one split only. Name a second voice, or set split.test: 0"
        )
    plan.warnings += _of_no_language(sum((file.of_no_language for file in files.values()), Counter()))
    plan.save()
    return plan


class _PlanFile:
    """The utterances of one split; a record batch a unit."""

    def __init__(self, path: Path, split: str, per_unit: int) -> None:
        self.path, self.split, self.per_unit = path, split, per_unit
        self.names = array("Q")
        """Hashes of the utterances' ids."""
        self.seconds = 0.0
        self.of_no_language: Counter[str] = Counter()
        """Speech whose language nobody knows, by corpus."""
        with explained(path):
            self._sink = pa.OSFile(str(path), "wb")
            self._file = pa.ipc.new_file(self._sink, _SCHEMA)
        self._waiting: list[Utterance] = []
        self._units: list[Unit] = []

    def add(self, utterance: Utterance, name: int) -> None:
        self._waiting.append(utterance)
        self.names.append(name)
        if len(self._waiting) == self.per_unit:
            self._flush()

    def _flush(self) -> None:
        batch = _to_batch(self._waiting)
        with explained(self.path):
            self._file.write_batch(batch)
        self.seconds += sum(u.duration for u in self._waiting if u.duration)
        self.of_no_language.update(u.corpus for u in self._waiting if u.language is None and u.is_speech)
        digest = xxhash.xxh3_64_hexdigest(memoryview(batch.serialize()))
        self._units.append(Unit(digest, self.split, len(self._units), batch.num_rows))
        self._waiting = []

    def close(self) -> list[Unit]:
        if self._waiting:
            self._flush()
        with explained(self.path):
            self._file.close()
            self._sink.close()
            (self.path.with_suffix(".companions.npy")).unlink(missing_ok=True)
        return self._units


def _to_batch(utterances: Sequence[Utterance]) -> pa.RecordBatch:
    columns = [pa.array(list(map(attrgetter(name), utterances)), pa.string()) for name in _TEXT]
    columns.append(pa.array([u.duration for u in utterances], pa.float64()))
    columns.append(pa.array([u.sampling_rate for u in utterances], pa.int32()))
    columns.append(_labels(utterances))
    sources = [u.source or _NO_SOURCE for u in utterances]
    for name, kind in _SOURCE.items():
        columns.append(pa.array(list(map(attrgetter(name), sources)), kind))
    return pa.RecordBatch.from_arrays(columns, schema=_SCHEMA)


def _labels(utterances: Sequence[Utterance]) -> pa.Array:
    pairs = [pair for u in utterances for pair in u.labels.items()]
    offsets = list(itertools.accumulate((len(u.labels) for u in utterances), initial=0))
    names, values = (pa.array([pair[i] for pair in pairs], pa.string()) for i in (0, 1))
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), pa.StructArray.from_arrays([names, values], ["name", "value"])
    )


def _from_row(row: dict[str, Any]) -> Utterance:
    source = {name: row[f"source_{name}"] for name in _SOURCE}
    return Utterance(
        **{name: row[name] for name in _TEXT},
        duration=row["duration"],
        sampling_rate=row["sampling_rate"],
        labels={pair["name"]: pair["value"] for pair in row["labels"]},
        source=AudioSource(**source) if source["path"] else None,
    )


def read_unit(folder: Path, unit: Unit) -> Iterator[tuple[Utterance, tuple[Utterance, ...]]]:
    """The utterances of a unit of a plan, each with its companions."""
    with pa.memory_map(str(folder / f"{unit.split}.arrow")) as source, pa.ipc.open_file(source) as file:
        rows = file.get_batch(unit.batch).to_pylist()
        places = folder / f"{unit.split}.companions.npy"
        if not places.is_file():
            yield from ((_from_row(row), ()) for row in rows)
            return
        per_unit = file.get_batch(0).num_rows
        chosen = np.load(places, mmap_mode="r")[unit.batch * per_unit :][: len(rows)]
        for row, others in zip(rows, chosen, strict=True):
            # A batch is a view of the mapped file: only the rows that are asked for are read.
            found = (
                file.get_batch(int(i) // per_unit).slice(int(i) % per_unit, 1).to_pylist()[0] for i in others if i >= 0
            )
            yield _from_row(row), tuple(_from_row(r) for r in found)


def _write_companions(file: _PlanFile, count: int, plan: Plan) -> None:
    """For each utterance some others of its language, of other speakers where there are such.

    Neighbours in the order of a hash: a choice that needs no more than the listing itself, spreads
    evenly, and does not depend on how the listing is cut into units. Companions shape a unit's rows,
    so its id comes to cover them.
    """
    if not file.names:
        return
    with pa.memory_map(str(file.path)) as source, pa.ipc.open_file(source) as plan_file:
        table = pa.Table.from_batches(
            plan_file.get_batch(i).select(["speaker", "language", "problem", "catalogue"])
            for i in range(plan_file.num_record_batches)
        )
        usable = pc.and_(table["problem"].is_null(), table["catalogue"].is_null()).to_numpy()
        speaker, language = _codes(table["speaker"]), _codes(table["language"])
    hashed = np.frombuffer(file.names, np.uint64)
    chosen = np.full((len(hashed), count), -1, np.int32)
    for tongue in np.unique(language):
        places = np.flatnonzero((language == tongue) & usable)
        _choose(places[np.argsort(hashed[places], kind="stable")], speaker, chosen)
    with explained(file.path):
        np.save(file.path.with_suffix(".companions.npy"), chosen)
    begin = 0
    for index, unit in enumerate(plan.units):
        if unit.split == file.split:
            rows = chosen[begin : begin + unit.utterances]
            begin += unit.utterances
            named = np.where(rows >= 0, hashed[rows], 0).tobytes()
            plan.units[index] = changed(unit, id=xxhash.xxh3_64_hexdigest(unit.id.encode() + named))


def _choose(order: Any, speaker: Any, chosen: Any) -> None:
    """Fills the rows of `order` with the next utterances of other speakers, or else of the same."""
    size, count = len(order), chosen.shape[1]
    filled = np.zeros(size, np.int64)
    own = speaker[order]
    for step in range(1, min(NEIGHBOURS, size - 1) + 1):
        other = np.roll(order, -step)
        fresh = (speaker[other] != own) & (filled < count)
        for column in range(count):  # two companions of one utterance have two speakers too
            earlier = chosen[order, column]
            known = (earlier >= 0) & (speaker[earlier] == speaker[other])
            fresh &= ~known
        at = np.flatnonzero(fresh)
        chosen[order[at], filled[at]] = other[at]
        filled[at] += 1
        if (filled == count).all():
            return
    for step in range(1, min(count, size - 1) + 1):  # too few speakers: their other utterances
        other = np.roll(order, -step)
        there = (chosen[order] == other[:, None]).any(axis=1)
        at = np.flatnonzero((filled < count) & ~there)
        chosen[order[at], filled[at]] = other[at]
        filled[at] += 1


def _codes(column: pa.ChunkedArray) -> Any:
    encoded = column.combine_chunks().dictionary_encode()
    return encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)


def _told_apart(utterances: Iterable[Utterance]) -> Iterator[tuple[Utterance, int]]:
    """The same, with hashes of their ids; an id that comes again gets a number and is marked."""
    seen: set[int] = set()
    again: dict[str, int] = defaultdict(lambda: 1)
    for utterance in utterances:
        name = _hash(utterance.id)
        if name in seen:
            first = utterance.id
            while name in seen:
                again[first] += 1
                numbered = f"{first}{AGAIN}{again[first]}"
                name = _hash(numbered)
            problem = utterance.problem or f"duplicate_id: {first} is listed {again[first]} times"
            utterance = replace(utterance, id=numbered, problem=problem)
        seen.add(name)
        yield utterance, name


def _hash(name: str) -> int:
    return xxhash.xxh3_64_intdigest(name.encode())


def _some(utterances: Iterable[Utterance], limit: int, seed: int) -> Iterator[Utterance]:
    """A random choice that depends on ids alone, in the order of the listing."""
    drawn = ((seeds.derive(seed, "limit", u.id), i, u) for i, u in enumerate(utterances))
    chosen = heapq.nsmallest(limit, drawn, key=lambda d: d[:2])
    return (u for _, _, u in sorted(chosen, key=lambda d: d[1]))


def _of_no_language(counts: Counter[str]) -> list[str]:
    return [
        f"corpus {corpus}: no language is given for {count} utterances, so they are treated as if in English, "
        f"words parted by spaces: set `language` on this corpus in the recipe"
        for corpus, count in sorted(counts.items())
    ]


def _warnings(plan: Plan, spec: SplitSpec, splitter: _Splitter) -> list[str]:
    found = []
    unknown = set(spec.test_speakers) - splitter.seen_test_speakers
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

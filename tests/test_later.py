"""Later runs: what is new is added, what has gone leaves, and all else stays as it is, byte for byte."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline import shards
from pipeline.plan import Plan, read_unit
from pipeline.recipes import RecipeError
from schemas.manifest import DatasetManifest
from tests.building import build, files_of, rows
from tests.killing import die_at, in_child, survived

RUNS = 6


@dataclass
class Corpus:
    """A folder that changes, and what a dataset of it should hold."""

    folder: Path
    rng: random.Random
    files: dict[str, tuple[str, str]] = field(default_factory=dict)
    """By name, its word, which nothing else has, and its speaker."""
    live: dict[str, tuple[str, str]] = field(default_factory=dict)
    """By word, the name that it goes by now, and its speaker."""
    withdrawn: set[str] = field(default_factory=set)
    """Speakers."""
    barred: set[str] = field(default_factory=set)
    """Names of what was taken out since it had changed."""
    made: int = 0

    def add(self, name: str | None = None) -> None:
        self.made += 1
        name, word = name or f"f{self.made}", f"zq{self.made}word"
        sound = np.random.default_rng(self.made).normal(0, 0.1, 9600) * np.repeat([0.1, 1, 0.5, 1], 2400)
        self.folder.mkdir(exist_ok=True)
        soundfile.write(self.folder / f"{name}.wav", sound, 16_000)
        self.files[name] = (word, f"s{self.rng.randrange(5)}")

    def change(self) -> None:
        """One of the things that happen to a corpus."""
        kinds = [self.add, self.add, self.move, self.rewrite, self.remove, self.replace, self.withdraw, self.forgive]
        self.rng.choice(kinds)()

    def some(self) -> str:
        return self.rng.choice(sorted(self.files))

    def move(self) -> None:
        old, new = self.some(), f"moved{self.made}-{self.rng.random()}"
        if (self.folder / f"{old}.wav").exists():
            (self.folder / f"{old}.wav").rename(self.folder / f"{new}.wav")
            self.files[new] = self.files.pop(old)

    def rewrite(self) -> None:
        name = self.some()
        self.made += 1
        self.files[name] = (f"zq{self.made}word", self.files[name][1])

    def remove(self) -> None:
        name = self.some()
        (self.folder / f"{name}.wav").unlink(missing_ok=True)
        if self.rng.random() < 0.5:  # else it is still listed
            del self.files[name]

    def replace(self) -> None:
        self.add(self.some())

    def withdraw(self) -> None:
        self.withdrawn.add(f"c/s{self.rng.randrange(2)}")

    def forgive(self) -> None:
        self.withdrawn = set(sorted(self.withdrawn)[1:])

    def write(self) -> None:
        listed = list(self.files.items())
        self.rng.shuffle(listed)
        lines = [
            json.dumps({"audio_filepath": f"{n}.wav", "text": f"the {word} is here", "speaker": who, "lang": "en"})
            for n, (word, who) in listed
        ]
        (self.folder / "manifest.jsonl").write_text("".join(f"{line}\n" for line in lines))

    def expect(self, disappeared: str, changed: str) -> None:
        """What should be in the dataset after a run, told in the plainest way."""
        there = {n: v for n, v in self.files.items() if (self.folder / f"{n}.wav").exists()}
        listed = {word: name for name, (word, _) in there.items()}
        for word, (name, who) in list(self.live.items()):
            if word in listed:
                self.live[word] = (listed[word], who)
            elif name in there and there[name][0] not in self.live:
                if changed != "keep":
                    del self.live[word]
                if changed == "withdraw":
                    self.barred.add(name)
            elif disappeared == "withdraw":
                del self.live[word]
        kept = {name for word, (name, _) in self.live.items() if word not in listed}
        for name, (word, who) in there.items():
            if word not in self.live and name not in kept and name not in self.barred:
                self.live[word] = (name, who)
        self.live = {w: (n, who) for w, (n, who) in self.live.items() if f"c/{who}" not in self.withdrawn}


def members(out: Path) -> dict[str, set[tuple[str, str, str]]]:
    """By unit, what it is made of, companions included."""
    plan = Plan.load(out / ".build" / "plan")
    return {
        unit.id: {
            (u.id, u.transcript, u.source.identity if u.source else "")
            for own, others in read_unit(plan.folder, unit)
            for u in (own, *others)
        }
        for unit in (plan.units if plan else ())
    }


def words_in(content: bytes) -> list[str]:
    return [f"zq{part.split(b'word')[0].decode()}word" for part in content.split(b"zq")[1:] if b"word" in part[:9]]


def snapshot(out: Path) -> dict[str, tuple[int, int, str]]:
    return {
        p.relative_to(out).as_posix(): (
            p.stat().st_ino,
            p.stat().st_mtime_ns,
            hashlib.sha256(p.read_bytes()).hexdigest(),
        )
        for p in [*out.glob("t*/shard-*"), *out.glob("rejected/*.arrow")]
    }


def check(out: Path, dataset: DatasetManifest, corpus: Corpus) -> None:
    kept, rejected = rows(out, dataset)
    assert dataset.rows_in == len(kept) + len(rejected) + sum(dataset.removed.values())
    for manifest in shards.manifests(out, shards.SPLITS):
        count = sum(f.rows for f in (manifest.kept, manifest.rejected) if f)
        assert sum(manifest.reasons.values()) == (manifest.rejected.rows if manifest.rejected else 0)
        assert count == 0 or (out / shards.manifest_path(manifest.split, manifest.unit)).exists()
    assert len({s.id for s in kept + rejected}) == len(kept + rejected), "no row twice"
    own = [w for s in kept + rejected if s.task in ("transcription", "") for w in words_in(s.transcript.encode())]
    assert set(own) >= set(corpus.live)
    missing = {w for w in own if w not in corpus.live}
    assert all(s.rejected for s in kept + rejected if set(words_in(s.transcript.encode())) & missing)
    plan = Plan.load(out / ".build" / "plan")
    assert plan is not None
    ids = [u.id for unit in plan.units for u, _ in read_unit(plan.folder, unit)]
    assert len(set(ids)) == len(ids), "no utterance is in two units"
    assert len(ids) == dataset.planned_utterances == plan.utterances - sum(plan.gone.values())


@pytest.mark.parametrize(
    ("seed", "disappeared", "changed"),
    [(1, "keep", "supersede"), (2, "withdraw", "supersede"), (3, "withdraw", "keep"), (4, "keep", "withdraw")],
)
def test_whatever_happens_to_a_corpus(
    tmp_path: Path, write_recipe: Callable[..., Path], seed: int, disappeared: str, changed: str
) -> None:
    corpus, out = Corpus(tmp_path / "c", random.Random(seed)), tmp_path / "out"
    for _ in range(9):
        corpus.add()
    for run in range(RUNS):
        for _ in range(3 if run else 0):
            corpus.change()
        corpus.write()
        recipe = write_recipe(
            corpora=[{"reader": "jsonl", "name": "c", "path": str(corpus.folder)}],
            tasks={"transcription": None, "speaker_count": None},
            samples_per_utterance="all",
            shards={"utterances": 3, "rows_per_batch": 2},
            later={"disappeared": disappeared, "changed": changed},
            withdrawn={"speakers": sorted(corpus.withdrawn)},
        )
        before, had, lived = snapshot(out), members(out), set(corpus.live)
        dataset = build(recipe, out)
        corpus.expect(disappeared, changed)
        check(out, dataset, corpus)
        gone = (
            lived - set(corpus.live) - {word for word, _ in corpus.files.values()}
        )  # without its sound it is a row that says so
        content = b"".join(p.read_bytes() for p in out.rglob("*") if p.is_file())
        assert not [w for w in gone if w.encode() in content], "not in rows, not in companions, not in the plan"
        assert not [s for s in corpus.withdrawn if s.encode() in content], "names of people are not kept"
        after = snapshot(out)
        there = set().union(*members(out).values())
        for unit, those in had.items():
            if those <= there:
                own = [n for n in before if unit in n]
                assert {n: after.get(n) for n in own} == {n: before[n] for n in own}, "not even touched"
        if run % 3:
            continue
        again = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file() and ".build" not in p.parts}
        assert build(recipe, out) == dataset
        assert {p: p.stat().st_mtime_ns for p in again} == again, "nothing is new"


@pytest.mark.long
def test_killed_while_it_takes_something_out(tmp_path: Path, write_recipe: Callable[..., Path]) -> None:
    """Where sounds are gone from the corpus, too, nobody could make their rows again."""
    corpus = Corpus(tmp_path / "c", random.Random(5))
    for _ in range(8):
        corpus.add()
    corpus.write()
    options = {
        "corpora": [{"reader": "jsonl", "name": "c", "path": str(corpus.folder)}],
        "tasks": {"transcription": None, "speaker_count": None},
        "samples_per_utterance": "all",
        "shards": {"utterances": 4, "rows_per_batch": 2},
    }
    recipe = write_recipe(**options)
    build(recipe, tmp_path / "first")
    gone = sorted(corpus.files)[0]
    for name in sorted(corpus.files)[1:4]:
        (corpus.folder / f"{name}.wav").unlink()
    corpus.add()
    corpus.write()
    recipe = write_recipe(**options, withdrawn={"utterances": [f"c/{gone}.wav"]})
    shutil.copytree(tmp_path / "first", tmp_path / "wanted")
    build(recipe, tmp_path / "wanted")
    wanted, deaths = files_of(tmp_path / "wanted"), 0
    for step in range(1, 200, 5):
        out = tmp_path / f"killed{step}"
        shutil.copytree(tmp_path / "first", out)
        if survived(in_child(recipe, out, lambda step=step: die_at(step))):  # type: ignore[misc]
            break
        deaths += 1
        assert survived(in_child(recipe, out))
        assert files_of(out) == wanted, f"killed before step {step}"
    assert deaths >= 5
    assert b"zq1word" not in b"".join(p.read_bytes() for p in out.rglob("*") if p.is_file())


def test_what_was_withdrawn_stays_out_under_any_name_until_it_is_taken_off_the_list(
    tmp_path: Path, write_recipe: Callable[..., Path]
) -> None:
    corpus, out = Corpus(tmp_path / "c", random.Random(6)), tmp_path / "out"
    for _ in range(6):
        corpus.add()
    corpus.write()

    def run(**more: object) -> DatasetManifest:
        corpora = [{"reader": "jsonl", "name": "c", "path": str(corpus.folder)}]
        return build(write_recipe(corpora=corpora, tasks={"transcription": None}, **more), out)

    first = run()
    listing = tmp_path / "withdrawn.txt"
    listing.write_text("# asked to be left out\nutterance c/f2.wav\n")
    assert run(withdrawn={"file": "withdrawn.txt"}).taken_out == {"withdrawn": 1}
    (corpus.folder / "f2.wav").rename(corpus.folder / "other.wav")
    corpus.files["other"] = corpus.files.pop("f2")
    corpus.write()
    again = run(withdrawn={"file": "withdrawn.txt"})
    assert again.planned_utterances == first.planned_utterances - 1
    assert b"zq2word" not in b"".join(p.read_bytes() for p in out.rglob("*") if p.is_file())
    listing.write_text("utterances c/f2\n")
    with pytest.raises(RecipeError, match=r"withdrawn\.txt:1: 'utterances c/f2': `speaker NAME`"):
        run(withdrawn={"file": "withdrawn.txt"})
    back = run()
    assert back.planned_utterances == first.planned_utterances
    assert back.rows_in == first.rows_in + 1, "the row that was removed stays in the account"
    kept, rejected = rows(out, back)
    assert "c/other.wav" in {s.utterances[0].id for s in kept + rejected}


def test_a_corpus_that_leaves_the_recipe_and_one_that_comes(tmp_path: Path, write_recipe: Callable[..., Path]) -> None:
    out, corpora = tmp_path / "out", []
    for name in ("a", "b"):
        corpus = Corpus(tmp_path / name, random.Random(7))
        corpus.made = 10 * (name == "b")
        for _ in range(4):
            corpus.add()
        corpus.write()
        corpora.append({"reader": "jsonl", "name": name, "path": str(corpus.folder)})
    tasks = {"transcription": None}
    build(write_recipe(corpora=corpora[:1], tasks=tasks), out)
    before = snapshot(out)
    both = build(write_recipe(corpora=corpora, tasks=tasks), out)
    assert before.items() <= snapshot(out).items()
    assert both.planned_utterances == 8
    left = build(write_recipe(corpora=corpora[1:], tasks=tasks), out)
    assert left.taken_out == {"corpus_removed": 4}
    assert left.removed == {"corpus_removed": 4}
    kept, rejected = rows(out, left)
    assert {s.utterances[0].corpus for s in kept + rejected} == {"b"}
    changed = build(write_recipe(corpora=corpora[1:], tasks=tasks, seed=1), out)
    assert not changed.taken_out, "another seed makes another plan"

"""The page of a dataset: what is on it, that nothing of the data runs, and that a browser plays and filters it."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from pipeline import page, shards
from pipeline.audio import store
from pipeline.page import charts
from pipeline.page.choice import Choice, Place
from pipeline.page.columns import Glance
from pipeline.page.rows import indented, waveform
from schemas.arrow import SAMPLING_RATE
from schemas.conversation import Message, ToolCall, ToolSpec
from schemas.manifest import DatasetManifest, Leakage, SplitSummary
from schemas.sample import Mention, Provenance, Sample, Scores
from schemas.utterance import Delivery, Utterance
from tests.conftest import ROOT
from tests.examples import sound, tone

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
EVIL = "</script><script>window.ran = 1</script><img src=x onerror='window.ran = 1'><!-- & \u2028 \"'"
TOOL = ToolSpec(
    "set_timer",
    f"Sets a timer. {EVIL}",
    '{"type":"object","properties":{"minutes":{"type":"integer"},"label":{"type":"string"}},"required":["minutes"]}',
)
OUTCOMES = ("tool_call", "direct", "request_for_info", "cannot_answer")
LANGUAGES = {
    "en": "please set a timer for twenty minutes",
    "ru": "поставь таймер на двадцать минут",
    "ar": "اضبط المؤقت على عشرين دقيقة من فضلك",
}


def tool_query(number: int) -> Sample:
    """A sample with all that a tool query can have."""
    language = list(LANGUAGES)[number % 3]
    outcome = OUTCOMES[number % 7 % 4]
    said = LANGUAGES[language]
    utterance = Utterance(
        id=f"tools/{number}",
        corpus="tools",
        transcript=said.replace("twenty", "20"),
        spoken=said,
        hypothesis=said.replace("twenty", "plenty"),
        language=language,
        voice=f"{language}+{'fm'[number % 2]}{number % 4}",
        licence="CC0-1.0",
        speaker=f"tools/v{number % 5}",
        delivery=Delivery("espeak", "GPL-3.0", 1.1, 0.95),
        effects={"snr_db": f"{5 + number % 20}.0", "reverb": "small room"} if number % 2 else {},
        audio=sound(0.5 + number % 9 * 0.25, 180.0 + 11 * (number % 23)),
    )
    messages = [Message("system", "You help."), Message("user", "<|audio|>")]
    if outcome == "tool_call":
        call = ToolCall(f"call_{number}", "set_timer", '{"minutes":20,"number":12345678901234567890,"share":2.0}')
        messages += [
            Message("assistant", "", (call,)),
            Message("tool", '{"status":"running"}', tool_call_id=call.id),
            Message("assistant", "The timer runs."),
        ]
    else:
        messages += [Message("assistant", EVIL if number == 1 else "For how long?")]
    return Sample(
        id=f"tools/{number}:tool_grammar:0",
        utterances=(utterance,),
        split="train" if number % 5 else "test",
        task="tool_grammar",
        language=language,
        messages=tuple(messages),
        tools=(TOOL,),
        answer='[{"name":"set_timer","arguments":{"minutes":[20]}}]' if outcome == "tool_call" else "",
        outcome=outcome,
        situation="one_call" if outcome == "tool_call" else "mention",
        mentions=(Mention(0, "set_timer.minutes", "20"),) if language == "en" else (),
        scores=Scores(14.0, (number % 10) / 25, 0.05),
        provenance=Provenance(instruction="", engine="scripted", model="m", seed=3, attempts=1, reply='{"a":1}'),
    )


def question(number: int) -> Sample:
    """A row of another task, with two recordings."""
    both = tuple(
        Utterance(
            id=f"real/{number}{part}",
            corpus="real",
            transcript=f"sentence {number} {part} about café {EVIL if number == 0 else ''}",
            language="en",
            speaker=f"real/s{number % 3}",
            audio=sound(1.0, 300.0 + number % 7),
        )
        for part in "ab"
    )
    return Sample(
        id=f"real/{number}:compare:0",
        utterances=both,
        split="train",
        task="compare",
        language="en",
        messages=(
            Message("user", "First <|audio|> then <|audio|> Are they the same?"),
            Message("assistant", "No, they are not."),
        ),
        choices=("yes", "no"),
        answer="no",
        evidence="about café",
    )


def samples(count: int) -> list[Sample]:
    """Two kinds of rows, every sixth of which is set aside."""
    made = [question(i) if i % 4 == 0 else tool_query(i) for i in range(count)]
    for i in range(0, count, 6):
        aside = made[i].reject(("disagreement", "argument_not_heard", "too_long")[i // 6 % 3], f"found {i} {EVIL}")
        if i % 12 == 6:  # nothing could be made of it
            silent = tuple(replace(u, audio=None) for u in aside.utterances)
            aside = replace(aside, utterances=silent, messages=(), tools=(), task="")
        made[i] = aside
    return made


def written(folder: Path, rows: list[Sample], unit: int = 25, batch: int = 8) -> DatasetManifest:
    """Rows as a finished dataset, through the one writer that there is."""
    folder.mkdir()
    made = []
    for split in shards.SPLITS:
        of_split = [row for row in rows if row.split == split]
        for begin in range(0, len(of_split), unit):
            with shards.UnitWriter(folder, f"{begin:04d}", split, batch) as writer:
                for position, row in enumerate(of_split[begin : begin + unit]):
                    writer.add(replace(row, position=position))
                made.append(writer.finish("f", unit))
    total: dict[str, Counter[str]] = {}
    for name in ("reasons", "tasks", "languages", "licences"):
        total[name] = Counter()
        for manifest in made:
            total[name].update(getattr(manifest, name))
    manifest = DatasetManifest(
        name="voice <tools>",
        fingerprint="f",
        recipe={"name": "voice_tools", "description": f"Requests that are spoken. {EVIL}", "seed": 0},
        splits={
            split: SplitSummary(
                rows=sum(m.kept.rows for m in made if m.kept and m.split == split),
                utterances=sum(m.heard for m in made if m.split == split),
                seconds=sum(m.seconds for m in made if m.split == split),
                row_seconds=sum(m.row_seconds for m in made if m.split == split),
                speakers=5,
                shards=[m.kept for m in made if m.kept and m.split == split],
            )
            for split in shards.SPLITS
        },
        rejected=[m.rejected for m in made if m.rejected],
        planned_utterances=len(rows),
        rows_in=len(rows),
        **{name: dict(counts) for name, counts in total.items()},
        outcomes={},
        voices={},
        tasks_left_out=[],
        tokens={},
        cost=None,
        leakage=Leakage(speakers_in_both=[], recordings_in_both=[], instructions_in_both=[], queries_in_both=[]),
        speech_verified=True,
    )
    (folder / "dataset.json").write_text(manifest.model_dump_json())
    return manifest


class Parsed(HTMLParser):
    """A page as a browser's parser sees it."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.texts: list[str] = []
        self.style = ""
        self._in = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._in = tag
            if tag == "script":
                self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        if tag == self._in:
            self._in = ""

    def handle_data(self, data: str) -> None:
        if self._in == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif self._in == "style":
            self.style += data
        else:
            self.texts.append(data)

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(text) for attributes, text in self.scripts if attributes.get("class") == "row-data"]

    @property
    def sounds(self) -> dict[str, bytes]:
        return {a["id"]: base64.b64decode(t) for a, t in self.scripts if a.get("type") == "text/plain" and a["id"]}

    @property
    def script(self) -> str:
        (text,) = [text for attributes, text in self.scripts if "type" not in attributes]
        return text

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DatasetManifest]:
    folder = tmp_path_factory.mktemp("tools") / "d"
    return folder, written(folder, samples(120))


@pytest.fixture(scope="module")
def shown(dataset: tuple[Path, DatasetManifest], tmp_path_factory: pytest.TempPathFactory) -> tuple[page.Page, Parsed]:
    folder, manifest = dataset
    made = page.write(folder, manifest, tmp_path_factory.mktemp("page") / "page.html", rows=40, seed=1)
    return made, Parsed(made.path)


class TestContent:
    """What is on the page."""

    def test_the_head_says_what_the_dataset_is(self, dataset: Any, shown: Any) -> None:
        _, manifest = dataset
        text = shown[1].text
        assert "voice <tools>" in text
        assert f"{sum(s.rows for s in manifest.splits.values())} of 120" in text
        assert "CC0-1.0" in text
        assert "speech verified" in text
        assert "speech not verified" not in text

    def test_speech_that_nobody_has_heard_is_not_verified(self, dataset: Any, tmp_path: Path) -> None:
        folder, manifest = dataset
        unheard = manifest.model_copy(update={"speech_verified": False})
        made = page.write(folder, unheard, tmp_path / "p.html", rows=2)
        assert "speech not verified" in Parsed(made.path).text

    def test_every_figure_tells_its_values(self, dataset: Any, shown: Any) -> None:
        _, manifest = dataset
        told = {e[1]["aria-label"].split(":")[0]: e[1]["aria-label"] for e in shown[1].elements if e[0] == "svg"}
        wanted = "Durations, Word error rate, Tasks, Outcomes, Situations, Set aside, Splits, Languages, Voices, Noise"
        assert set(wanted.split(", ")) < told.keys()
        for name, count in manifest.reasons.items():
            assert f"{name} {count}" in told["Set aside"]
        for name, count in manifest.tasks.items():
            assert f"{name} {count}" in told["Tasks"]

    def test_figures_count_distinct_kept_utterances(self, dataset: Any, shown: Any) -> None:
        _, manifest = dataset
        (told,) = [e[1]["aria-label"] for e in shown[1].elements if e[0] == "svg" and "Durations" in e[1]["aria-label"]]
        assert sum(int(n) for n in re.findall(r": (\d+)(?:;|$)", told)) == sum(
            s.utterances for s in manifest.splits.values()
        )

    def test_each_kind_is_among_the_rows(self, shown: Any) -> None:
        made, parsed = shown
        assert made.rows == len(parsed.rows) == 40
        assert made.of == 120
        assert made.missing == []
        assert {row["outcome"] for row in parsed.rows} >= set(OUTCOMES)
        assert {row["language"] for row in parsed.rows} == set(LANGUAGES)
        assert {row["task"] for row in parsed.rows} >= {"compare", "tool_grammar"}
        assert {row["split"] for row in parsed.rows} == {"train", "test"}
        assert {row["rejected"] for row in parsed.rows} == {None, "disagreement", "argument_not_heard", "too_long"}

    def test_rows_are_those_of_the_dataset(self, dataset: Any, shown: Any) -> None:
        folder, manifest = dataset
        kept = [s for split in manifest.splits.values() for f in split.shards for s in shards.read(folder / f.path)]
        aside = [s for f in manifest.rejected for s in shards.read(folder / f.path)]
        sounds = shown[1].sounds
        for row in shown[1].rows:
            sample = (kept if row["rejected"] is None else aside)[row["number"]]
            assert row["id"] == sample.id
            assert [m["content"] for m in row["messages"] if m["role"] != "tool"] == [
                m.content for m in sample.messages if m.role != "tool"
            ]
            for speech, utterance in zip(row["speech"], sample.utterances, strict=True):
                assert speech["transcript"] == utterance.transcript
                if utterance.audio:
                    assert sounds[speech["sound"]] == utterance.audio.flac
                    assert soundfile.info(io.BytesIO(sounds[speech["sound"]])).samplerate == 16_000
                else:
                    assert speech["sound"] == ""

    def test_the_spoken_form_is_shown_where_it_differs(self, shown: Any) -> None:
        for row in shown[1].rows:
            for speech in row["speech"]:
                assert speech["spoken"] is None or speech["spoken"] != speech["transcript"]
        assert any(speech["spoken"] for row in shown[1].rows for speech in row["speech"])

    def test_only_rejected_rows(self, dataset: Any, tmp_path: Path) -> None:
        folder, manifest = dataset
        made = page.write(folder, manifest, tmp_path / "p.html", rejected=True)
        rows = Parsed(made.path).rows
        assert made.of == made.rows == 20
        assert all(row["rejected"] for row in rows)
        assert sorted(row["number"] for row in rows) == list(range(20))

    def test_too_few_rows_are_told_of(self, dataset: Any, tmp_path: Path) -> None:
        made = page.write(*dataset, tmp_path / "p.html", rows=2)
        assert made.rows == 2
        assert made.missing
        assert made.missing[0] in Parsed(made.path).text

    def test_a_dataset_without_rows(self, tmp_path: Path) -> None:
        manifest = written(tmp_path / "d", [])
        made = page.write(tmp_path / "d", manifest, tmp_path / "p.html")
        assert (made.rows, Parsed(made.path).rows) == (0, [])

    def test_json_is_indented_without_a_change(self) -> None:
        long = "words " * 12
        assert indented('{"a":12345678901234567890,"b":2.0}') == '{"a": 12345678901234567890, "b": 2.0}'
        assert indented(f'{{"a":[{{"b":"{long}"}},[1,2]]}}') == (
            f'{{\n  "a": [\n    {{\n      "b": "{long}"\n    }},\n    [1, 2]\n  ]\n}}'
        )
        assert indented('{"a":') == '{"a":'
        assert indented("[" * 100_000) == "[" * 100_000
        assert indented("1e400 is no JSON of ours") == "1e400 is no JSON of ours"
        assert indented('{"a":1e400}') == '{"a":1e400}'

    @given(st.recursive(st.integers() | st.text() | st.none(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)))
    def test_indented_json_says_the_same(self, value: Any) -> None:
        assert json.loads(indented(json.dumps([value]))) == [value]

    def test_a_waveform_shows_where_the_sound_is(self) -> None:
        levels = waveform(store(np.concatenate([tone(1.0), np.zeros(SAMPLING_RATE, np.float32)])))
        assert len(levels) == 120
        assert set(levels[:59]) <= set("mnopqrstuvwxyz")
        assert set(levels[61:]) == {"0"}
        assert set(waveform(store(np.zeros(SAMPLING_RATE, np.float32)))) == {"0"}


class TestChoice:
    """Which rows are drawn."""

    @staticmethod
    def glance(number: int, task: str, reason: str | None = None) -> Glance:
        return Glance(f"u{number}", task, "en", "train", "", "", reason, None, [])

    @given(
        st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from([None, None, "x", "y"])), max_size=60),
        st.integers(1, 30),
        st.integers(0, 5),
    )
    @settings(max_examples=200, deadline=None)
    def test_rows_are_distinct_and_as_many_as_there_can_be(
        self, rows: list[tuple[str, str | None]], wanted: int, seed: int
    ) -> None:
        choice = Choice(wanted, seed)
        for i, (task, reason) in enumerate(rows):
            choice.add(Place(int(reason is not None), i), self.glance(i, task, reason))
        places, missing = choice.chosen()
        assert len(set(places)) == len(places) == min(wanted, len(rows))
        assert places == sorted(places)
        there = {f"task {rows[p.row][0]}" for p in places} | {f"reason {rows[p.row][1]}" for p in places}
        everything = {f"task {t}" for t, _ in rows} | {f"reason {r}" for _, r in rows if r}
        assert everything - there == {m for m in missing if m.startswith(("task", "reason"))}
        if wanted >= len(everything) + 2:  # with language and split
            assert not missing

    def test_rare_kinds_are_found_in_many_rows(self) -> None:
        choice = Choice(10, 0)
        for i in range(5000):
            choice.add(Place(0, i), self.glance(i, "rare" if i == 4321 else "frequent"))
        places, missing = choice.chosen()
        assert Place(0, 4321) in places
        assert missing == []

    def test_another_seed_draws_others(self) -> None:
        def drawn(seed: int) -> list[Place]:
            choice = Choice(10, seed)
            for i in range(500):
                choice.add(Place(0, i), self.glance(i, "t"))
            return choice.chosen()[0]

        assert drawn(1) == drawn(1) != drawn(2)

    def test_a_third_is_set_aside_where_there_are_many(self) -> None:
        choice = Choice(30, 0)
        for i in range(600):
            choice.add(Place(i % 2, i), self.glance(i, "t", "x" if i % 2 else None))
        assert sum(place.file for place in choice.chosen()[0]) == 10


class TestCharts:
    """The figures' geometry."""

    @given(st.lists(st.floats(0, 4000), min_size=1, max_size=200))
    @settings(max_examples=200, deadline=None)
    def test_a_histogram_counts_every_number_within_its_frame(self, values: list[float]) -> None:
        counted = charts.Distribution(0.1)
        for value in values:
            counted.add(value)
        chart = counted.histogram("t", "", (0.1, 1.0, 10.0, 100.0, 1000.0), " s")
        assert chart is not None
        assert sum(int(box.told.rsplit(" ", 1)[1].replace("\u202f", "")) for box in chart.boxes) == len(values)
        for box in chart.boxes:
            assert box.x >= 0
            assert box.x + box.width <= charts.WIDTH
            assert box.y >= 0
            assert box.y + box.height <= chart.height

    def test_an_outlier_does_not_flatten_the_rest(self) -> None:
        counted = charts.Distribution(0.1)
        for i in range(999):
            counted.add(1 + i % 40 / 10)
        counted.add(3000.0)
        chart = counted.histogram("t", "", (0.1, 0.2, 0.5, 1.0, 10.0, 1000.0), " s")
        assert chart is not None
        assert len(chart.boxes) == 8
        assert chart.boxes[-1].told == "4.5 s and more: 125"

    def test_quantiles(self) -> None:
        counted = charts.Distribution(0.1)
        for i in range(101):
            counted.add(i / 10)
        assert counted.quantile(0.5) == pytest.approx(5.0)
        assert counted.quantile(0.95) == pytest.approx(9.5)

    def test_kept_and_rejected_are_stacked(self) -> None:
        counted = charts.Distribution(0.01)
        counted.add(0.1)
        counted.add(0.1, rejected=True)
        chart = counted.histogram("t", "", (0.1,), " %", scale=100)
        assert chart is not None
        assert chart.legend
        below, above = chart.boxes
        assert above.y + above.height == pytest.approx(below.y)

    def test_many_names_are_cut_and_told_of(self) -> None:
        chart = charts.bars("Voices", {f"voice {i}": i for i in range(1, 31)}, "utterances")
        assert chart is not None
        assert len(chart.boxes) == 11
        assert "19 more names with 190" in chart.note
        assert charts.bars("none", {}, "") is None


class TestSafety:
    """Nothing of the data is markup, nothing is fetched."""

    def test_the_data_adds_no_element(self, shown: Any) -> None:
        _, parsed = shown
        assert not [e for e in parsed.elements if e[0] == "img"]
        assert not [name for _, attributes in parsed.elements for name in attributes if name.startswith("on")]
        assert len([a for a, _ in parsed.scripts if "type" not in a]) == 1
        rows = [text for attributes, text in parsed.scripts if attributes.get("class") == "row-data"]
        assert not re.search(r"[<>&\u2028\u2029]", "".join(rows))
        assert any(EVIL in json.dumps(row, ensure_ascii=False).replace('\\"', '"') for row in parsed.rows)
        assert EVIL.split("\u2028")[0] in "".join(parsed.texts), "the description is there, as text"

    @given(st.text())
    def test_any_text_survives_its_script(self, text: str) -> None:
        safe = page.in_script({"text": text})
        assert not re.search(r"[<>&\u2028\u2029]", safe)
        assert json.loads(safe) == {"text": text}

    def test_nothing_is_fetched(self, shown: Any) -> None:
        _, parsed = shown
        links = [a[name] for _, a in parsed.elements for name in ("src", "href", "srcset", "action") if name in a]
        assert all(link.startswith("data:") for link in links)
        assert not [e for e in parsed.elements if e[0] in ("base", "iframe", "object", "embed", "form", "a")]
        assert "url(" not in parsed.style
        assert "@import" not in parsed.style
        assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|EventSource|sendBeacon|import)\b", parsed.script)
        assert "innerHTML" not in parsed.script

    def test_the_policy_allows_this_script_and_style_alone(self, shown: Any) -> None:
        _, parsed = shown
        (policy,) = [a["content"] for _, a in parsed.elements if a.get("http-equiv") == "Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; ")
        for text in (parsed.script, parsed.style):
            assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert not [a for _, a in parsed.elements if "style" in a], "the policy would drop it"


class TestFile:
    """The file itself."""

    def test_equal_arguments_give_equal_bytes(self, dataset: Any, shown: Any, tmp_path: Path) -> None:
        made = shown[0]
        again = page.write(*dataset, tmp_path / "p.html", rows=40, seed=1)
        assert again.path.read_bytes() == made.path.read_bytes()
        other = page.write(*dataset, tmp_path / "o.html", rows=40, seed=2)
        assert [r["id"] for r in Parsed(other.path).rows] != [r["id"] for r in Parsed(made.path).rows]

    def test_sound_is_bounded(self, dataset: Any, tmp_path: Path) -> None:
        made = page.write(*dataset, tmp_path / "p.html", rows=40, sound_bytes=200_000)
        parsed = Parsed(made.path)
        assert 100_000 < sum(map(len, parsed.sounds.values())) <= 200_000
        assert made.silent == sum(s["seconds"] is not None and not s["sound"] for r in parsed.rows for s in r["speech"])
        assert made.silent > 0
        assert made.bytes == made.path.stat().st_size

    def test_memory_does_not_hold_the_sound(self, tmp_path: Path) -> None:
        long = [
            replace(question(i), utterances=(replace(u, audio=sound(20.0)),) * 2)
            for i in range(24)
            for u in question(i).utterances[:1]
        ]
        folder = tmp_path / "d"
        manifest = written(folder, long)
        size = sum(f.bytes for s in manifest.splits.values() for f in s.shards)
        page.write(folder, manifest, tmp_path / "warm.html", rows=1)
        tracemalloc.start()
        made = page.write(folder, manifest, tmp_path / "p.html", rows=24)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert made.silent == 0
        assert made.bytes > size
        assert peak < made.bytes / 2

    def test_a_page_that_fails_leaves_nothing(self, dataset: Any, tmp_path: Path) -> None:
        (tmp_path / "taken").mkdir()
        with pytest.raises(shards.DiskError):
            page.write(*dataset, tmp_path / "taken", rows=2)
        assert [p.name for p in tmp_path.iterdir()] == ["taken"]


class TestCommand:
    """`earwitness inspect --html`."""

    @staticmethod
    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pipeline.cli", "inspect", *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)

    def test_it_says_rows_and_size(self, dataset: Any, tmp_path: Path) -> None:
        done = self.run(dataset[0], "--html", tmp_path / "p.html", "--rows", 30, "--seed", 4)
        assert done.returncode == 0, done.stderr
        assert re.search(r"30 of 120 rows, \d+\.\d MB", " ".join(done.stdout.split()))
        assert len(Parsed(tmp_path / "p.html").rows) == 30

    def test_one_row_and_a_page_are_not_asked_for_together(self, dataset: Any, tmp_path: Path) -> None:
        done = self.run(dataset[0], "--html", tmp_path / "p.html", "--row", 3)
        assert done.returncode == 2
        assert "--rows" in done.stderr
        assert not (tmp_path / "p.html").exists()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no chromium on this machine (apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--mute-audio"])
        yield started
        started.close()


@pytest.fixture
def opened(browser: Any, shown: Any) -> Iterator[Any]:
    """The page in a browser; whatever it asks for beside itself, and whatever goes wrong in it, fails the test."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    context.set_default_timeout(10_000)
    tab = context.new_page()
    asked: list[str] = []
    wrong: list[str] = []
    # Not routed: a route would also take what the policy should have stopped before.
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    tab.goto(shown[0].path.as_uri())
    yield tab
    tab.wait_for_timeout(50)
    context.close()
    assert [url for url in asked if not url.startswith(("file://", "data:"))] == []
    assert wrong == []


@pytest.mark.long
@pytest.mark.xdist_group("browser")
class TestBrowser:
    """The page in headless Chromium."""

    @staticmethod
    def rows_shown(tab: Any) -> int:
        return int(tab.locator("article.row:visible").count())

    def test_all_rows_are_there_and_nothing_has_run(self, opened: Any) -> None:
        assert self.rows_shown(opened) == 40
        assert opened.locator("#count").inner_text() == "40 of 40 rows shown"
        assert opened.evaluate("window.ran") is None
        assert opened.locator("img").count() == 0
        assert EVIL in opened.locator("#rows").text_content(), "it is shown as it is"

    def test_sound_plays_and_one_at_a_time(self, opened: Any) -> None:
        players = opened.locator(".player")
        for number in (0, 1):
            players.nth(number).locator(".play").click()
            opened.wait_for_function(
                "n => { const a = document.querySelectorAll('audio')[n];"
                " return Number.isFinite(a.duration) && a.currentTime > 0; }",
                arg=number,
            )
        first, second = (opened.evaluate(f"document.querySelectorAll('audio')[{n}].paused") for n in (0, 1))
        assert first
        assert not second or opened.evaluate("document.querySelectorAll('audio')[1].ended")

    def test_every_sound_has_its_length(self, opened: Any) -> None:
        lengths = opened.evaluate(
            """() => Promise.all(Array.from(document.querySelectorAll('script[id^=sound-]'), (node) =>
                 new Promise((done, failed) => {
                   const audio = new Audio(`data:audio/flac;base64,${node.textContent}`);
                   audio.onloadedmetadata = () => done(audio.duration);
                   audio.onerror = () => failed(node.id);
                 })))"""
        )
        said = opened.evaluate(
            "() => Array.from(document.querySelectorAll('script.row-data'), n => JSON.parse(n.textContent))"
            ".flatMap(r => r.speech).filter(s => s.sound).map(s => s.seconds)"
        )
        assert lengths == pytest.approx(said, abs=0.02)

    def test_the_player_obeys_keys(self, opened: Any) -> None:
        slider = opened.locator(".wave").first
        slider.focus()
        opened.keyboard.press("End")
        opened.wait_for_function(
            "() => { const a = document.querySelector('audio'); return a.currentTime > 0.9 * a.duration; }"
        )
        opened.keyboard.press("Home")
        opened.wait_for_function("() => document.querySelector('audio').currentTime === 0")
        opened.keyboard.press("Enter")
        opened.wait_for_function("() => document.querySelector('audio').currentTime > 0")

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("task", "compare"),
            ("language", "ar"),
            ("split", "test"),
            ("outcome", "request_for_info"),
            ("situation", "mention"),
            ("voice", "ru+m3"),
            ("state", "kept"),
            ("state", "set aside"),
            ("state", "set aside: too_long"),
        ],
    )
    def test_filters(self, opened: Any, shown: Any, name: str, value: str) -> None:
        def fits(row: dict[str, Any]) -> bool:
            if name == "voice":
                return any(speech["voice"] == value for speech in row["speech"])
            if name == "state":
                state = "kept" if row["rejected"] is None else f"set aside: {row['rejected']}"
                return state == value or (value == "set aside" and state != "kept")
            return bool(row[name] == value)

        wanted = sum(map(fits, shown[1].rows))
        assert 0 < wanted < 40
        opened.locator(f"select[data-filter={name}]").select_option(value)
        assert self.rows_shown(opened) == wanted
        assert opened.locator("#count").inner_text() == f"{wanted} of 40 rows shown"
        opened.locator("#reset").click()
        assert self.rows_shown(opened) == 40

    def test_search(self, opened: Any, shown: Any) -> None:
        opened.locator("#search").fill("таймер ДВАДЦАТЬ")
        assert self.rows_shown(opened) == sum(row["language"] == "ru" and bool(row["speech"]) for row in shown[1].rows)
        opened.locator("#search").fill("no such words anywhere")
        assert self.rows_shown(opened) == 0
        assert opened.locator("#nothing").is_visible()

    def test_placeholders_become_players_in_their_places(self, opened: Any) -> None:
        opened.locator("select[data-filter=task]").select_option("compare")
        opened.locator("select[data-filter=state]").select_option("kept")
        said = opened.locator("article.row:visible .turn.user .said").first
        kinds = said.evaluate("node => Array.from(node.children, child => child.className)")
        assert kinds == ["words", "utterance", "words", "utterance", "words"]
        assert "<|audio|>" not in said.text_content()

    def test_calls_results_and_tools(self, opened: Any) -> None:
        opened.locator("select[data-filter=outcome]").select_option("tool_call")
        row = opened.locator("article.row:visible").first
        assert row.locator(".call code").text_content() == "set_timer"
        assert "12345678901234567890" in row.locator(".call pre").text_content()
        assert '"status": "running"' in row.locator(".turn.tool pre").text_content()
        assert not row.locator(".offer").is_visible()
        row.locator(".tools summary").first.click()
        assert row.locator(".offer").is_visible()

    def test_what_was_heard_is_compared_with_what_was_said(self, opened: Any) -> None:
        opened.locator("select[data-filter=language]").select_option("en")
        opened.locator("select[data-filter=task]").select_option("tool_grammar")
        row = opened.locator("article.row:visible").first
        assert row.locator(".heard em").all_text_contents() == ["plenty"]
        assert row.locator("mark").first.text_content() == "20"

    def test_right_to_left_texts_run_so(self, opened: Any) -> None:
        opened.locator("select[data-filter=language]").select_option("ar")
        said = opened.locator("article.row:visible .utterance dd [dir=auto]").first
        assert said.evaluate("node => getComputedStyle(node).direction") == "rtl"

    @pytest.mark.parametrize("width", [320, 400, 768, 1400])
    def test_nothing_runs_over_the_edge(self, opened: Any, width: int) -> None:
        opened.set_viewport_size({"width": width, "height": 800})
        assert opened.evaluate("document.documentElement.scrollWidth") <= width

    def test_the_policy_stops_what_is_slipped_in(self, browser: Any, shown: Any) -> None:
        tab = browser.new_page()
        tab.goto(shown[0].path.as_uri())
        blocked = tab.evaluate(
            """() => new Promise((done) => {
                 document.addEventListener('securitypolicyviolation', (event) => done(event.effectiveDirective));
                 const script = document.createElement('script');
                 script.textContent = 'window.ran = 1';
                 document.body.append(script);
               })"""
        )
        assert blocked.startswith("script-src")
        assert tab.evaluate("window.ran") is None
        told = "document.addEventListener('securitypolicyviolation', (event) => done(event.effectiveDirective))"
        blocked = tab.evaluate(
            f"() => new Promise((done) => {{ {told}; fetch('http://127.0.0.1:9/').catch(() => null); }})"
        )
        assert blocked == "connect-src"
        tab.close()

"""A whole evaluation of a tiny model: the same rows for all systems, going on after a kill, and the report."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from msgspec.structs import replace
from typer.testing import CliRunner

from pipeline.asr.scripted import Scripted
from pipeline.audio import samples_of
from pipeline.evaluate import asking, command, joint, report, run, systems
from pipeline.evaluate.asking import Asker
from pipeline.evaluate.command import engine
from pipeline.evaluate.errors import EvaluationError, Locked
from pipeline.evaluate.predictions import Prediction, Predictions
from pipeline.evaluate.questions import Questions, Settings
from pipeline.evaluate.results import Result
from pipeline.evaluate.systems import Cascade, Oracle, Pool, Shuffled, Silent, TextOnly
from pipeline.model.base import SpeechLM
from pipeline.recipes import RecipeError
from pipeline.text import normalise
from pipeline.tools.turns import Turn, turns
from schemas.conversation import AUDIO_PLACEHOLDER, Message
from schemas.sample import Sample
from tests.conftest import ROOT
from tests.evaluate.rows import row
from tests.examples import sound, utterance

pytestmark = pytest.mark.long

EVERY = ("end_to_end", "cascade", "oracle", "reading", "shuffled", "silent", "text_only")


@pytest.fixture(scope="module")
def table(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the scripted recogniser hears in the dataset: all but the last words."""
    path = tmp_path_factory.mktemp("heard") / "heard.jsonl"
    questions = Questions.read(dataset, Settings())
    with open(path, "w") as file:
        for place in dict.fromkeys(questions.place.values()):
            for spoken in questions.rows[place].utterances:
                heard = " ".join(spoken.transcript.split()[:-1])
                file.write(json.dumps({"digest": spoken.audio.digest, "text": heard}) + "\n")
    return path


@pytest.fixture(scope="module")
def settings(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    questions = tmp_path_factory.mktemp("mmlu") / "gases.jsonl"
    lines = ({"question": f"Which is {n}?", "choices": ["O2", "CO2", "N2"], "answer": n % 3} for n in range(3))
    questions.write_text("\n".join(map(json.dumps, lines)))
    return Settings(
        systems=EVERY,
        decodings=("plain", "constrained", "joint"),
        asr=Scripted(file=str(table)),
        limit=9,
        questions=questions,
        most_tokens=12,
        at_once=8,
        timed=1,
    )


@pytest.fixture(scope="module")
def evaluated(
    model: Path, dataset: Path, lm: SpeechLM, settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("evaluation")
    return out, run.evaluate(model, dataset, out, settings, loaded=lm)


def nothing_closed(_: Turn) -> tuple[str, ...]:
    return ()


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]


def test_all_systems_answer_the_same_rows(evaluated: tuple[Path, Result], dataset: Path) -> None:
    out, result = evaluated
    assert [(r.system, r.decoding) for r in result.runs] == [
        ("end_to_end", "plain"),
        ("end_to_end", "constrained"),
        ("end_to_end", "joint"),
        *((name, "plain") for name in EVERY[1:]),
    ]
    assert (result.rows, result.bad) == (12, [])
    plain = [r for r in result.runs if r.decoding == "plain" and r.system != "text_only"]
    assert {r.answers for r in plain} == {result.turns}
    families = plain[0].families.keys()
    assert {"tools", "multiple_choice"} <= families
    assert len(families) >= 4
    for other in plain[1:]:
        assert {
            f: [x.count for x in figures if x.name == other.headlines[f]] for f, figures in other.families.items()
        } == {f: [x.count for x in figures if x.name == other.headlines[f]] for f, figures in plain[0].families.items()}
    written = json.loads((out / "result.json").read_text())
    assert written["turns"] == result.turns
    assert all("/" in f["protocol"] for r in written["runs"] for own in r["families"].values() for f in own)
    asked = Counter((line["system"], line["decoding"]) for line in lines(out))
    spoken = [turn for turn in Questions.read(dataset, Settings(limit=9)).turns if turn.speaks]
    assert asked["end_to_end", "hearing"] == sum(turn.concerns_tools for turn in spoken) > 0
    assert asked["end_to_end", "joint"] == sum(turn.sample.task != "transcription" for turn in spoken)
    assert asked["end_to_end", "plain"] == result.turns


def test_constrained_answers_are_valid_and_the_others_are_measured_too(evaluated: tuple[Path, Result]) -> None:
    _, result = evaluated
    constrained = result.run("end_to_end", "constrained")
    assert constrained is not None
    assert constrained.figure("multiple_choice", "parse_failures").value == 0.0
    assert constrained.figure("keyword_spotting", "unnamed").value == 0.0
    assert constrained.figure("tools", "invalid").value in (0.0, None)
    assert constrained.figure("tools", "unreadable").value == 0.0
    assert "transcription" not in constrained.families, "there is nothing to constrain"
    plain = result.run("end_to_end")
    assert plain.figure("multiple_choice", "parse_failures").value > 0.5, "this model says anything"
    assert plain.figure("multiple_choice", "accuracy_by_likelihood").count == 3
    assert result.run("end_to_end", "joint").figure("joint form", "failures").value == 1.0


def test_the_cascade_hears_and_says_so(evaluated: tuple[Path, Result]) -> None:
    _, result = evaluated
    cascade = result.run("cascade")
    query = cascade.figure("tools", "query_wer")
    assert 0.05 < query.value < 0.6, "the recogniser leaves out each last word"
    assert result.run("oracle").figure("tools", "query_wer") is None
    assert result.run("end_to_end").figure("tools", "query_wer").value > 0.5, "it was asked to write the queries down"
    assert {r.system for r in result.runs if r.latency} == {"end_to_end", "cascade", "oracle", "reading"}
    timed = result.run("end_to_end").latency
    assert 0 < timed.first <= timed.median <= timed.p90


def test_a_rerun_asks_nothing_and_says_the_same(
    evaluated: tuple[Path, Result],
    model: Path,
    dataset: Path,
    lm: SpeechLM,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, result = evaluated
    before = (out / "predictions.jsonl").read_bytes()
    monkeypatch.setattr(Asker, "ask", _never)
    monkeypatch.setattr(Asker, "time", _never)
    again = run.evaluate(model, dataset, out, settings, loaded=lm)
    assert (out / "predictions.jsonl").read_bytes() == before
    assert [r.families for r in again.runs] == [r.families for r in result.runs]


def _never(*_: object) -> None:
    raise AssertionError("this was asked before")


def test_a_killed_run_asks_only_what_is_missing(
    evaluated: tuple[Path, Result], model: Path, dataset: Path, lm: SpeechLM, tmp_path: Path
) -> None:
    few = Settings(systems=("end_to_end",), limit=9, most_tokens=12, at_once=2, timed=0)
    out = tmp_path / "out"

    class Killed(Exception):
        pass

    def kill(what: str, done: int, of: int) -> None:
        if done >= 4:
            raise Killed

    with pytest.raises(Killed):
        run.evaluate(model, dataset, out, few, loaded=lm, progress=kill)
    kept = lines(out)
    assert len(kept) == 4
    with open(out / "predictions.jsonl", "ab") as file:
        file.write(b'{"key": "cut off in the mid')
    run.evaluate(model, dataset, out, few, loaded=lm)
    every = lines(out)
    assert every[:4] == kept
    assert len({(line["decoding"], line["turn"]) for line in every}) == len(every), "nothing was asked twice"
    # In batches of another size and order, the same model says the same.
    undisturbed = {
        line["turn"]: line
        for line in lines(evaluated[0])
        if (line["system"], line["decoding"]) == ("end_to_end", "plain")
    }
    mine = {line["turn"]: line for line in every if line["decoding"] == "plain"}
    assert {turn: line.get("output") for turn, line in mine.items()} == {
        turn: undisturbed[turn].get("output") for turn in mine
    }
    assert {line["key"] for line in mine.values()} == {line["key"] for line in undisturbed.values()}


def test_other_settings_are_other_answers(model: Path, dataset: Path, lm: SpeechLM, tmp_path: Path) -> None:
    few = {"systems": ("oracle",), "limit": 2, "timed": 0, "tasks": ("transcription",)}
    run.evaluate(model, dataset, tmp_path, Settings(most_tokens=3, **few), loaded=lm)
    run.evaluate(model, dataset, tmp_path, Settings(most_tokens=4, **few), loaded=lm)
    assert len({line["key"] for line in lines(tmp_path)}) == 2
    assert len(lines(tmp_path)) == 4


def test_other_questions_are_timed_anew(model: Path, dataset: Path, lm: SpeechLM, tmp_path: Path) -> None:
    for task in ("transcription", "keyword_spotting"):
        few = Settings(systems=("oracle",), limit=2, most_tokens=3, timed=1, tasks=(task,))
        run.evaluate(model, dataset, tmp_path, few, loaded=lm)
    assert len(json.loads((tmp_path / "latency.json").read_text())) == 2


def test_a_row_that_cannot_be_asked_is_named_and_left_out_for_all(
    model: Path, dataset: Path, lm: SpeechLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lm, "longest", 120)
    few = Settings(systems=("end_to_end", "oracle"), limit=12, most_tokens=4, timed=0)
    result = run.evaluate(model, dataset, tmp_path, few, loaded=lm)
    assert result.bad
    assert all("positions" in why and "the model allows 120" in why for _, why in result.bad)
    assert result.runs[0].answers == result.runs[1].answers == result.turns
    page = report.write(result, tmp_path).read_text()
    assert result.bad[0][0] in page


# Systems


def test_views_of_a_sample() -> None:
    sample = replace(
        row("word_question", "stew", said="there is stew"),
        utterances=(utterance("there is stew", id="c/1", audio=sound(1.25)),),
    )
    (silent,) = Silent().views([sample])
    heard = silent.sample.utterances[0].audio
    assert heard.seconds == 1.25
    assert not samples_of(heard).any()
    (bare,) = TextOnly().views([sample])
    assert bare.sample.messages[0].content == "Well?"
    assert (bare.sample.utterances, bare.absent) == ((), "")
    asked_by_voice = replace(sample, messages=(Message("user", AUDIO_PLACEHOLDER), sample.messages[1]))
    assert TextOnly().views([asked_by_voice])[0].absent


def test_shuffled_speech_says_something_else() -> None:
    samples = [
        replace(
            row("repeat", text, name=f"c/{n}"), utterances=(utterance(text, id=f"c/{n}", audio=sound(0.5 + n / 10)),)
        )
        for n, text in enumerate(["one", "two", "one", "three", "Two."])
    ]
    pool = Pool([(n, 0, s.utterances[0].transcript) for n, s in enumerate(samples)], samples.__getitem__)
    views = Shuffled(pool).views(samples)
    for sample, view in zip(samples, views, strict=True):
        assert normalise(view.sample.utterances[0].transcript) != normalise(sample.transcript)
    same = Pool([(0, 0, "one"), (2, 0, "one")], samples.__getitem__)
    with pytest.raises(Exception, match="every row says the same"):
        Shuffled(same).views(samples[:1])


def test_the_cascade_reads_what_was_heard_and_listens_once(table: Path, dataset: Path) -> None:
    listened: list[int] = []

    class Counting(Scripted):
        is_plugin = False

        def transcribe(self, clips: Sequence[Any], *rest: Any, **more: Any) -> Any:
            listened.append(len(clips))
            return super().transcribe(clips, *rest, **more)

    questions = Questions.read(dataset, Settings(tasks=("tool_grammar",)))
    samples = [questions.with_sound(turn).sample for turn in questions.turns]
    views = Cascade(Counting(file=str(table))).views(samples)
    assert sum(listened) == len({u.audio.digest for s in samples for u in s.utterances})
    first = views[0].sample.utterances[0]
    assert samples[0].utterances[0].transcript.startswith(first.transcript)
    assert first.transcript == views[0].heard[0] != samples[0].utterances[0].transcript
    failing = Cascade(Scripted(file=str(table), faults=1.0)).views(samples[:1])
    assert failing[0].heard[0] == "", "a failure of the engine is one of the cascade"


def test_the_oracle_reads_without_lora(lm: SpeechLM, dataset: Path) -> None:
    questions = Questions.read(dataset, Settings(tasks=("word_question",), limit=3))
    asker = Asker(lm, nothing_closed, 12)
    some = [questions.with_sound(turn) for turn in questions.turns]
    oracle, reading = Oracle(), systems.Reading()
    with lm.without_lora():
        batch = lm.collate([lm.encode(t.sample, hear=False, answer=False) for t in some], left=True)
        expected = [lm.text(ids) for ids in lm.generate(batch, most_tokens=12)]
    assert [a.output for a in asker.ask(oracle, "plain", some)] == expected
    assert [a.output for a in asker.ask(reading, "plain", some)] != expected


def test_memory_that_is_short_halves_the_batch(lm: SpeechLM, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    questions = Questions.read(dataset, Settings(tasks=("word_question",), limit=4))
    asker, whole = Asker(lm, nothing_closed, 4), []
    honest = Asker._answers

    def greedy(self: Asker, ready: Sequence[Any], decoding: str) -> Any:
        whole.append(len(ready))
        if len(ready) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return honest(self, ready, decoding)

    expected = asker.ask(Oracle(), "plain", questions.turns)
    monkeypatch.setattr(Asker, "_answers", greedy)
    assert asker.ask(Oracle(), "plain", questions.turns) == expected
    assert whole == [4, 2, 1, 1, 2, 1, 1]


def test_letters_are_scored_by_their_likelihood(lm: SpeechLM) -> None:
    import torch

    sample = replace(row("multiple_choice", "B", choices=("x", "y", "z")), utterances=())
    sample = replace(sample, messages=(Message("user", "Which one?"), Message("assistant", "B")))
    longer = replace(
        sample, id="c/2", messages=(Message("user", "Which one of these three, please?"), sample.messages[1])
    )
    both = Asker(lm, nothing_closed, 2).ask(systems.Reading(), "plain", [Turn(sample, 0, True), Turn(longer, 0, True)])
    for asked, answer in zip((sample, longer), both, strict=True):
        right = []
        for letter in "ABC":
            whole = lm.encode(replace(asked, messages=(asked.messages[0], Message("assistant", letter))), hear=False)
            place = int(np.flatnonzero(whole.targets)[0])
            with torch.inference_mode():
                logits = lm.head()(lm.states(lm.collate([whole]))[0, place - 1])
            right.append(float(torch.log_softmax(logits, -1)[int(whole.ids[place])]))
        assert answer.letters == pytest.approx(right, abs=1e-4)


def test_what_a_query_is_asked_for_hearing() -> None:
    sample = replace(row("tool_grammar", "[]", said="turn left"), outcome="direct")
    asked = asking.hearing(sample)
    assert asked.task == "transcription"
    assert asked.messages[0].content.startswith(AUDIO_PLACEHOLDER)
    assert "Write out this recording" in asked.messages[0].content
    assert joint.asked(sample) is not None


# What can be wrong


def test_mistakes_are_told_of(model: Path, dataset: Path, lm: SpeechLM, tmp_path: Path) -> None:
    def message(settings: Settings, error: type[Exception] = EvaluationError) -> str:
        with pytest.raises(error) as caught:
            run.evaluate(model, dataset, tmp_path / "x", settings, loaded=lm)
        return str(caught.value)

    assert "no system 'end-to-end'. Did you mean 'end_to_end'?" in message(Settings(systems=("end-to-end",)))
    assert "needs an ASR engine" in message(Settings(systems=("cascade",)))
    assert "no decoding 'constraint'. Did you mean 'constrained'?" in message(Settings(decodings=("constraint",)))
    assert "no row is of the tasks sing; there are: keyword_spotting" in message(Settings(tasks=("sing",)))
    with Predictions(tmp_path / "x").writing(), pytest.raises(Locked, match="another run evaluates into"):
        run.evaluate(model, dataset, tmp_path / "x", Settings(limit=1), loaded=lm)
    (tmp_path / "x" / "predictions.jsonl").write_text("no json\n")
    with pytest.raises(Locked, match=r"predictions\.jsonl:1 is no prediction"):
        run.evaluate(model, dataset, tmp_path / "x", Settings(limit=1), loaded=lm)


def test_an_engine_by_name_or_by_file(tmp_path: Path, table: Path) -> None:
    assert engine("transformers:openai/whisper-tiny").model == "openai/whisper-tiny"
    shutil.copy(table, tmp_path / "heard.jsonl")
    path = tmp_path / "ears.yaml"
    path.write_text("name: x\nasr:\n  engine: scripted\n  file: heard.jsonl\n")
    assert Path(engine(str(path)).file) == tmp_path / "heard.jsonl"
    path.write_text("asr:\n  engine: scripted\n  fil: heard.jsonl\n")
    with pytest.raises(RecipeError, match=r"ears\.yaml:3: asr\.fil: unknown key"):
        engine(str(path))
    with pytest.raises(EvaluationError, match="ENGINE:MODEL is expected"):
        engine("whisper")
    with pytest.raises(EvaluationError, match="whisperx"):
        engine("whisperx:tiny")


def test_the_command_says_what_it_found(model: Path, dataset: Path, tmp_path: Path, table: Path) -> None:
    app = typer.Typer()
    app.command()(command.evaluate)
    (tmp_path / "asr.yaml").write_text(f"engine: scripted\nfile: {table}\n")
    options = f"--out {tmp_path / 'e'} --limit 2 --most-tokens 4 --timed 0 --asr {tmp_path / 'asr.yaml'} --device cpu"
    done = CliRunner().invoke(app, [str(model), str(dataset), *options.split()], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert "cascade" in done.output
    assert "Cascade and oracle read with LoRA off" in done.output
    assert (tmp_path / "e" / "report.html").is_file()


def test_the_command_starts_without_torch() -> None:
    code = "import sys, pipeline.evaluate.command; assert not {'torch', 'transformers'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


# Report


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        if tag not in ("meta", "link", "circle", "line", "rect", "polyline"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("meta", "link", "circle", "line", "rect", "polyline"):
            assert self.open.pop() == tag


def test_the_report_says_all_and_fetches_nothing(evaluated: tuple[Path, Result], tmp_path: Path) -> None:
    _, result = evaluated
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    told = [{"kind": "stage", "stage": "adapter", "number": 0, "overall": 0}]
    told += [{"kind": "step", "stage": "adapter", "step": n, "overall": n, "loss": 3 / n} for n in range(1, 9)]
    told += [
        {
            "kind": "validation",
            "stage": "adapter",
            "step": n,
            "overall": n,
            "losses": {"loss": 2 / n},
            "figures": {"wer": 1 / n},
        }
        for n in (4, 8)
    ]
    (run_folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in told))
    page = report.write(result, tmp_path, run_folder).read_text()
    parsed = _Page()
    parsed.feed(page)
    assert parsed.open == []
    assert parsed.tags["svg"] >= 5
    assert all(place.startswith("data:") for place in re.findall(r'(?:src|href)="([^"]*)', page))
    assert "<script" not in page
    text = (tmp_path / "report.md").read_text()
    for said in ("same LLM reads the true transcript; LoRA off", result.llm, "tool-ast/earwitness-1", "By situation"):
        assert said in page
        assert said in text
    drawn = {path.stem for path in (tmp_path / "figures").glob("*.svg")}
    assert {"systems", "outcomes-end_to_end", "loss", "decoded", "duration-answers"} <= drawn
    assert all(f"figures/{name}.svg" in text for name in drawn)


def test_a_browser_shows_the_page_on_wide_and_narrow_screens(evaluated: tuple[Path, Result], tmp_path: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("there is no chromium on this machine (apt-get install chromium)")
    page = report.write(evaluated[1], tmp_path)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for width in (1280, 380):
            view, complaints = browser.new_page(viewport={"width": width, "height": 900}), []
            view.on("console", lambda message, found=complaints: found.append(message.text))
            view.goto(page.as_uri())
            assert view.evaluate("document.documentElement.scrollWidth") <= width
            assert view.locator("svg").first.bounding_box()["height"] > 50
            assert complaints == [], "its own policy allows all that is in it"
        browser.close()


def test_what_comes_from_rows_is_never_markup(evaluated: tuple[Path, Result], tmp_path: Path) -> None:
    evil = "</svg><script>alert(1)</script>"
    _, result = evaluated
    changed = Result(
        **{name: getattr(result, name) for name in Result.__slots__}
        | {"bad": [(evil, evil)], "model": evil, "counts": {"tasks": {evil: 1}}}
    )
    assert "<script" not in report.write(changed, tmp_path).read_text()


def test_predictions_are_kept_line_by_line(tmp_path: Path) -> None:
    kept = Predictions(tmp_path)
    one = Prediction("k", "a#0", "end_to_end", "plain", "ж\n", heard=("x",), letters=(-1.5, -2.0))
    kept.add([one])
    assert Predictions(tmp_path).get("k", "a#0") == one
    assert Predictions(tmp_path).get("other", "a#0") is None


def test_a_sample_is_cut_with_its_utterances() -> None:
    dialogue = Sample(
        "d",
        (utterance("one", id="d/1"), utterance("two", id="d/2")),
        "test",
        messages=tuple(
            Message(role, text)
            for role, text in (
                ("user", AUDIO_PLACEHOLDER),
                ("assistant", "?"),
                ("user", AUDIO_PLACEHOLDER),
                ("assistant", "!"),
            )
        ),
    )
    first, last = turns(dialogue)
    assert ([u.id for u in first.sample.utterances], first.last) == (["d/1"], False)
    assert (last.sample, last.last, last.id) == (dialogue, True, "d#1")

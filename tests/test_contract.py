"""Everything that ships keeps its contract: plugins, recipes, languages. New files are found by themselves."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from pipeline import plugins
from pipeline.asr.base import ASR
from pipeline.effects.base import Effect
from pipeline.filters.duplicates import Duplicates
from pipeline.llm.base import LLM
from pipeline.plugins import UnknownPlugin
from pipeline.prompting import Prompts
from pipeline.readers.base import CorpusError, Reader
from pipeline.setup import prepare
from pipeline.stage import Filter, Stage
from pipeline.tasks.base import LLMTask, Task
from pipeline.tts.base import TTS
from schemas.recipe import Options, Recipe
from tests.examples import LANGUAGES, ROOT, sentences

BASES: dict[str, type] = {
    "readers": Reader,
    "tasks": Task,
    "filters": Filter,
    "llm": LLM,
    "tts": TTS,
    "asr": ASR,
    "effects": Effect,
}
EVERY = [(kind, name) for kind in BASES for name in plugins.names(kind)]
each_plugin = pytest.mark.parametrize(("kind", "name"), EVERY, ids=[f"{kind}-{name}" for kind, name in EVERY])
RECIPES = sorted((ROOT / "data" / "recipes").glob("*.yaml"))
NEEDED: dict[str, dict[str, Any]] = {
    "readers": {"name": "c", "path": "."},
    "asr": {"model": "m"},
    "label": {"name": "age"},
    "openai": {"model": "m", "base_url": "http://localhost/v1"},
    "vllm": {"model": "m"},
    "tts/openai": {"presets": [{"name": "a"}, {"name": "b"}], "languages": list(LANGUAGES)},
    "tts/transformers": {"model": "m", "presets": [{"name": "a"}, {"name": "b"}], "languages": list(LANGUAGES)},
    "tts/kokoro": {"model": "m.onnx", "file": "v.bin"},
    "tts/piper": {"folder": "no-such-folder"},
}
"""Options without which a plugin cannot be made."""


def made(kind: str, name: str, **options: Any) -> Any:
    return plugins.load(kind, name)(
        **(NEEDED.get(kind, {}) | NEEDED.get(name, {}) | NEEDED.get(f"{kind}/{name}", {}) | options)
    )


def module(kind: str, name: str) -> Any:
    return importlib.import_module(f"pipeline.{kind}.{name}")


def test_the_file_name_is_the_registry() -> None:
    for kind in BASES:
        files = {p.stem for p in (ROOT / "pipeline" / kind).glob("*.py")}
        assert set(plugins.names(kind)) == {f for f in files if f != "base" and not f.startswith("_")}
        with pytest.raises(UnknownPlugin, match="There are: "):
            plugins.load(kind, "nothing_like_it")


@each_plugin
def test_a_plugin_is_one_class_of_its_base(kind: str, name: str) -> None:
    loaded = plugins.load(kind, name)
    assert issubclass(loaded, Duplicates if name == "duplicates" else BASES[kind])
    assert not inspect.isabstract(loaded)
    assert loaded.__name__.lower() == name.replace("_", "")
    assert issubclass(loaded, Options)


@each_plugin
def test_a_plugin_says_what_it_is(kind: str, name: str) -> None:
    for text in (module(kind, name).__doc__, plugins.load(kind, name).__doc__):
        assert text
        assert text.strip().endswith((".", "`", "...")) or "\n" in text
    first = module(kind, name).__doc__.splitlines()[0]
    assert first.rstrip(".:")
    assert len(first) < 110


@each_plugin
def test_options_are_strict_frozen_and_explained(kind: str, name: str) -> None:
    loaded = plugins.load(kind, name)
    good = made(kind, name)
    with pytest.raises(ValidationError, match="no_such_option"):
        made(kind, name, no_such_option=1)
    config = loaded.model_config
    assert (config["strict"], config["frozen"], config["extra"]) == (True, True, "forbid")
    for field in loaded.model_fields:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", field)
        with pytest.raises(ValidationError):
            setattr(good, field, getattr(good, field))
    json.dumps(good.model_dump())  # goes into the resolved recipe


@each_plugin
def test_plugins_do_not_import_each_other(kind: str, name: str) -> None:
    tree = ast.parse(Path(module(kind, name).__file__).read_text(encoding="utf-8"))
    imported = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    imported += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    others = [
        m for m in imported if re.match(r"pipeline\.(readers|tasks|filters|llm|tts|asr|effects|stages)\.(?!base$|_)", m)
    ]
    assert others == []


# Readers.


@pytest.mark.parametrize("name", plugins.names("readers"))
def test_a_reader_names_its_source_and_licence_and_shows_a_line(name: str) -> None:
    text = module("readers", name).__doc__
    assert re.search(r"^Source: \S", text, re.MULTILINE)
    assert re.search(r"\bLicence: \S", text)
    shown = re.findall(r"^    \S.*$", text, re.MULTILINE)
    assert shown, "a real line of the layout, indented"
    assert any(len(line) > 30 for line in shown)


@pytest.mark.parametrize("name", plugins.names("readers"))
def test_a_reader_complains_of_what_is_not_there(name: str, tmp_path: Path) -> None:
    loaded = plugins.load("readers", name)
    missing = tmp_path / "missing"
    with pytest.raises(CorpusError, match=re.escape(str(missing))):
        list(loaded(name="c", path=str(missing)).utterances())
    (tmp_path / "empty").mkdir()
    assert loaded.recognise(tmp_path / "empty") is None
    with pytest.raises(CorpusError):
        list(loaded(name="c", path=str(tmp_path / "empty")).utterances())


@pytest.mark.parametrize("name", plugins.names("readers"))
def test_a_reader_takes_the_common_options(name: str) -> None:
    common: dict[str, Any] = {
        "language": "pt-BR", "licence": "CC0-1.0", "labels": {"style": "read"}, "speaker": "s", "speech": False,
        "split": "test", "audio_root": "/", "raw": {"sampling_rate": 8000},
    }  # fmt: skip
    reader = made("readers", name, **common)
    assert reader.model_dump()["labels"] == {"style": "read"}
    for wrong in (
        {"language": "no language"},
        {"split": "dev"},
        {"speech": "yes"},
        {"raw": {"rate": 1}},
        {"labels": {"a": 1}},
    ):
        with pytest.raises(ValidationError):
            made("readers", name, **wrong)


# Tasks.


@pytest.mark.parametrize("name", plugins.names("tasks"))
def test_a_task_has_prompts_and_shows_a_row(name: str) -> None:
    task = made("tasks", name)
    assert re.search(r"\bRows?\b.*`.*` -> `|(?s:A row[^.]*: .*->)", module("tasks", name).__doc__)
    assert task.key == name
    assert task.uses_llm == isinstance(task, LLMTask)
    assert Prompts().languages(name) == sorted(LANGUAGES)
    assert len(set(task.kinds)) == len(task.kinds) >= 1
    assert len(set(task.outcomes)) == len(task.outcomes)
    assert not (task.hears_companions and not task.companions)
    own = type(task).answer if task.uses_llm else type(task).make
    assert own not in (LLMTask.__dict__.get("answer"), Task.__dict__["make"])
    for wrong in (0.0, -1.0, "2"):
        with pytest.raises(ValidationError):
            made("tasks", name, weight=wrong)


# Filters.


@pytest.mark.parametrize("name", [n for n in plugins.names("filters") if n != "duplicates"])
def test_a_filter_answers_one_question(name: str) -> None:
    loaded = plugins.load("filters", name)
    assert loaded.reason is not Filter.reason
    assert isinstance(loaded.before_tasks, bool)
    assert isinstance(loaded.order, int)


def test_every_reason_is_snake_case() -> None:
    """Reasons are counted, so they are names: `too_short`, never `Too short (0.2 s)`."""
    found: set[str] = set()
    for path in sorted((ROOT / "pipeline").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not node.args or not isinstance(node.args[0], ast.Constant):
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("Rejection", "reject") and isinstance(node.args[0].value, str):
                found.add(node.args[0].value)
    assert len(found) > 25
    assert [reason for reason in found if not re.fullmatch(r"[a-z]+(_[a-z]+)+|silent|clipped", reason)] == []


# Engines and stages.


@pytest.mark.parametrize("name", plugins.names("llm"))
def test_an_llm_engine_has_no_key_among_its_options(name: str) -> None:
    engine = made("llm", name)
    assert engine.engine == name
    assert engine.model_name
    assert not any("key" in field and field not in ("api_key_env", "limit_key") for field in type(engine).model_fields)
    for wrong in (
        {"temperature": -1.0},
        {"top_p": 0.0},
        {"concurrency": 0},
        {"attempts": 0},
        {"structured": "yes"},
        {"retries": -1},
    ):
        with pytest.raises(ValidationError):
            made("llm", name, **wrong)


@pytest.mark.parametrize("name", plugins.names("asr"))
def test_an_asr_engine_says_what_shapes_its_hypotheses(name: str) -> None:
    engine = made("asr", name)
    assert engine.engine == name
    assert engine.at_once >= 1
    assert not any("key" in field and field != "api_key_env" for field in type(engine).model_fields)
    assert made("asr", name, revision="other").shaping["engine"] == name
    for wrong in ({"at_once": 0}, {"only": "some"}, {"languages": "en"}):
        with pytest.raises(ValidationError):
            made("asr", name, **wrong)


@pytest.mark.parametrize("name", plugins.names("tts"))
def test_a_tts_engine_has_voices_in_every_language(name: str) -> None:
    engine = made("tts", name)
    assert engine.engine == name
    if name in ("kokoro", "piper"):
        pytest.skip("its voices are files, which tests/tts makes")
    for language in LANGUAGES:
        voices = engine.voices(language)
        assert len(voices) >= 2
        assert len({v.name for v in voices}) == len(voices)
        assert voices == engine.voices(language)
        assert all(v.language.startswith(language) for v in voices)
    assert engine.voices("xx-nowhere") == []


@pytest.mark.parametrize("name", plugins.names("stages"))
def test_a_stage_knows_nothing_of_the_run(name: str) -> None:
    found = module("stages", name)
    stages = [
        c
        for c in vars(found).values()
        if inspect.isclass(c) and c.__module__ == found.__name__ and issubclass(c, Stage)
    ]
    assert [c.__name__.lower() for c in stages] == [name.replace("_", "")]
    assert found.__doc__
    assert stages[0].__doc__
    assert not {"rank", "world_size", "path", "out"} & set(inspect.signature(stages[0]).parameters)


# Recipes and languages.


def standing_in(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The text of a recipe; what it wants of `${CORPORA}` is made in a folder of the test."""
    text = path.read_text(encoding="utf-8")
    monkeypatch.setenv("CORPORA", str(tmp_path))
    for wanted in re.findall(r"\$\{CORPORA\}/([^\s,}\"']+)", text):
        (tmp_path / wanted).mkdir(parents=True, exist_ok=True)
    prepare.cache_clear()
    return text


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_reads_like_a_page(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = standing_in(path, tmp_path, monkeypatch)
    setup = prepare(str(path))
    assert text.startswith("# ")
    assert setup.recipe.name == path.stem
    assert setup.recipe.description.strip()
    assert all(len(line) <= 120 for line in text.splitlines())
    assert not re.search(r"/(home|root|mnt|work|tmp)/|sk-[A-Za-z0-9]{8}", text)
    assert set(YAML(typ="safe").load(text)) <= set(Recipe.model_fields)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_lines_that_a_recipe_offers_work_too(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`#   llm: {...}` in a comment: the one line to change."""
    text = standing_in(path, tmp_path, monkeypatch)
    for line in re.findall(r"^ *# +(llm: \{[^}]*\})", text, re.MULTILINE):
        changed = re.sub(r"^llm:.*\n(?:[ ]+.*\n)*", f"{line}\n", text, flags=re.MULTILINE)
        assert changed != text
        for relative in re.findall(r"path: (\.\.\S+)", text):
            changed = changed.replace(relative, str((path.parent / relative).resolve()))
        other = tmp_path / path.name
        other.write_text(changed, encoding="utf-8")
        prepare.cache_clear()
        setup = prepare(str(other))
        assert setup.llm is not None
        assert setup.tasks_left_out == []
    prepare.cache_clear()


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_has_all_that_the_quickstart_needs(language: str) -> None:
    found = sentences(language)
    assert len(found) == len({s.casefold() for s in found}) >= 50
    assert all(s == s.strip() and s[-1] in ".?!" for s in found)
    assert {p.parent.name for p in (ROOT / "prompts").glob(f"*/{language}.yaml")} == set(plugins.names("tasks"))


def test_languages_are_the_same_everywhere() -> None:
    assert {p.stem for p in (ROOT / "prompts").glob("*/*.yaml")} == set(LANGUAGES)
    assert {p.name.split(".")[1] for p in (ROOT / "data" / "text").glob("daily.*.txt")} == set(LANGUAGES)

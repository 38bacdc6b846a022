"""Recipes: whatever is wrong with one is told before any work, with file, line, key, value and cure."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import recipes
from pipeline.prompting import PromptError
from pipeline.readers.base import CorpusError
from pipeline.recipes import RecipeError
from pipeline.setup import Setup, prepare
from tests.conftest import ROOT


def setup_of(path: Path) -> Setup:
    return Setup(*recipes.load(path))


def text(path: Path, content: str) -> Path:
    file = path / "recipe.yaml"
    file.write_text(content)
    return file


GOOD = """\
name: good
corpora:
  - reader: jsonl
    path: CORPUS
tasks:
  transcription:
"""


@pytest.fixture
def write(tmp_path: Path, corpus: Path) -> Callable[[str, str], Path]:
    """The good recipe with one line replaced."""

    def change(line: str = "", by: str = "") -> Path:
        content = GOOD.replace(line, by) if line else GOOD
        return text(tmp_path, content.replace("CORPUS", str(corpus)))

    return change


def test_a_good_recipe(write: Callable[..., Path], corpus: Path) -> None:
    made = setup_of(write())
    assert list(made.readers) == [corpus.name]
    assert [t.key for t in made.tasks] == ["transcription"]
    assert made.duplicates is not None
    assert {name for name, _ in made.filters} >= {"duration", "silence", "transcript", "refusal", "language"}


CASES: list[tuple[str, str, str, list[str]]] = [
    ("unknown key", "tasks:", "taks:", [":5: taks: unknown key", "Did you mean 'tasks'?", "tasks: is missing"]),
    ("unknown nested key", "name: good", "name: good\nsplit: {tests: 0.1}", [":2: split.tests: unknown key", "'test'"]),
    ("key twice", "name: good", "name: good\nname: again", [":2", "duplicate key"]),
    ("no YAML", "corpora:", "corpora: [", ["recipe.yaml:"]),
    ("unknown reader", "reader: jsonl", "reader: json", [":3: corpora.0.reader: readers has no 'json'", "'jsonl'?"]),
    ("no reader", "reader: jsonl\n    path", "path", [":3: corpora.0: `reader` is missing", "kaldi"]),
    ("no path", "    path: CORPUS\n", "", [":3: corpora.0: `path` is missing"]),
    ("a slip in path", "path: CORPUS", "pth: CORPUS", [":3: corpora.0: `path` is missing (is `pth`", "'path'?"]),
    ("a slip in reader", "reader: jsonl", "raeder: jsonl", ["`reader` is missing (is `raeder` a slip?)"]),
    ("a slip in engine", "name: good", "name: good\nllm: {engin: vllm}", ["`engine` is missing (is `engin` a slip?)"]),
    (
        "no key",
        "name: good",
        "name: good\nllm:\n  engine: openai\n  model: x\n  base_url: http://h/v1\n  api_key_env: NO_SUCH_KEY",
        [":6: llm.api_key_env: the environment variable NO_SUCH_KEY, which is to hold the API key, is not set"],
    ),
    ("path not there", "path: CORPUS", "path: /no/such", [":4: corpora.0.path: /no/such does not exist"]),
    ("variable not set", "path: CORPUS", "path: $NO_SUCH_X/a", [":4: corpora.0.path", "NO_SUCH_X", "is not set"]),
    (
        "reader's option",
        "path: CORPUS",
        "path: CORPUS\n    langauge: en",
        [":5", "langauge: unknown key", "'language'?"],
    ),
    ("reader's value", "path: CORPUS", "path: CORPUS\n    speech: 3", [":5: corpora.0.speech", "bool", "not 3"]),
    ("unknown task", "transcription:", "transcripton:", [":6: tasks.transcripton: tasks has no", "'transcription'?"]),
    (
        "task's option",
        "transcription:",
        "keyword_spotting: {presnt: 0.5}",
        [":6: tasks.keyword_spotting.presnt", "'present'?"],
    ),
    ("impossible value", "transcription:", "keyword_spotting: {present: 1.5}", [":6", "less than 1", "not 1.5"]),
    (
        "wrong type",
        "transcription:",
        "transcription: {weight: heavy}",
        [":6: tasks.transcription.weight", "not 'heavy'"],
    ),
    ("no tasks", "tasks:\n  transcription:", "tasks: {}", [":5: tasks", "at least 1"]),
    ("unknown filter", "name: good", "name: good\nfilters: {silnce: false}", [":2: filters.silnce", "'silence'?"]),
    (
        "filter's option",
        "name: good",
        "name: good\nfilters: {duration: {longst: 3}}",
        ["filters.duration.longst", "'longest'?"],
    ),
    ("test share", "name: good", "name: good\nsplit: {test: 1}", [":2: split.test", "less than 1", "not 1"]),
    ("bad name", "name: good", "name: Not Good!", [":1: name", "not 'Not Good!'"]),
    ("llm without engine", "name: good", "name: good\nllm: {model: x}", [":2: llm: `engine` is missing", "openai"]),
    ("unknown engine", "name: good", "name: good\nllm: {engine: vlm}", [":2: llm.engine: llm has no 'vlm'", "'vllm'?"]),
    (
        "llm's option",
        "name: good",
        "name: good\nllm: {engine: vllm, model: x, temprature: 1}",
        ["llm.temprature", "'temperature'?"],
    ),
    ("no model", "name: good", "name: good\nllm: {engine: vllm}", [":2: llm.model: is missing"]),
    (
        "no address",
        "name: good",
        "name: good\nllm: {engine: openai, model: x, base_url: localhost}",
        ["llm.base_url", "http:// or https:// is expected"],
    ),
    (
        "key in the address",
        "name: good",
        'name: good\nllm: {engine: openai, model: x, base_url: "https://u:hunter2@h/v1"}',
        ["api_key_env"],
    ),
    ("only LLM tasks", "transcription:", "reply:", [":5: tasks: reply need an LLM: set `llm`"]),
    (
        "language without prompts",
        "name: good",
        "name: good\ninstruction_languages: [xx]",
        [":2: instruction_languages", "en, pt, ru"],
    ),
    ("no language", "transcription:", "translation: {targets: [xx]}", [":6: tasks.translation.targets", "'xx'"]),
    ("no prompts folder", "name: good", "name: good\nprompts: ./none", [":2: prompts", "does not exist"]),
    (
        "two of a name",
        "tasks:",
        "  - {reader: jsonl, path: CORPUS}\ntasks:",
        [":5: corpora.1.name: two corpora are called"],
    ),
]


@pytest.mark.parametrize(("line", "by", "wanted"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_what_is_wrong_is_told(write: Callable[..., Path], line: str, by: str, wanted: list[str]) -> None:
    path = write(line, by)
    with pytest.raises(RecipeError) as caught:
        setup_of(path)
    message = str(caught.value)
    assert str(path) in message
    for part in wanted:
        assert part in message


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path, corpus: Path) -> None:
    path = text(
        tmp_path,
        f"""\
name: bad
corpora:
  - reader: jsonl
    pth: {corpus}
    langauge: en
  - reader: kalid
    path: {corpus}
  - reader: jsonl
    path: /no/such/folder
    speech: 3
llm: {{engine: openai, model: m, base_url: host, api_key_env: NO_SUCH_KEY}}
tts: {{engine: spk}}
tasks:
  transcripton:
  keyword_spotting: {{present: 1.5}}
  reply:
filters:
  silnce: false
  duration: {{longst: 3}}
augment: {{effects: {{noize: }}}}
prompts: ./none
""",
    )
    with pytest.raises(RecipeError) as caught:
        setup_of(path)
    wanted = [
        (3, "corpora.0: `path` is missing"),
        (4, "corpora.0.pth: unknown key. Did you mean 'path'?"),
        (5, "corpora.0.langauge: unknown key. Did you mean 'language'?"),
        (6, "corpora.1.reader: readers has no 'kalid'. Did you mean 'kaldi'?"),
        (9, "corpora.2.path: /no/such/folder does not exist"),
        (10, "corpora.2.speech: "),
        (11, "llm.base_url: "),
        (12, "tts.engine: tts has no 'spk'."),
        (14, "tasks.transcripton: tasks has no 'transcripton'."),
        (15, "tasks.keyword_spotting.present: "),
        (18, "filters.silnce: "),
        (19, "filters.duration.longst: "),
        (20, "augment.effects.noize: "),
        (21, "prompts: "),
    ]
    told = str(caught.value).splitlines()
    for line, part in wanted:
        assert any(one.startswith(f"{path}:{line}: {part}") for one in told), (line, part)
    assert len(told) == len(wanted), "nothing is said that is not wrong"


@pytest.mark.parametrize(
    ("reader", "options", "files", "at", "part"),
    [
        ("jsonl", "fields: {transcript: txet}", {"m.jsonl": '{"audio": "a.wav"}'}, ":5: corpora.0.fields", "'txet'"),
        ("csv", "columns: {audio: wva}", {"m.csv": "wav,text\na.wav,b\n"}, ":5: corpora.0.columns", "wva"),
        ("csv", "file: n.csv", {"m.csv": "wav,text\na.wav,b\n"}, ":5: corpora.0.file", "n.csv"),
        ("librispeech", "subsets: [dve]", {"dev/1/2/1-2.trans.txt": "1-2-0 A\n"}, ":5: corpora.0.subsets", "'dve'"),
        ("jsonl", "language: en", {"m.jsonl": ""}, ":4: corpora.0.path", "no record in it"),
    ],
)
def test_what_planning_finds_names_the_place_in_the_recipe(
    tmp_path: Path, reader: str, options: str, files: dict[str, str], at: str, part: str
) -> None:
    for name, content in files.items():
        (tmp_path / "c" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "c" / name).write_text(content)
    recipe = GOOD.replace("reader: jsonl", f"reader: {reader}").replace("path: CORPUS", f"path: c\n    {options}")
    path = text(tmp_path, recipe)
    with pytest.raises(CorpusError) as caught:
        setup_of(path).plan(tmp_path / "out")
    assert f"{path}{at}: " in str(caught.value)
    assert part in str(caught.value)


def test_a_pattern_without_groups(tmp_path: Path, corpus: Path) -> None:
    for pattern, part in (("(", "regular expression"), ("(?P<colour>.)", "named groups must be among")):
        content = GOOD.replace("reader: jsonl", f"reader: audio_text\n    pattern: {json.dumps(pattern)}")
        with pytest.raises(RecipeError, match=part):
            setup_of(text(tmp_path, content.replace("CORPUS", str(corpus))))


def test_a_secret_is_not_shown(write: Callable[..., Path]) -> None:
    with pytest.raises(RecipeError) as caught:
        setup_of(write("name: good", 'name: good\nllm: {engine: openai, model: x, base_url: "https://u:hunter2@h/v1"}'))
    assert "hunter2" not in str(caught.value)


def test_a_template_that_names_what_is_not_given(tmp_path: Path, corpus: Path) -> None:
    own = tmp_path / "prompts" / "transcription"
    own.mkdir(parents=True)
    source = (ROOT / "prompts/transcription/en.yaml").read_text()
    (own / "en.yaml").write_text(
        re.sub(r"(?m)^  default:\n    - .*$", "  default:\n    - 'Say {{ nothing }}.'", source, count=1)
    )
    path = text(tmp_path, GOOD.replace("CORPUS", str(corpus)) + "prompts: prompts\n")
    with pytest.raises((RecipeError, PromptError)) as caught:
        setup_of(path)
    message = str(caught.value)
    assert str(own / "en.yaml") in message
    assert "instructions.default[0]" in message
    assert "'nothing'" in message


def test_norway_is_a_language(write: Callable[..., Path]) -> None:
    """In YAML 1.1 `no` is false."""
    made = setup_of(write("path: CORPUS", "path: CORPUS\n    language: no"))
    assert next(iter(made.readers.values())).language == "no"


def test_paths_are_relative_to_the_recipe(tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    folder = tmp_path / "recipes"
    folder.mkdir()
    relative = os.path.relpath(corpus, folder)
    made = setup_of(text(folder, GOOD.replace("CORPUS", relative)))
    assert Path(next(iter(made.readers.values())).path) == corpus
    monkeypatch.setenv("WHERE", str(corpus.parent))
    made = setup_of(text(folder, GOOD.replace("CORPUS", f"${{WHERE}}/{corpus.name}")))
    assert Path(next(iter(made.readers.values())).path) == corpus


def test_text_without_a_voice(tmp_path: Path) -> None:
    content = GOOD.replace("jsonl", "sentences").replace("CORPUS", str(ROOT / "data/text"))
    made = setup_of(text(tmp_path, content))
    with pytest.raises(RecipeError, match="name an engine that speaks it"):
        made.plan(tmp_path / "out")


def test_an_empty_corpus(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text("")
    made = setup_of(text(tmp_path, GOOD.replace("CORPUS", ".")))
    with pytest.raises(CorpusError, match="no record in it"):
        made.plan(tmp_path / "out")


def test_finding_recipes() -> None:
    assert recipes.find("quickstart") == ROOT / "data/recipes/quickstart.yaml"
    with pytest.raises(RecipeError, match="Did you mean 'quickstart'"):
        recipes.find("quikstart")
    with pytest.raises(RecipeError, match="Shipped are: "):
        recipes.find("zzz")


def fingerprint(write_recipe: Callable[..., Path], **changes: Any) -> str:
    return setup_of(write_recipe(**changes)).fingerprint


def test_the_fingerprint_covers_what_shapes_rows_and_nothing_else(
    write_recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", "x")
    base: dict[str, Any] = {
        "tasks": {"reply": None},
        "llm": {"engine": "openai", "base_url": "http://a/v1", "model": "m"},
    }
    reference = fingerprint(write_recipe, **base)
    assert reference == fingerprint(write_recipe, **base)
    llm = base["llm"]
    for same in (
        {"llm": {**llm, "base_url": ["http://b/v1", "http://c/v1"]}},
        {"llm": {**llm, "api_key_env": "SOME_KEY"}},
        {"llm": {**llm, "concurrency": 3, "timeout": 3.0, "patience": 1.0, "retries": 1}},
        {"llm": {**llm, "prices": {"prompt": 1.0, "completion": 2.0}}},
        {"description": "other"},
        {"shards": {"utterances": 9, "rows_per_batch": 4}},
    ):
        assert fingerprint(write_recipe, **(base | same)) == reference, same
    for other in (
        {"llm": {**llm, "model": "n"}},
        {"llm": {**llm, "revision": "abc"}},
        {"llm": {**llm, "temperature": 0.1}},
        {"llm": {**llm, "extra": {"top_k": 5}}},
        {"llm": {**llm, "attempts": 1}},
        {"seed": 1},
        {"tasks": {"reply": {"system": ""}}},
        {"tasks": {"reply": None, "transcription": None}},
        {"filters": {"duration": {"longest": 5.0}}},
        {"filters": {"duplicates": False}},
        {"samples_per_utterance": 2},
        {"instruction_languages": ["ru"]},
    ):
        assert fingerprint(write_recipe, **(base | other)) != reference, other


def test_the_resolved_recipe_holds_no_address_and_no_key(
    write_recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    llm = {"engine": "openai", "base_url": "http://inner.example/v1", "model": "m", "api_key_env": "MY_KEY"}
    resolved = json.dumps(setup_of(write_recipe(llm=llm)).resolved)
    for secret in ("sk-very-secret", "MY_KEY", "inner.example", str(ROOT), "/tmp"):
        assert secret not in resolved


@pytest.mark.parametrize("name", sorted(recipes.shipped()))
def test_shipped_recipes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is read, and each of its plugins, options and prompts is checked; corpora are stood in for."""
    monkeypatch.setenv("CORPORA", str(tmp_path))
    path = recipes.find(name)
    for missing in re.findall(r"\$\{CORPORA\}/([^\s,}\"']+)", path.read_text()):
        (tmp_path / missing).mkdir(parents=True, exist_ok=True)
    prepare.cache_clear()
    made = prepare(str(path))
    assert made.recipe.name == name
    assert made.recipe.description
    assert path.read_text().startswith("# ")


def test_own_prompts_of_no_task(tmp_path: Path, corpus: Path) -> None:
    (tmp_path / "prompts" / "transcripton").mkdir(parents=True)
    path = text(tmp_path, GOOD.replace("CORPUS", str(corpus)) + "prompts: prompts\n")
    with pytest.raises(RecipeError, match=r"prompts: .*there is no task 'transcripton'\. Did you mean 'transcription'"):
        setup_of(path)


def test_a_prompt_that_does_not_tell_what_is_said(tmp_path: Path, corpus: Path) -> None:
    own = tmp_path / "prompts" / "reply"
    own.mkdir(parents=True)
    source = (ROOT / "prompts/reply/en.yaml").read_text()
    (own / "en.yaml").write_text(re.sub(r"(?ms)^user: .*?(?=^\S|\Z)", "user: hello\n", source))
    content = GOOD.replace("CORPUS", str(corpus)).replace("transcription:", "reply:")
    path = text(tmp_path, content + "prompts: prompts\nllm: {engine: scripted}\n")
    with pytest.raises(RecipeError, match=r"en.yaml: user does not name \{\{ transcript \}\}"):
        setup_of(path)


def test_what_shapes_rows_is_in_the_fingerprint_and_what_does_not_is_not(tmp_path: Path, corpus: Path) -> None:
    def of(*lines: str, folder: Path = corpus) -> str:
        content = GOOD.replace("CORPUS", str(folder)) + "".join(f"{line}\n" for line in lines)
        return setup_of(text(tmp_path, content)).fingerprint

    vllm = "llm: {engine: vllm, model: big/model"
    openai = "llm: {engine: openai, model: big/model, base_url: 'http://a/v1'"
    different = {
        of(),
        of("seed: 1"),
        of("filters: {duration: {longest: 9}}"),
        of("llm: {engine: scripted}"),
        of("llm: {engine: scripted, faults: 0.1}"),
        of(f"{vllm}}}"),
        of(f"{vllm}, revision: abc}}"),
        of(f"{vllm}, arguments: [--quantization, fp8]}}"),
        of(f"{openai}}}"),
        of(f"{openai}, temperature: 0.1}}"),
    }
    assert len(different) == 10
    assert of(f"{openai}, concurrency: 3, timeout: 9, patience: 5}}") == of(f"{openai}}}")
    assert of(openai.replace("//a/", "//b/") + "}") == of(f"{openai}}}")
    (tmp_path / "moved").symlink_to(corpus)
    assert of(folder=tmp_path / "moved") == of()


def test_models_of_one_name_in_two_folders_are_told_apart(tmp_path: Path) -> None:
    from pipeline.llm.vllm import VLLM

    for where, size in (("a", 10), ("b", 11)):
        (tmp_path / where / "final").mkdir(parents=True)
        (tmp_path / where / "final" / "config.json").write_text("{}")
        (tmp_path / where / "final" / "model.safetensors").write_bytes(bytes(size))
    one, two = (VLLM(model=str(tmp_path / where / "final")) for where in ("a", "b"))
    assert one.model_name == two.model_name == "final"
    assert one.identity != two.identity

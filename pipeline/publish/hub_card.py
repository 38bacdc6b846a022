"""The card of a release, as the Hub shows it: what is in it, whose it is, how it was made."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.plugins import require
from pipeline.prompting import PromptError, Prompts
from pipeline.publish import layout, parquet
from pipeline.publish.card import about, body, hours, table
from pipeline.publish.facts import Facts
from pipeline.publish.layout import File
from schemas.conversation import Message
from schemas.manifest import DatasetManifest
from schemas.sample import Sample

PICTURE, SOUND = "figures.png", "example.flac"
_UNKNOWN = "not recorded"
_VOICES = 40  # that are named one by one
_KNOWN_LICENCES = {
    "CC0-1.0": "cc0-1.0",
    "CC-BY-4.0": "cc-by-4.0",
    "CC-BY-SA-4.0": "cc-by-sa-4.0",
    "CC-BY-3.0": "cc-by-3.0",
    "CC-BY-NC-4.0": "cc-by-nc-4.0",
    "GPL-3.0-or-later": "gpl-3.0",
    "MIT": "mit",
    "Apache-2.0": "apache-2.0",
}
_SIZES = (
    *((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")),
    *((10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"), (1_000_000_000, "100M<n<1B")),
)
_USE = """```python
import io, datasets, soundfile

rows = datasets.load_dataset("{repository}", split="{split}")
rows = rows.cast_column("{audio}", {feature})  # the bytes as they are, without torchcodec
samples, sampling_rate = soundfile.read(io.BytesIO(rows[0]["{audio}"]{first}["bytes"]))
```
"""


@dataclass(frozen=True, slots=True)
class Card:
    """Of one release."""

    folder: Path
    """The dataset's."""
    dataset: DatasetManifest
    facts: Facts
    files: Mapping[str, File]
    """By path."""
    repository: str
    endpoint: str
    """The Hub's address."""
    licences: Mapping[str, str]
    """Of models, by name."""

    def text(self, sample: Sample) -> str:
        """`README.md`.

        Args:
            sample: The row that is shown.
        """
        dataset, single = self.dataset, self.facts.single
        use = _USE.format(
            repository=self.repository,
            split=next(name for name, s in dataset.splits.items() if s.rows),
            audio="audio" if single else "audios",
            feature="datasets.Audio(decode=False)" if single else "[datasets.Audio(decode=False)]",
            first="" if single else "[0]",
        )
        has_aside = any(path.startswith(f"{layout.REJECTED}/") for path in self.files)
        aside = "The others are in the configuration `rejected`." if has_aside else "The others are not published."
        told = [
            f"---\n{self._head()}---\n",
            body(dataset, use=use, audio="audio" if single else "audios", aside=aside),
            f"## Figures\n\n![Rows by task, by seconds of speech and by reason for which they were set aside; hours "
            f"by language; word error rates]({PICTURE})\n",
            self._sources(),
            self._voices(),
            self._models(),
            self._prompts(),
            self._example(sample),
        ]
        return "\n".join(part for part in told if part)

    def _head(self) -> str:
        """The YAML head. Its values are written as JSON, which YAML contains."""
        rows = sum(split.rows for split in self.dataset.splits.values())
        recognised = ["automatic-speech-recognition"] if "transcription" in self.dataset.tasks else []
        keys: dict[str, Any] = about(self.dataset) | {
            "license": self._names(),
            "task_categories": ["audio-text-to-text", *recognised],
            "size_categories": [next((name for most, name in _SIZES if rows < most), "n>1T")],
        }
        splits: dict[str, dict[str, list[File]]] = defaultdict(lambda: defaultdict(list))
        for path, file in self.files.items():
            config, folder, _ = path.split("/")
            splits[config][folder.rpartition("-")[0]].append(file)
        keys["configs"] = [
            {
                "config_name": config,
                "data_files": [{"split": split, "path": f"{config}/{split}-*/*.parquet"} for split in files],
            }
            for config, files in splits.items()
        ]
        keys["dataset_info"] = [
            {"config_name": config, **_info(files, self.facts.single and config == layout.DEFAULT)}
            for config, files in splits.items()
        ]
        return "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in keys.items())

    def _names(self) -> list[str]:
        """Licences as the Hub names them; what it has no name for is `other`, and the tables say what it is."""
        both = [*self.dataset.licences, *(licence for (_, licence, _), _ in self.facts.table("voices"))]
        names = {name for one in both for name in (one or "unknown").split(" AND ")}
        return sorted({_KNOWN_LICENCES.get(name, "unknown" if name == "unknown" else "other") for name in names})

    def _sources(self) -> str:
        rows = (
            (corpus, language or "unknown", licence or "unknown", hours(seconds))
            for (corpus, licence, language), seconds in self.facts.table("sources")
        )
        return "## Sources\n\n" + table(("corpus", "language", "licence of the speech", "hours of rows"), rows)

    def _voices(self) -> str:
        voices = self.facts.table("voices")
        if not voices:
            return ""
        rows: list[tuple[object, ...]] = [
            (engine, voice or "unknown", licence or "unknown", hours(seconds))
            for (engine, licence, voice), seconds in voices[:_VOICES]
        ]
        rest: dict[tuple[str, str], list[float]] = defaultdict(list)
        for (engine, licence, _), seconds in voices[_VOICES:]:
            rest[engine, licence].append(seconds)
        rows += [
            (engine, f"{len(some)} others", licence or "unknown", hours(sum(some)))
            for (engine, licence), some in rest.items()
        ]
        return "## Voices\n\n" + table(("engine", "voice", "licence", "hours of rows"), rows)

    def _models(self) -> str:
        """What wrote, spoke and listened."""
        rows: list[tuple[object, ...]] = []
        for key, role in (("llm", "wrote"), ("tts", "spoke"), ("asr", "listened")):
            options = self.dataset.recipe.get(key)
            if isinstance(options, Mapping):
                model = str(options.get("model") or options["engine"])
                licence = self.licences.get(model) or options.get("licence")
                if key == "tts":
                    licence = licence or "of each voice, above"
                rows.append((role, options["engine"], model, options.get("revision") or _UNKNOWN, licence or _UNKNOWN))
        return (rows and "## Models\n\n" + table(("what it did", "engine", "model", "revision", "licence"), rows)) or ""

    def _prompts(self) -> str:
        """What the text LLM was told, in the words of the templates, where they are still as they were."""
        own, found = self.dataset.recipe.get("prompts"), []
        prompts = Prompts(Path(str(own)) if own else None)
        lines = [
            ((task, language or _language(prompts, task, digest), digest, *rest), count)
            for (task, language, digest, *rest), count in self.facts.table("prompts")
        ]
        for task, language, digest in dict.fromkeys(names[:3] for names, _ in lines):
            title = f"`{task}` in `{language}`, digest `{digest}`"
            content = _content(prompts, task, language, digest)
            if content is None:
                found.append(f"{title}: the templates have been changed since; this card cannot show them.\n")
            else:
                system = _mapping(self.dataset.recipe.get("tasks"), task).get("system")
                texts = "\n---\n".join(
                    text for text in (content[0] if system is None else str(system), content[1]) if text
                )
                found.append(f"{title}:\n\n{_fenced('jinja', texts)}")
        if not found:
            return ""
        header = ("task", "language", "digest of the prompt file", "engine", "model", "rows")
        return "## Prompts of the text LLM\n\n" + "\n".join(
            [
                table(header, ((*names, int(count)) for names, count in lines)),
                "System and user, as templates:\n",
                *found,
            ]
        )

    def _example(self, sample: Sample) -> str:
        """A row to read and to hear."""
        shown = {
            "id": sample.id,
            "task": sample.task,
            "messages": [_message(message) for message in sample.messages],
            "answer": sample.answer,
            "transcripts": [u.transcript for u in sample.utterances],
            "speakers": [u.speaker for u in sample.utterances],
            "seconds": [round(u.audio.seconds, 2) for u in sample.utterances if u.audio],
        }
        url = f"{self.endpoint}/datasets/{self.repository}/resolve/main/{SOUND}"
        return (
            f'## A row\n\n<audio controls src="{url}"></audio>\n\n[{SOUND}]({SOUND})\n\n'
            f"{_fenced('json', json.dumps(shown, indent=1, ensure_ascii=False))}"
        )


def _language(prompts: Prompts, task: str, digest: str) -> str:
    """Of a prompt file whose rows hold no instruction that would tell."""
    return next((name for name in prompts.languages(task) if _content(prompts, task, name, digest)), "unknown")


def _mapping(value: object, key: str) -> Mapping[str, Any]:
    found = value.get(key) if isinstance(value, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _content(prompts: Prompts, task: str, language: str, digest: str) -> tuple[str, str] | None:
    """System and user of a prompt file that is still what it was."""
    try:
        known = prompts.get(task, language)
    except PromptError:
        return None
    return (known.content.system, known.content.user) if known.digest == digest else None


def _info(splits: Mapping[str, Iterable[File]], single: bool) -> dict[str, Any]:
    """`dataset_info`, in the form that the Hub's viewer reads."""
    datasets = require("datasets", extra="publish", what="publishing")
    features = datasets.Features.from_arrow_schema(parquet.schema(single))
    files = [file for some in splits.values() for file in some]
    return {
        "features": features._to_yaml_list(),
        "splits": [
            {"name": name, "num_bytes": sum(f.memory for f in some), "num_examples": sum(f.rows for f in some)}
            for name, some in splits.items()
        ],
        "download_size": sum(file.bytes for file in files),
        "dataset_size": sum(file.memory for file in files),
    }


def _message(message: Message) -> dict[str, Any]:
    calls = [{"name": call.name, "arguments": call.arguments} for call in message.tool_calls]
    return {"role": message.role, "content": message.content} | ({"tool_calls": calls} if calls else {})


def _fenced(kind: str, text: str) -> str:
    """Text between fences that it cannot end."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{kind}\n{text}\n{fence}\n"

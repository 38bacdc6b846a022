"""The model card of an exported model."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.inspect import NoDataset
from pipeline.inspect import load as load_dataset

_HUB = re.compile(r"[\w.-]+/[\w.-]+")


def card(name: str, speech: Any, title: str, use: str, own: str, *, merged: bool) -> str:
    """`README.md`.

    Args:
        name: The folder or hub id of the model that was exported.
        speech: It.
        title: Of the format.
        use: What the format says of its use.
        own: The name of the folder that is written.
        merged: Whether it had LoRA.
    """
    recipe = _recipe(name)
    bases = _bases(recipe)
    parts = [
        f"# {own}\n",
        f"An audio LLM trained with Earwitness, in the format of {title}.\n",
        use.replace("{name}", own).strip() + "\n",
        "## What it is made of\n",
        _list(_made_of(speech, bases, recipe, merged)),
        _data(recipe),
        "## Licence\n",
        "The licences of its parts apply, those of the base models and of the data; they are not checked here. "
        "State your own in `license` above before you publish it.\n",
    ]
    if recipe:
        text = io.StringIO()
        YAML().dump(_public(recipe), text)
        parts += ["## Recipe\n", f"```yaml\n{text.getvalue()}```\n"]
    return f"---\n{_head(bases, recipe)}---\n\n" + "\n".join(part for part in parts if part)


def _head(bases: Mapping[str, str], recipe: Mapping[str, Any]) -> str:
    known = [base for base in bases.values() if _HUB.fullmatch(base)]
    head: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "audio-text-to-text"}
    head |= {"base_model": known} if known else {}
    head |= {"license": "other", "license_name": "unknown"}
    tags = ["audio", "earwitness", *([recipe["name"]] if recipe.get("name") else [])]
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in (head | {"tags": tags}).items())


def _recipe(name: str) -> dict[str, Any]:
    """Of the run that the model is from: it lies in the model's folder, or beside it."""
    folder = Path(name)
    for file in (folder / "recipe.yaml", folder.parent / "recipe.yaml"):
        if folder.is_dir() and file.is_file():
            found = YAML(typ="safe").load(file.read_text(encoding="utf-8"))
            if isinstance(found, dict) and "model" in found:
                return found
    return {}


def _public(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """With the names of local folders in place of their paths, which mean nothing elsewhere."""
    model = dict(recipe["model"])
    for part in ("llm", "ready"):
        if model.get(part):
            model[part] = _short(model[part])
    if model.get("encoders"):
        model["encoders"] = [_short(name) for name in model["encoders"]]
    data = [spec | {"path": Path(str(spec.get("path", ""))).name} for spec in recipe.get("data") or []]
    return {**recipe, "model": model, "data": data}


def _short(base: str) -> str:
    return base if _HUB.fullmatch(base) else Path(base).name


def _bases(recipe: Mapping[str, Any]) -> dict[str, str]:
    model = recipe.get("model") or {}
    named = {"encoder": (model.get("encoders") or [""])[0], "llm": model.get("llm"), "ready": model.get("ready")}
    return {part: str(base) for part, base in named.items() if base}


def _made_of(speech: Any, bases: Mapping[str, str], recipe: Mapping[str, Any], merged: bool) -> Iterable[str]:
    config = speech.model.config
    if "ready" in bases:
        yield f"Base model: {_shown(bases['ready'], recipe)}{config.model_type}"
    heard: Any = getattr(config, "encoder_config", None) or getattr(config, "audio_config", None)
    yield f"Encoder: {_shown(bases.get('encoder', ''), recipe)}{heard.model_type}, {_size(speech, 'encoder')}"
    if isinstance(adapter := getattr(config, "adapter", None), dict):
        options = ", ".join(f"{key}: {json.dumps(value)}" for key, value in adapter.items() if key != "kind")
        yield f"Adapter: {adapter['kind']}{f' ({options})' if options else ''}, {_size(speech, 'adapter')}"
    text = config.get_text_config()
    yield f"LLM: {_shown(bases.get('llm', ''), recipe)}{text.model_type}, {_size(speech, 'llm')}"
    lora = recipe.get("lora") or {}
    if not merged:
        yield "LoRA: none; the LLM is as it was"
    elif lora:
        targets = ", ".join(lora.get("targets", []))
        yield f"LoRA: rank {lora.get('rank')}, alpha {lora.get('alpha')}, on {targets}; merged"
    else:
        yield "LoRA: merged"
    if recipe.get("name"):
        yield f"Recipe: {recipe['name']}"


def _size(speech: Any, part: str) -> str:
    count = sum(parameter.numel() for _, parameter in speech.named(part))
    return f"{count / 1e6:,.1f}M parameters" if count < 1e9 else f"{count / 1e9:,.2f}B parameters"


def _shown(base: str, recipe: Mapping[str, Any]) -> str:
    """A hub id with its revision, or the name of a folder, before what kind it is; nothing of none."""
    if not base:
        return ""
    revision = ((recipe.get("model") or {}).get("revision") or {}).get(base)
    if _HUB.fullmatch(base):
        return f"`{base}`{f' at {revision}' if revision else ''}, "
    return f"`{_short(base)}` (a local folder), "


def _data(recipe: Mapping[str, Any]) -> str:
    """The datasets that it was trained on, with their licences where they still lie there."""
    lines = []
    for spec in recipe.get("data") or []:
        path = Path(str(spec.get("path", "")))
        try:
            dataset = load_dataset(path)
        except NoDataset:
            lines.append(f"`{path.name}`, licences unknown")
            continue
        licences = [*dataset.licences, *(voice for voice in dataset.voices if voice not in dataset.licences)]
        lines.append(f"`{dataset.name}`: {'; '.join(licences) or 'licences unknown'}")
    return "## Data\n\n" + _list(lines) if lines else ""


def _list(lines: Iterable[str]) -> str:
    return "".join(f"- {line}\n" for line in lines)

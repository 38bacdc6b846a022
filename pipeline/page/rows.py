"""Rows: a sample as the page's script takes it. All text goes as it is; the script never reads it as markup."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from pipeline.audio import samples_of
from schemas.sample import Sample
from schemas.utterance import Audio, Utterance

Fact = tuple[str, str]

_POINTS = 120  # of a waveform
_LINE = 60  # characters of JSON on one
_LEVELS = "0123456789abcdefghijklmnopqrstuvwxyz"


def row(number: int, sample: Sample, sounds: list[str]) -> dict[str, Any]:
    """What is shown of a row.

    Args:
        number: By which `earwitness inspect --row` finds it.
        sample: The row.
        sounds: For each utterance the name of its sound on the page; empty where it has none there.
    """
    return {
        "number": number,
        "id": sample.id,
        "task": sample.task,
        "response_language": sample.language or "",
        "language": next((u.language for u in sample.utterances if u.language), None) or sample.language or "unknown",
        "split": sample.split,
        "outcome": sample.outcome,
        "situation": sample.situation,
        "rejected": sample.rejected,
        "detail": sample.detail,
        "speech": [_speech(u, sound) for u, sound in zip(sample.utterances, sounds, strict=True)],
        "mentions": [{"utterance": m.utterance, "argument": m.argument, "words": m.words} for m in sample.mentions],
        "messages": [
            {
                "role": message.role,
                "content": message.content if message.role != "tool" else indented(message.content),
                "calls": [{"id": c.id, "name": c.name, "arguments": indented(c.arguments)} for c in message.tool_calls],
                "call": message.tool_call_id or "",
            }
            for message in sample.messages
        ],
        "tools": [
            {"name": tool.name, "description": tool.description, "parameters": indented(tool.parameters)}
            for tool in sample.tools
        ],
        "choices": list(sample.choices),
        "answer": indented(sample.answer),
        "accepted": sample.answer.startswith(("[", "{")),
        "evidence": sample.evidence,
        "scores": _scores(sample),
        "provenance": _provenance(sample),
        "reply": sample.provenance.reply,
    }


def indented(text: str) -> str:
    """JSON over several lines; any other text as it is.

    It is done here, since JavaScript would round long numbers and write 2.0 as 2.
    """
    if not text.startswith(("{", "[")):
        return text
    try:
        return _laid_out(json.loads(text), "")
    except (ValueError, RecursionError):  # no JSON, or nested too deep
        return text


def _laid_out(value: Any, margin: str) -> str:
    """What is short stands on one line, the rest has a line for each item."""
    line = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if not isinstance(value, dict | list) or len(margin) + len(line) <= _LINE:
        return line
    inner = margin + "  "
    if isinstance(value, dict):
        items = [f"{json.dumps(key, ensure_ascii=False)}: {_laid_out(v, inner)}" for key, v in value.items()]
    else:
        items = [_laid_out(v, inner) for v in value]
    begin, end = "{}" if isinstance(value, dict) else "[]"
    return begin + "\n" + ",\n".join(inner + item for item in items) + f"\n{margin}{end}"


def _speech(utterance: Utterance, sound: str) -> dict[str, Any]:
    audio = utterance.audio
    return {
        "id": utterance.id,
        "transcript": utterance.transcript,
        "spoken": utterance.spoken if utterance.spoken not in (None, utterance.transcript) else None,
        "hypothesis": utterance.hypothesis,
        "voice": utterance.voice or "",
        "seconds": round(audio.seconds, 2) if audio else None,
        "sound": sound,
        "wave": waveform(audio) if audio and sound else "",
        "facts": _facts(utterance),
    }


def waveform(audio: Audio) -> str:
    """The highest level in each of 120 equal pieces, as digits of base 36 relative to the loudest."""
    samples = np.abs(samples_of(audio))
    if not len(samples):
        return ""
    edges = np.linspace(0, len(samples), _POINTS + 1).astype(int)[:-1]
    peaks = np.maximum.reduceat(samples, edges)
    levels = np.rint(peaks / max(float(peaks.max()), 1e-4) * (len(_LEVELS) - 1)).astype(int)
    return "".join(_LEVELS[level] for level in levels)


def _facts(utterance: Utterance) -> list[Fact]:
    audio, delivery = utterance.audio, utterance.delivery
    facts: list[tuple[str, Any]] = [
        ("utterance", utterance.id),
        ("corpus", utterance.corpus),
        ("language", utterance.language),
        ("speaker", utterance.speaker),
        ("recording", utterance.recording),
        ("voice", utterance.voice),
    ]
    if delivery is not None:
        facts += [
            ("engine", delivery.engine),
            ("voice’s licence", delivery.licence),
            ("rate", f"× {delivery.rate:.2f}" if delivery.rate != 1 else ""),
            ("pitch", f"× {delivery.pitch:.2f}" if delivery.pitch != 1 else ""),
        ]
    facts += [(f"effect {name}", value) for name, value in utterance.effects.items()]
    facts += [(f"label {name}", value) for name, value in utterance.labels.items()]
    facts += [("licence", utterance.licence), ("source", str(utterance.source) if utterance.source else "")]
    facts += [("mixed from", part.id) for part in utterance.parts]
    if audio is not None:
        facts += [
            ("duration", f"{audio.seconds:.2f} s"),
            ("original", f"{audio.format or 'unknown'}, {audio.sampling_rate} Hz, {audio.channels} ch"),
            ("speech level", f"{audio.speech_dbfs:.1f} dBFS"),
            ("peak", f"{audio.peak_dbfs:.1f} dBFS"),
            ("clipped", f"{audio.clipped:.2%}" if audio.clipped else ""),
        ]
    return _said(facts)


def _scores(sample: Sample) -> list[Fact]:
    scores = sample.scores
    return _said(
        [
            ("WER", None if scores.wer is None else f"{scores.wer:.1%}"),
            ("CER", None if scores.cer is None else f"{scores.cer:.1%}"),
            ("characters/s", None if scores.characters_per_second is None else f"{scores.characters_per_second:.1f}"),
        ]
    )


def _provenance(sample: Sample) -> list[Fact]:
    made = sample.provenance
    return _said(
        [
            ("instruction", made.instruction),
            ("prompt", made.prompt),
            ("LLM engine", made.engine),
            ("LLM", made.model),
            ("seed", made.seed or ""),
            ("attempts", made.attempts or ""),
            ("prompt tokens", made.prompt_tokens or ""),
            ("reply tokens", made.completion_tokens or ""),
        ]
    )


def _said(facts: list[tuple[str, Any]]) -> list[Fact]:
    return [(name, str(value)) for name, value in facts if value not in (None, "")]

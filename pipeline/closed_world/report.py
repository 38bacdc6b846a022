"""Report: what the closed world has shown, as a page, as text, and as numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path

from pipeline.closed_world.datasets import CONDITIONS
from pipeline.closed_world.measure import SYSTEMS, Figures, Number
from pipeline.closed_world.runs import COMPARED, CURRICULUM, DISTILLED, JOINT, SHORT
from pipeline.closed_world.sizes import ADAPTERS, Size
from pipeline.evaluate import charts
from pipeline.evaluate.drawings import learning
from pipeline.evaluate.report import Table
from pipeline.evaluate.results import NAMES
from pipeline.shards import write_atomically

PAGE, TEXT, NUMBERS = "report.html", "report.md", "report.json"
WARNING = (
    "These are closed-world figures: a toy encoder and a toy LLM, made on the spot, hear a synthesiser speak a few "
    "hundred words. They show whether the trainer works; they say nothing about real speech, and never stand beside "
    "figures on LibriSpeech or any other recorded corpus."
)
_NONE = "–"
_OTHERS = {
    SHORT: "curriculum, cross-entropy",
    JOINT: "all parts and tasks at once, cross-entropy",
    DISTILLED: "curriculum, distillation",
}
_WER_TINY, _ABOVE_SHUFFLED = 0.15, 0.40
_WER_FULL, _BELOW_ORACLE = 0.05, 0.05


@dataclass(frozen=True)
class Findings:
    """All that was measured."""

    size: Size
    main: dict[str, Figures]
    """Of the whole curriculum, by condition."""
    compared: dict[str, dict[str, Number]]
    """Of the short runs on unseen voices, by run."""
    took: dict[str, float]
    """Seconds of each part, when it was made."""
    seconds: float
    """Of this call: what was kept from an earlier one is not in it."""
    out: Path


@dataclass(frozen=True)
class Target:
    """What has to be reached."""

    wanted: str
    value: float
    reached: bool


def write(found: Findings) -> Path:
    """Writes page, text and numbers.

    Returns:
        The page.
    """
    drawn = learning(found.out / "runs" / CURRICULUM)
    write_atomically(found.out / TEXT, _markdown(found).encode())
    write_atomically(found.out / PAGE, _page(found, drawn).encode())
    write_atomically(found.out / NUMBERS, json.dumps(_numbers(found), indent=1).encode())
    return found.out / PAGE


def targets(found: Findings) -> list[Target]:
    """What the size must reach, on unseen voices."""
    own = found.main["unseen_voices"]
    heard, shuffled, oracle = own["end_to_end"], own["shuffled"], own["oracle"]
    wer = heard["wer"].value
    if found.size.name == "full":
        behind = oracle["ast"].value - heard["ast"].value
        return [
            Target(f"WER under {_WER_FULL:.0%}", wer, wer < _WER_FULL),
            Target("tool calls within 5 points of the oracle", behind, behind <= _BELOW_ORACLE),
        ]
    above = heard["ast"].value - shuffled["ast"].value
    return [
        Target(f"WER under {_WER_TINY:.0%}", wer, wer < _WER_TINY),
        Target("tool calls 40 points above the shuffled-audio control", above, above >= _ABOVE_SHUFFLED),
    ]


def tables(found: Findings) -> Iterator[Table]:
    """All tables."""
    yield Table(
        "Targets",
        ("on unseen voices", "measured", "reached"),
        [(t.wanted, f"{t.value:.1%}", "yes" if t.reached else "no") for t in targets(found)],
    )
    yield _systems(found, "ast", "Tool calls: AST accuracy")
    yield _systems(found, "correct", "All turns of tool dialogues that are right, those without a call among them")
    yield _systems(found, "wer", "Transcription: WER")
    short = found.size.training.short
    told = f"{short.adapter} + {short.lora} + {short.tasks} steps each; unseen voices"
    yield _runs(found, f"Adapters side by side: {told}", {f"adapter-{kind}": kind for kind in ADAPTERS})
    told = f"{short.total} steps each; unseen voices"
    yield _runs(found, f"Curriculum against joint training, distillation against cross-entropy: {told}", _OTHERS)
    yield Table(
        "Time", ("part", "seconds"), [(name, f"{spent:.0f}") for name, spent in found.took.items()] + [_total(found)]
    )


def _total(found: Findings) -> tuple[str, str]:
    return "this call, from start to report", f"{found.seconds:.0f}"


def _systems(found: Findings, figure: str, title: str) -> Table:
    rows = [
        (told, *(_shown(found.main[condition].get(system, {}).get(figure)) for system in SYSTEMS))
        for condition, told in CONDITIONS.items()
    ]
    return Table(title, ("condition", *(NAMES[system] for system in SYSTEMS)), rows)


def _runs(found: Findings, title: str, names: Mapping[str, str]) -> Table:
    rows = [
        (told, *(_shown(found.compared[name].get(figure)) for figure in ("wer", "ast", "correct")))
        for name, told in names.items()
        if name in found.compared
    ]
    return Table(title, ("run", "WER", "AST accuracy", "right turns"), rows)


def _shown(number: Number | None) -> str:
    return _NONE if number is None else number.shown()


def _head(found: Findings) -> str:
    size = found.size
    return (
        f"Size {size.name}: an encoder of {size.ears.layers} layers and {size.ears.hidden} units after "
        f"{size.ears.steps} steps, an LLM of {size.tongue.layers} layers and {size.tongue.hidden} units after "
        f"{size.tongue.steps} steps; both are frozen. Then the curriculum on {size.data.queries} tool dialogues and "
        f"{size.data.sentences} transcriptions. Intervals are of 95 %."
    )


def _markdown(found: Findings) -> str:
    parts = ["# The closed world", f"**{WARNING}**", _head(found)]
    for table in tables(found):
        parts += [f"## {table.title}", table.markdown]
    parts += ["## Runs", "\n".join(f"- `runs/{one.name}`" for one in COMPARED)]
    return "\n\n".join(parts) + "\n"


def _page(found: Findings, drawn: list[charts.Chart]) -> str:
    sections = "".join(f"<h2>{escape(table.title)}</h2>{_grid(table)}" for table in tables(found))
    figures = "".join(
        f"<figure><figcaption>{escape(chart.title)}</figcaption>{chart.svg()}</figure>" for chart in drawn
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        'content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>The closed world · Earwitness</title><style>{_STYLE}{charts.STYLE}</style></head><body>"
        f'<h1>The closed world</h1><p class="warning">{escape(WARNING)}</p><p>{escape(_head(found))}</p>'
        f"{sections}<h2>How it learnt</h2>{figures}</body></html>\n"
    )


_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h2 { font-size: 1.05rem; margin-top: 2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 0.25rem 0.7rem; border-bottom: 1px solid light-dark(#d9dde0, #343b42); }
th:first-child { text-align: left; font-weight: 500; }
.warning { border-left: 4px solid light-dark(#ad4a20, #e59166); padding-left: 0.8rem; }
.scroll { overflow-x: auto; }
figure { margin: 1rem 0; max-width: 34rem; }
"""


def _grid(table: Table) -> str:
    heads = "".join(f'<th scope="col">{escape(head)}</th>' for head in table.heads)
    rows = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in row[1:])}</tr>'
        for row in table.rows
    )
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'


def _numbers(found: Findings) -> dict[str, object]:
    plain = {
        condition: {s: {n: number.value for n, number in own.items()} for s, own in figures.items()}
        for condition, figures in found.main.items()
    }
    return {
        "size": found.size.name,
        "conditions": plain,
        "compared": {name: {n: number.value for n, number in own.items()} for name, own in found.compared.items()},
        "targets": [{"wanted": t.wanted, "value": t.value, "reached": t.reached} for t in targets(found)],
        "took": found.took,
        "seconds": found.seconds,
    }

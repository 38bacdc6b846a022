"""Report: an evaluation to be read, as one HTML file that opens anywhere and as markdown with drawings beside it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.evaluate import charts
from pipeline.evaluate.charts import Chart
from pipeline.evaluate.drawings import drawings, learning
from pipeline.evaluate.figures import NONE, Figure
from pipeline.evaluate.results import Result, Run
from pipeline.shards import write_atomically
from pipeline.text import unmarked

PAGE, TEXT, DRAWINGS = "report.html", "report.md", "figures"
_BAD = 20  # rows that are named on the page
_HERE = Path(__file__).resolve().parent
_STYLE = _HERE.parent / "page" / "page.css"
_templates = Environment(
    loader=FileSystemLoader(_HERE),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of texts under heads."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[tuple[str, str]] = ()
    """Names, and what they mean."""

    @property
    def markdown(self) -> str:
        """The same, to be read as text."""
        lines = [self.heads, ["---", *["---:"] * (len(self.heads) - 1)], *self.rows]
        cells = [["<br>".join(map(unmarked, cell.split("\n"))) for cell in line] for line in lines]
        return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def write(result: Result, out: Path, training: Path | None = None) -> Path:
    """Writes `report.html`, `report.md` and `figures/*.svg`.

    Args:
        result: Of `run.evaluate`.
        out: The evaluation's folder.
        training: The folder of the run that trained the model, for its curves.

    Returns:
        The page.
    """
    drawn = [*drawings(result), *learning(training)]
    for chart in drawn:
        write_atomically(out / DRAWINGS / f"{chart.name}.svg", chart.svg(alone=True).encode())
    values = {
        "result": result,
        "systems": [(run.label, run.told) for run in result.runs],
        "table": systems(result),
        "details": details(result),
        "charts": [(chart, Markup(chart.svg())) for chart in drawn],  # noqa: S704 - escaped where it is drawn
        "remarks": remarks(result),
        "bad": result.bad[:_BAD],
    }
    style = _STYLE.read_text(encoding="utf-8") + (_HERE / "report.css").read_text(encoding="utf-8") + charts.STYLE
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    values |= {"style": Markup(style), "policy": policy}  # noqa: S704 - our own files
    page = _templates.get_template("report.html").render(values)
    write_atomically(out / PAGE, page.encode())
    write_atomically(out / TEXT, _markdown(result, drawn).encode())
    return out / PAGE


def _written(figure: Figure | None, brief: bool = False) -> str:
    return NONE if figure is None else figure.written(interval=not brief)


def systems(result: Result, brief: bool = False) -> Table:
    """All systems, a row each, by their headline figures; `brief` without intervals and gaps."""
    families = [f for f in result.families if any(run.headline(f) for run in result.runs) and f != "joint form"]
    timed = any(run.latency for run in result.runs)
    heads = ["system"]
    for family in families:
        name = next(run.headlines[family] for run in result.runs if family in run.headlines)
        heads.append(f"{family}: {name.replace('_', ' ')}")
    heads += ["latency: median", "90 %", "first token"] if timed else []
    rows = []
    for run in result.runs:
        cells = [run.label]
        for family in families:
            shown = (_written(run.headline(family), brief), "" if brief else _gap(run, family))
            cells.append("\n".join(filter(None, shown)))
        if timed:
            seen = run.latency
            cells += [_seconds(s) for s in (seen.median, seen.p90, seen.first)] if seen else [NONE] * 3
        rows.append(cells)
    return Table("Systems on the same rows", heads, rows)


def _gap(run: Run, family: str) -> str:
    gap, figure = run.gaps.get(family), run.headline(family)
    if gap is None or figure is None:
        return ""
    scale = figure.scale
    text = f"gap {scale * gap.value:+.1f}"
    if gap.low is None or gap.high is None:
        return text
    return f"{text} ({scale * gap.low:+.1f} to {scale * gap.high:+.1f})"


def _seconds(value: float | None) -> str:
    return NONE if value is None else f"{1000 * value:.0f} ms" if value < 1 else f"{value:.2f} s"


def details(result: Result) -> list[Table]:
    """A table a family: each figure of each system."""
    tables = []
    for family in result.families:
        runs = [run for run in result.runs if run.families.get(family)]
        names = list(dict.fromkeys(f.name for run in runs for f in run.families[family]))
        rows, notes = [], []
        for name in names:
            found = [run.figure(family, name) for run in runs]
            first = next(f for f in found if f is not None)
            rows.append([name.replace("_", " "), str(max(f.count for f in found if f)), *map(_written, found)])
            notes.append((name.replace("_", " "), first.protocol))
        tables.append(Table(family, ["figure", "n", *(run.label for run in runs)], rows, notes))
    return tables


def remarks(result: Result) -> list[str]:
    """What a reader has to know of these figures."""
    said = [
        f"The LLM of all systems is the one within the model: {result.llm}. Cascade and oracle read with LoRA off.",
        "Dialogues are asked turn by turn with the reference's history; all systems are compared on the turns that "
        "each of them could be asked.",
    ]
    for run in result.runs:
        if run.cut:
            at = f"{result.settings['most_tokens']} tokens"
            said.append(f"{run.label}: {run.cut} of {run.answers} answers were still going on at {at}.")
        if run.absent:
            said.append(f"{run.label}: {run.absent} turns are not asked, since nothing is asked in text there.")
    if result.bad:
        said.append(f"Could not be asked, and is left out for all systems: {len(result.bad)} of the turns; see below.")
    judged = next((f for run in result.runs if (f := run.figure("tools", "outcome_judge"))), None)
    if judged is not None:
        said.append(
            f"Outcomes of answers without a call are judged by rule, which is right about "
            f"{judged.written(interval=False)} of the dataset's own {judged.count} such answers."
        )
    return said


def summary(result: Result) -> str:
    """The table of systems and what has to be known of it, as markdown."""
    parts = [
        f"# Evaluation of {result.model}",
        f"On {result.rows} rows of the split `{result.split}` of {result.dataset}: {result.turns} responses.",
        "## Systems on the same rows",
        systems(result).markdown,
        "\n".join(f"- **{run.label}**: {run.told}" for run in result.runs),
        "\n".join(f"- {text}" for text in remarks(result)),
    ]
    return "\n\n".join(parts)


def _markdown(result: Result, drawn: Sequence[Chart]) -> str:
    parts = [summary(result)]
    parts += [f"## {c.title}\n\n{c.note}\n\n![{c.title}]({DRAWINGS}/{c.name}.svg)" for c in drawn]
    for table in details(result):
        notes = "\n".join(f"- {name}: {text}" for name, text in table.notes)
        parts.append(f"## {table.title}\n\n{table.markdown}\n\n{notes}")
    if result.bad:
        parts.append("## Not asked\n\n" + "\n".join(f"- {unmarked(turn)}: {unmarked(why)}" for turn, why in result.bad))
    return "\n\n".join(parts) + "\n"

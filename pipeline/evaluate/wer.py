"""WER and CER: edits for each word, and character, that was said; all rows together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipeline.evaluate.figures import Figure, of_sums
from pipeline.evaluate.items import Item
from pipeline.wer import Errors, compare, said
from schemas.sample import Sample
from schemas.utterance import Utterance

PROTOCOL = (
    "wer/earwitness-1: edits / words of the references, summed over rows (jiwer), both sides normalised; each as "
    "written and as spoken, the nearest pair counts"
)
CER_PROTOCOL = "cer/earwitness-1: as wer/earwitness-1, of characters with the spaces between words"
QUERY_PROTOCOL = "query-wer/earwitness-1: wer/earwitness-1 of the spoken queries, as the system says it has heard them"


def of_output(sample: Sample, output: str) -> Errors:
    """A transcription against what is said in a sample."""
    language = sample.utterances[0].language if sample.utterances else sample.language
    texts = [" ".join(parts) for parts in _versions(sample.utterances)]
    references = tuple(dict.fromkeys(text for text in (sample.answer or sample.response, *texts) if text.strip()))
    return compare(references or ("",), output, language)


def of_utterance(utterance: Utterance, heard: str) -> Errors:
    """What was heard in an utterance against what is said in it."""
    return compare(said(utterance) or ("",), heard, utterance.language)


def _versions(utterances: Sequence[Utterance]) -> Iterable[list[str]]:
    """What is said in all utterances together: by their transcripts, and as voices were given it."""
    yield [u.transcript for u in utterances]
    yield [u.spoken or u.transcript for u in utterances]


def figures(items: Sequence[Item]) -> list[Figure]:
    """WER and CER of transcriptions."""
    return rates((item.row, of_output(item.turn.sample, item.output)) for item in items)


def query(items: Sequence[Item]) -> list[Figure]:
    """WER of the queries that tools are called for, each utterance once; nothing where no system says what it heard."""
    heard: dict[str, tuple[str, Errors]] = {}
    for item in items:
        utterances = item.turn.sample.utterances
        for utterance, text in zip(utterances[len(utterances) - len(item.heard) :], item.heard, strict=True):
            heard.setdefault(utterance.id, (item.row, of_utterance(utterance, text)))
    return [_rate("query_wer", list(heard.values()), QUERY_PROTOCOL)] if heard else []


def rates(errors: Iterable[tuple[str, Errors]]) -> list[Figure]:
    """Both rates of errors by row."""
    every = list(errors)
    characters = _together([(row, e.character_edits, e.characters) for row, e in every])
    found = [of_sums("cer", characters, CER_PROTOCOL, better="lower", count=len(every))]
    # Of languages whose words are not parted by spaces there is no WER.
    return [_rate("wer", every, PROTOCOL), *found] if any(e.words for _, e in every) or not every else found


def _rate(name: str, errors: Sequence[tuple[str, Errors]], protocol: str) -> Figure:
    sums = _together([(row, e.word_edits, e.words) for row, e in errors if e.words or e.word_edits])
    return of_sums(name, sums, protocol, better="lower", count=len(errors))


def _together(sums: Iterable[tuple[str, int, int]]) -> list[tuple[float, float]]:
    """The sums of each row."""
    rows: dict[str, tuple[float, float]] = {}
    for row, above, below in sums:
        before = rows.get(row, (0.0, 0.0))
        rows[row] = before[0] + above, before[1] + below
    return list(rows.values())

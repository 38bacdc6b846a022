"""Questions that the speech does not answer."""

from __future__ import annotations

import re
import string

from pipeline.stage import Filter
from pipeline.text import contains, has_any, spaced, words
from schemas.sample import Rejection, Sample

_GAP = re.compile(r"\s*(?:\.{3}|…|\[\.{3}\]|\[…\])\s*")
_UNSAID = re.compile(
    r"""
    \A\W*(?: (?:(?:it|this|that)(?:\ is|\ was|['’]s)\ )?
             not\ (?:mentioned|stated|specified|given|said|provided|clear|known|explained)\b
           | the\ \w+(?:\ \w+)?\ (?:is|was|are|were)\ not\ (?:mentioned|stated|specified)\b
           | unknown\b | (?:it\ )?cannot\ be\ (?:determined|inferred|known)\b | no\ (?:information|answer|mention)\b
           | (?:это\ |об\ этом\ )?не\ (?:указан|упомин|упомян|сказан|уточня|сообща|известн|говорится)\w*
           | (?:это\ )?неизвестно\b
           | (?:isso\ )?não\ (?:é\ |foi\ |está\ )?(?:mencionad|especificad|informad|dit|clar)[oa]s?\b
           | (?:isso\ )?não\ se\ (?:diz|menciona|sabe|informa)\b | (?:é\ )?desconhecid[oa]\b
         )
    | \b(?: (?:speaker|speech|recording|audio|clip|passage|text|transcript|man|woman|person|he|she)
            \ (?:does|do|did)(?:\ not|n['’]t)\ (?:say|mention|specify|state|explain)\b(?!\ (?:goodbye|hello|anything)\b)
          | not\ (?:mentioned|specified|stated|given|said|clear)\ (?:in|by|from)\ (?:the|this)\b
          | говорящ\w+\ (?:этого\ |об\ этом\ )?не\ (?:указывает|упоминает|говорит|уточняет|сообщает)\b
          | (?:в|на)\ (?:аудио|запис\w+|реч\w+|тексте)\ (?:это\ |этого\ |об\ этом\ )?не
            \ (?:указан|упомин|упомян|сказан|говор|уточня|сообща)\w*
          | (?:falante|pessoa|locutora?|gravação|áudio|quem\ fala|ele|ela)
            \ não\ (?:menciona|diz|especifica|informa|explica)\b
        )
    """,
    re.IGNORECASE | re.VERBOSE,
)
"""Said of the speech, or in place of an answer; `an unknown composer` is an answer."""
_UNSAID_HAS = ("not", "n't", "n’t", "unknown", "no ", "не", "não", "desconhecid")
"""Each match has one of these in it."""


class Answerable(Filter):
    """The words that an answer rests on must be said, in that order, and the answer must be one."""

    def reason(self, sample: Sample) -> Rejection | None:
        if not sample.provenance.engine or not sample.evidence:
            return None
        language = sample.utterances[0].language
        said = words(sample.transcript)
        for part in filter(None, _GAP.split(sample.evidence)):
            if not _is_said(part, said, language):
                return Rejection("not_answerable", f"{part[:120]!r} is not said")
        if not words(sample.evidence):
            return Rejection("not_answerable", "no words are named that the answer rests on")
        answer = _answer(sample)
        if has_any(answer.lower(), _UNSAID_HAS) and _UNSAID.search(answer) and not _UNSAID.search(sample.transcript):
            return Rejection("not_answerable", answer[:120])
        return None


def _answer(sample: Sample) -> str:
    """The response; where that is a letter, the option that it stands for."""
    if not sample.choices:
        return sample.response
    return sample.choices[string.ascii_uppercase.index(sample.answer)]


def _is_said(part: str, said: list[str], language: str | None) -> bool:
    named = words(part)
    if spaced(language):
        return contains(said, named)
    return "".join(named) in "".join(said)

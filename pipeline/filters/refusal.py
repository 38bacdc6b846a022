"""Replies in which the LLM declines or speaks of itself instead of answering."""

from __future__ import annotations

import re
from typing import ClassVar

from pipeline.stage import Filter
from pipeline.text import has_any
from schemas.sample import Rejection, Sample

_FLAGS = re.IGNORECASE | re.VERBOSE
_ITSELF = re.compile(
    r"""
    \b(?: (?:as|i['’]?m|i\ am)\ (?:just\ |only\ )?an?\ (?:ai\b|artificial\ intelligence|(?:large\ )?language\ model)
        | (?:как|будучи|я|я\ [—–-]|всего\ лишь|просто)\ (?:(?:всего\ лишь|просто)\ )?
          (?:ии\b|искусственн(?:ый|ым)\ интеллект|(?:большая\ )?языковая\ модель)
        | я\ являюсь\ (?:(?:большой\ )?языковой\ моделью|искусственным\ интеллектом)
        | como\ (?:uma\ ia\b|(?-i:IA)\b)
        | como\ (?:uma?\ )?(?:inteligência\ artificial|modelo\ de\ linguagem|assistente\ virtual)
        | sou\ (?:apenas\ |só\ )?uma?\ (?:modelo\ de\ linguagem|ia\b|inteligência\ artificial|assistente\ virtual)
        | como\ (?:una\ ia\b|(?:un\ )?modelo\ de\ lenguaje)
        | en\ tant\ qu(?:['’]|e\ )(?:ia\b|intelligence\ artificielle|modèle\ de\ langage)
        | als\ (?:ki\b|sprachmodell)
    )
    """,
    _FLAGS,
)
_ITSELF_HAS = (
    *(" ai", "artificial", "language model", "ии", "искусственн", "языков"),
    *(
        " ia",
        "en tant qu",
        "inteligência",
        "linguagem",
        "assistente virtual",
        "lenguaje",
        "langage",
        "als ki",
        "sprachmodell",
    ),
)
"""Each match has one of these in it; so with the others."""
_CANNOT = r"(?:can(?:no|['’])t|won['’]t|(?:am|['’]m)\ (?:not\ able|unable)\ to)"
_DECLINES = re.compile(
    rf"""
    \b(?: (?:sorry|i\ apologi[sz]e|unfortunately)[^.!?]{{0,30}}\bi\ ?{_CANNOT}
        | i\ ?{_CANNOT}\ (?:actually\ |directly\ )?
          (?: (?:assist|comply|fulfil?l?|provide|engage|continue|answer|create|generate|support|translate)\b
            | help\b(?!\ (?:but|it|\w+ing)\b)
            | (?:set|play|check|browse|book|order|send|process|access)\b )
        | i\ (?:don['’]t|do\ not)\ have\ (?:access|the\ ability|enough\ (?:information|context))
        | (?:извините|простите|к\ сожалению|прошу\ прощения)[^.!?]{{0,40}}\bне\ (?:могу|имею|в\ состоянии|умею)\b
        | я\ не\ (?:могу|в\ состоянии)\ (?:помочь|ответить|выполнить|продолжить|предоставить|обсуждать|перевести)
        | у\ меня\ нет\ (?:доступа|возможности|достаточной\ информации)
        | (?:desculp[ae]s?|sinto\ muito|lamento|infelizmente)[^.!?]{{0,40}}\bnão\ (?:posso|consigo|tenho\ como)\b
        | não\ (?:posso|consigo)\ (?:ajudar|atender|responder|fornecer|continuar|realizar|traduzir)
        | não\ tenho\ (?:acesso|a\ capacidade)
        | (?:lo\ siento|perdón)[^.!?]{{0,40}}\bno\ (?:puedo|tengo\ acceso)
        | (?:désolée?|je\ regrette)[^.!?]{{0,40}}\bje\ ne\ (?:peux|suis\ pas\ en\ mesure)
        | (?:tut\ mir\ leid|entschuldigung)[^.!?]{{0,20}}\b(?:kann\ ich|ich\ kann)\b[^.!?]{{0,40}}\bnicht\b
    )
    """,
    _FLAGS,
)
_DECLINES_HAS = (
    *("cannot", "can't", "can’t", "won't", "won’t", "not able", "unable", "don't", "don’t", "do not"),
    *("не ", "у меня нет", "não ", "no puedo", "no tengo", "je ne", "nicht"),
)
_DECLINES_THE_WORK = re.compile(
    rf"""
    \b(?: i\ ?{_CANNOT}\ (?:assist|help|comply|fulfil?l?|continue|translate|complete|provide|generate|create|write)\b
          [^.!?]{{0,30}}\b(?:with\ (?:that|this)[.,!]|request\b|content\b|text\b|story\b|translation\b)
        | не\ (?:могу|в\ состоянии)\ (?:помочь|выполнить|продолжить|перевести|предоставить|обсуждать)\b
          [^.!?]{{0,30}}\b(?:с\ этим|эт(?:от|у)|запрос\w*|просьб\w+|текст\w*|перевод\w*)\b
        | não\ (?:posso|consigo)\ (?:ajudar|atender|continuar|traduzir|fornecer|realizar)\b
          [^.!?]{{0,30}}\b(?:isso|iss[oa]|est[ea]|ess[ea]|pedido|texto|tradução|solicitação)\b
    )
    """,
    _FLAGS,
)
_SPEAKERS_WORDS = frozenset({"continuation", "translation"})
"""Tasks whose responses are the speaker's own words: whoever speaks may well be sorry and unable to come."""
_LOOKED_AT = 400  # characters: a refusal comes first


class Refusal(Filter):
    """Known phrases, in English, Russian, Portuguese, Spanish, French and German."""

    order: ClassVar[int] = -1  # a refusal is also short, general and often in English

    def reason(self, sample: Sample) -> Rejection | None:
        if not sample.provenance.engine:
            return None
        response = sample.response[:_LOOKED_AT]
        lower = response.lower()
        found = _ITSELF.search(response) if has_any(lower, _ITSELF_HAS) else None
        if not has_any(lower, _DECLINES_HAS):
            pass
        elif sample.task not in _SPEAKERS_WORDS:
            found = found or _DECLINES.search(response)
        elif _DECLINES.search(sample.transcript) is None:
            found = found or _DECLINES_THE_WORK.search(response)
        return Rejection("reply_refused", found[0]) if found else None

"""Responses and questions that give away that somebody read a text instead of hearing speech."""

from __future__ import annotations

import re

from pipeline.stage import Filter
from pipeline.text import base, has_any, words
from schemas.sample import Rejection, Sample

_FLAGS = re.IGNORECASE | re.VERBOSE
_MENTIONS = re.compile(
    r"""
    \b(?: (?:given|provided|above|following)\ (?P<en>text|passage|paragraph|excerpt|sentence|article|document|prompt)\b
        | (?:the|this|that|your)\ (?:\w+\ )?(?P<en2>text|passage|paragraph|excerpt|sentence|article|document|prompt)
          \ (?: (?:clearly\ |explicitly\ )?(?:says|states|mentions|describes|talks|explains|contains|suggests|implies
                  |refers|discusses|continues|asks|is\ (?:about|asking|a\ question)|provided|given|above)\b
              | do(?:es)?(?:\ not|n['’]t)\ (?:say|state|mention|describe|explain|specify)\b
              | (?:says?|states?|mentions?|describes?)\b )
        | (?<!academic\ )(?<!school\ )(?<!official\ )(?P<en3>transcript|transcription)\b
        | (?:you|you['’]ve)\ (?:just\ |have\ )?(?P<en4>wrote|written|typed)\b
        | the\ (?P<author>author|writer)\ (?:says|states|mentions|writes|describes)\b
        | (?P<en5>text-based)\b
        | (?:can(?:no|['’])t|unable\ to|not\ able\ to|ability\ to)\ (?:actually\ |directly\ )?
          (?:hear|listen\ to|process|play|access)\ (?:the\ |this\ |any\ |your\ )?(?:audio|recordings?|sound\ files?)\b
        | (?P<ru>транскри(?:пт|пци)\w*|расшифровк\w+)
        | (?:данн|приведённ|приведенн|предоставленн|указанн)\w+\ (?P<ru2>текст|отрыв|абзац|предложени|фраз)\w*
        | вы\ (?P<ru3>написали|напечатали)\b
        | (?P<ru5>автор)\ (?:пишет|говорит|упоминает|описывает)\b
        | (?P<ru4>текст|отрывок|абзац)\ (?:не\ )?(?:говорит|сообщает|описывает|содержит|упоминает|рассказывает)\b
        | (?P<pt>transcriç(?:ão|ões))\b
        | (?P<pt2>texto|trecho|parágrafo|frase|passagem|artigo)
          \ (?: (?:não\ )?(?:diz|menciona|descreve|informa|afirma|conta|fala|explica)\b | fornecid[oa]\b | acima\b )
        | você\ (?P<pt3>escreveu|digitou)\b
    )
    """,
    _FLAGS,
)
_REFERS = re.compile(
    r"""
    \b(?: (?:in|from|by|on|of|about|according\ to)\ (?:the|this|that|your)\ (?:original\ )?
          (?P<en>text|passage|paragraph|excerpt|sentence)\b(?!\ (?:of|message|field|box|book|file)\b)
        | (?:does|do|did|is)\ (?:the|this)\ (?P<en2>text|passage|paragraph|excerpt|sentence)\b(?!\ (?:of|message))
        | i\ (?:can(?:no|['’])t|am\ unable\ to|do\ not|don['’]t)\ (?:actually\ )?(?:hear|listen)(?:\ to)?(?:\ you)?[.,!]
        | (?:в|из|согласно|по|судя\ по)\ (?:(?:этом|этого|этому|вашем|вашего|самом)\ )?
          (?P<ru>(?:текст|отрывк|абзац)[еау])\b(?!\ (?:песни|договора|письма|закона|сообщения|объявления))
        | (?:в|из)\ (?:этом|этого)\ (?P<ru2>предложени[ия])\b
        | я\ не\ (?:могу|умею)\ (?:слышать|слушать|прослуш\w+)(?:\ (?:вас|аудио\w*|запис\w+|речь))?\s*[.,!]
        | (?:no|do|deste|neste|nesse|segundo\ o|conforme\ o)\ (?P<pt>texto|parágrafo)\b(?!\ d[aeo]\b)
        | (?:neste|nesse|deste)\ (?P<pt2>trecho)\b(?!\ d[aeo]\b)
        | (?:nesta|nessa|desta)\ (?P<pt3>frase|passagem)\b
        | não\ (?:posso|consigo)\ (?:ouvir|escutar)(?:\ (?:áudios?|gravações|você))?\s*[.,!]
    )
    """,
    _FLAGS,
)
"""These may also be the speaker's own words, and so stand in what continues or translates them."""
_STEMS = (
    *"text passage paragraph excerpt sentence article document prompt transcri".split(),
    *"wrote written typed author writer".split(),
    *("cannot", "can't", "can’t", "unable to", "able to", "ability to", "do not", "don't", "don’t"),
    *"транскри расшифров текст отрыв абзац предложени фраз написали напечатали автор".split(),
    *("не могу", "не умею"),
    *"trecho parágrafo frase passagem artigo escreveu digitou".split(),
    *("não posso", "não consigo"),
)
"""Each match of the patterns has one of these in it."""
_SPEAKERS_WORDS = frozenset({"continuation", "translation"})
_SPEAKS_OF_TEXT = re.compile(
    r"\b(?:text|tekst|текст|transcri|transkri|транскри|расшифр|passage|passagem|sentenc|предложени|frase|phrase|фраз|satz"
    r"|absatz|абзац|отрыв|trecho|excerpt|parágrafo|paragra|párrafo|arti[cgk]|стать|documen|dokumen|докумен"
    r"|wr[io]t|author|автор|autor|писа|escrev|schreib|écri)",
    re.IGNORECASE,
)


class Modality(Filter):
    """Known phrases in English, Russian and Portuguese, unless the speaker speaks of such things."""

    def reason(self, sample: Sample) -> Rejection | None:
        if not sample.provenance.engine:
            return None
        for text in (sample.response, _question(sample)):
            if not has_any(text.lower(), _STEMS):
                continue
            for pattern in (_MENTIONS, _REFERS):
                if pattern is _REFERS and sample.task in _SPEAKERS_WORDS:
                    continue
                found = next((m for m in pattern.finditer(text) if not _spoken_of(m, sample)), None)
                if found:
                    return Rejection("mentions_transcript", found[0])
        return None


def _spoken_of(found: re.Match[str], sample: Sample) -> bool:
    """Whether the speaker speaks of what is mentioned, or of anything alike in another language."""
    noun = next((group for group in found.groups() if group), "").lower()
    if not noun:
        return False
    if base(sample.language) != base(sample.utterances[0].language):
        return _SPEAKS_OF_TEXT.search(sample.transcript) is not None
    stem = "wr" if noun.startswith("wr") else noun[: max(4, min(7, len(noun) - 3))]
    return any(word.startswith(stem) for word in words(sample.transcript))


def _question(sample: Sample) -> str:
    """The question, where the LLM wrote it; our own instructions are checked by tests."""
    return sample.messages[-2].content if sample.evidence and len(sample.messages) > 1 else ""

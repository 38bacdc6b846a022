"""Spelling: English words that are written in several ways, brought to one, so that metrics do not count them.

What Whisper's normaliser does (Radford et al., 2022, appendix C), with rules in place of its list of words.
Both sides of a comparison go through them, so the result need not be a word (`promize`): all that matters
is that variants meet and that different words do not.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

_WHOLE = dict(
    pair.split("=")
    for pair in """aeroplane=airplane, aluminium=aluminum, artefact=artifact, axe=ax, centred=centered, cheque=check,
    chilli=chili, cosy=cozy, disc=disk, distil=distill, enrol=enroll, enrolment=enrollment, fulfil=fulfill,
    fulfilment=fulfillment, gaol=jail, grey=gray, instalment=installment, instil=instill, jewellery=jewelry, kerb=curb,
    mum=mom, mummy=mommy, ok=okay, programme=program, pyjamas=pajamas, skilful=skillful, storey=story, tyre=tire,
    whisky=whiskey, wilful=willful, yoghurt=yogurt, alright=all right, amongst=among, cannot=can not, towards=toward,
    whilst=while, mr=mister, mrs=missus, dr=doctor, prof=professor, vs=versus, wanna=want to, gonna=going to,
    gotta=got to, kinda=kind of, sorta=sort of, dunno=do not know, gimme=give me, lemme=let me, cause=because,
    woulda=would have, coulda=could have, shoulda=should have""".replace("\n   ", "").split(", ")
)
_CONTRACTIONS = [
    (re.compile(r"\bwon't\b"), "will not"),
    (re.compile(r"\bcan't\b"), "can not"),
    (re.compile(r"\bshan't\b"), "shall not"),
    (re.compile(r"\blet's\b"), "let us"),
    (re.compile(r"\by'all\b"), "you all"),
    (re.compile(r"\bma'am\b"), "madam"),
    (re.compile(r"\bo'clock\b"), "oclock"),
    (re.compile(r"\bain't\b"), "aint"),
    (re.compile(r"'s(?= (?:been|gone|got)\b)"), " has"),
    (re.compile(r"'d(?= (?:been|gone|done)\b)"), " had"),
    (re.compile(r"n't\b"), " not"),
    (re.compile(r"'re\b"), " are"),
    (re.compile(r"'s\b"), " is"),  # of possessives too, on both sides
    (re.compile(r"'d\b"), " would"),
    (re.compile(r"'ll\b"), " will"),
    (re.compile(r"'ve\b"), " have"),
    (re.compile(r"'m\b"), " am"),
]
_OUR = (
    "ard|arm|behavi|cand|clam|col|demean|endeav|enam|fav|ferv|flav|glam|harb|hon|hum|lab|neighb|od|parl|ranc|rig"
    "|rum|sav|savi|splend|succ|tum|val|vap|vig"
)
_RE = "accout|calib|cent|fib|goit|lit|lust|maneuv|manoeuv|meag|met|mit|och|reconnoit|sab|scept|sepulch|somb|spect|theat"
_AE = "aem|aesth|rchaeo|caesar|clopaed|faec|gynaec|leukaem|mediaev|paed|palaeo|naem|haem"
_OE = "moeb|pnoea|coeliac|rrhoea|foet|noeuv|oedem|oesoph|oestr|homoeo"
_RULES: list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = [
    (re.compile(rf"\w*(?:{_AE})"), lambda m: m[0].replace("ae", "e")),
    (re.compile(rf"\w*(?:{_OE})"), lambda m: m[0].replace("oe", "e")),
    (re.compile(rf"({_OUR})our"), r"\1or"),
    (re.compile(rf"({_RE})re(?=s?$|d$)"), r"\1er"),
    (re.compile(r"(?<=\w\w)is(?=(?:e|ed|es|er|ers|ing|ingly|ement|ation|ations|able)$)"), "iz"),
    (re.compile(r"(?<=\w\w)ys(?=(?:e|ed|es|er|ers|ing)$)"), "yz"),
    (re.compile(r"(?<=\w\w)ogue(?=s?$)"), "og"),
    (re.compile(r"(?<=\w\w[eaio])ll(?=(?:ed|ing|er|ers|or|ors|ous|ously|est|ation|ations)$)"), "l"),
    (re.compile(r"^(defen|offen|preten|licen|practi)c(?=e|ing)"), r"\1s"),
    (re.compile(r"^mou(?=ld|lt)"), "mo"),
    (re.compile(r"^plough"), "plow"),
    (re.compile(r"^draught"), "draft"),
    (re.compile(r"(?<=gra)mme(?=s?$)"), "m"),
    (re.compile(r"(?<=fle|nne)xion"), "ction"),
    (re.compile(r"^sceptic"), "skeptic"),
    (re.compile(r"(?<=dg)e(?=ments?$)"), ""),
]


def expanded(text: str) -> str:
    """Small letters with contractions written out: `it's` gives `it is`."""
    if "'" in text:
        for pattern, full in _CONTRACTIONS:
            text = pattern.sub(full, text)
    return text.replace("'", "")


@lru_cache(maxsize=8192)
def one_way(word: str) -> str:
    """The form of a word, in small letters, that all ways to write it share; of some, several words."""
    if word in _WHOLE:
        return _WHOLE[word]
    if word.endswith("s") and word[:-1] in _WHOLE:
        return f"{_WHOLE[word[:-1]]}s"
    for pattern, form in _RULES:
        word = pattern.sub(form, word)
    return word

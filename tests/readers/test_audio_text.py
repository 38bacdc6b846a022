"""Audio files with a text file each, or with the transcript in their names."""

from __future__ import annotations

import logging
import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.audio import load
from pipeline.readers.audio_text import AudioText
from tests.reading import files_read, forgotten, index, read, reasons, said, sound, sounds, text, the, tone, wrong


class TestTexts:
    """Which text belongs to which audio."""

    def test_beside_with_either_suffix(self, tmp_path: Path) -> None:
        sounds(tmp_path, "a.wav", "sub/b.FLAC", "ü.ogg")
        text(tmp_path / "a.txt", "one")
        text(tmp_path / "sub" / "b.LAB", "two", "lines")
        text(tmp_path / "ü.txt", "drei", end="\r\n", encoding="utf-8-sig")
        found = read("audio_text", tmp_path)
        assert said(found) == {"a": "one", "ü": "drei", "sub/b": "two lines"}
        assert files_read(found) == ["a.wav", "ü.ogg", "sub/b.FLAC"]
        assert {(u.speaker, u.language, u.split, u.duration, u.sampling_rate) for u in found} == {(None,) * 5}

    def test_in_another_folder(self, tmp_path: Path) -> None:
        sounds(tmp_path, "wav/a.wav", "wav/deep/b.wav")
        text(tmp_path / "lab" / "a.lab", "one")
        text(tmp_path / "lab" / "b.lab", "two")
        assert said(read("audio_text", tmp_path)) == {"wav/a": "one", "wav/deep/b": "two"}

    def test_names_that_come_again_in_other_folders_are_told_apart(self, tmp_path: Path) -> None:
        for who in ("anna", "bert"):
            sounds(tmp_path, f"{who}/wav/1.wav", f"{who}/wav/2.wav")
            text(tmp_path / who / "lab" / "1.lab", f"{who} one")
        text(tmp_path / "bert" / "lab" / "2.lab", "bert two")
        assert said(read("audio_text", tmp_path)) == {
            "anna/wav/1": "anna one",
            "anna/wav/2": "",
            "bert/wav/1": "bert one",
            "bert/wav/2": "bert two",
        }, "the text of another speaker is no transcript"

    def test_copies_share_their_text(self, tmp_path: Path) -> None:
        sounds(tmp_path, "jfk.wav", "jfk.flac")
        text(tmp_path / "jfk.txt", "ask not")
        assert said(read("audio_text", tmp_path)) == {"jfk.wav": "ask not", "jfk.flac": "ask not"}

    def test_longer_suffixes(self, tmp_path: Path) -> None:
        sounds(tmp_path, "a.wav")
        text(tmp_path / "a.normalized.txt", "normalised")
        text(tmp_path / "a.original.txt", "Original")
        assert said(read("audio_text", tmp_path, text_suffixes=[".normalized.txt"])) == {"a": "normalised"}
        assert said(read("audio_text", tmp_path, text_suffixes=[".original.TXT"])) == {"a": "Original"}

    def test_two_texts_are_an_error_that_names_them(self, tmp_path: Path) -> None:
        sounds(tmp_path, "a.wav")
        text(tmp_path / "a.txt", "one")
        text(tmp_path / "a.lab", "ONE")
        complaint = wrong("audio_text", tmp_path)
        assert "a.wav has several texts" in complaint
        assert "a.txt" in complaint
        assert "text_suffixes" in complaint
        assert said(read("audio_text", tmp_path, text_suffixes=[".lab"])) == {"a": "ONE"}

    def test_two_equally_near_texts_cost_only_that_row(self, tmp_path: Path) -> None:
        sounds(tmp_path, "a.wav", "b.wav")
        text(tmp_path / "b.txt", "b")
        text(tmp_path / "x" / "a.txt", "one")
        text(tmp_path / "y" / "a.txt", "two")
        found = read("audio_text", tmp_path)
        assert said(found) == {"b": "b"}
        assert reasons(found)["a"] == "ambiguous_transcript"
        assert "x/a.txt and y/a.txt" in the(found, "a").problem

    def test_without_text(self, tmp_path: Path) -> None:
        sounds(tmp_path, "a.wav", "b.wav")
        text(tmp_path / "a.txt")
        found = read("audio_text", tmp_path)
        assert said(found) == {"a": "", "b": ""}

    def test_texts_without_audio_are_named(self, tmp_path: Path) -> None:
        sounds(tmp_path, "a.wav")
        text(tmp_path / "a.txt", "one")
        text(tmp_path / "日本語.txt", "二")
        text(tmp_path / "sub" / "c.lab", "three")
        for prose in ("README.txt", "LICENSE.txt", "Readme.lab", "requirements.txt"):
            text(tmp_path / prose, "prose")
        found = read("audio_text", tmp_path)
        assert reasons(found) == {"日本語.txt": "audio_missing", "sub/c.lab": "audio_missing"}
        assert the(found, "sub/c.lab").transcript == "three"

    def test_a_text_in_another_encoding_spoils_no_other(self, tmp_path: Path) -> None:
        sounds(tmp_path, "a.wav", "b.wav")
        text(tmp_path / "a.txt", "café", encoding="latin-1")
        text(tmp_path / "b.txt", "café")
        text(tmp_path / "c.txt", "naïf", encoding="utf-16")
        found = read("audio_text", tmp_path)
        assert said(found) == {"b": "café"}
        assert reasons(found) == {"a": "malformed_text", "c.txt": "audio_missing"}
        assert "a.txt:1 is not UTF-8" in the(found, "a").problem

    def test_composed_and_decomposed_names_are_one(self, tmp_path: Path) -> None:
        sounds(tmp_path, unicodedata.normalize("NFD", "été") + ".wav")
        text(tmp_path / (unicodedata.normalize("NFC", "été") + ".txt"), "summer")
        assert said(read("audio_text", tmp_path)) == {"été": "summer"}

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.dictionaries(
            st.tuples(st.sampled_from(["", "x/", "x/y/", "z/"]), st.sampled_from("abc")),
            st.sampled_from(["audio", "text", "both"]),
            min_size=1,
        )
    )
    def test_nothing_is_lost_and_no_text_is_used_for_other_words(
        self, tmp_path_factory: pytest.TempPathFactory, corpus: dict[tuple[str, str], str]
    ) -> None:
        folder = tmp_path_factory.mktemp("c")
        for (where, name), has in corpus.items():
            if has != "text":
                sound(folder / where / f"{name}.wav", seconds=0.01)
            if has != "audio":
                text(folder / where / f"{name}.txt", f"text of {where}{name}")
        if not any(has != "text" for has in corpus.values()):
            return
        found = list(AudioText(name="c", path=str(folder)).utterances())
        assert forgotten(folder, found) == set()
        both = {f"{where}{name}" for (where, name), has in corpus.items() if has == "both"}
        assert all(the(found, key).transcript == f"text of {key}" for key in both)
        used = {u.id[2:]: u.transcript.removeprefix("text of ") for u in found if u.transcript and u.problem is None}
        assert all(key == own or own not in both for key, own in used.items())
        texts = {f"text of {where}{name}" for (where, name), has in corpus.items() if has != "audio"}
        if used:
            assert texts == {u.transcript for u in found if u.transcript}


class TestFiles:
    """Which files are audio."""

    def test_by_name_in_any_case(self, tmp_path: Path) -> None:
        sounds(tmp_path, "a.WAV", "b.Flac", "c.mp3", "d.opus", "e.aiff", "f.au", "g.caf", "h.sph")
        (tmp_path / "i.m4a").write_bytes(b"")
        (tmp_path / "j.s16").write_bytes(bytes(320))
        assert [u.id[2:] for u in read("audio_text", tmp_path)] == list("abcdefghij")

    def test_by_content_with_a_warning(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        sounds(tmp_path, "a.wav")
        content = (tmp_path / "a.wav").read_bytes()
        (tmp_path / "b.wav_old").write_bytes(content)
        (tmp_path / "noname").write_bytes(content)
        (tmp_path / "c.part").write_bytes(b"no audio at all")
        (tmp_path / "LICENSE").write_bytes(b"words")
        (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
        with caplog.at_level(logging.WARNING):
            found = AudioText(name="c", path=str(tmp_path))
            assert [u.source.path for u in found.utterances()] == ["a.wav", "b.wav_old", "noname"]
        assert "b.wav_old is audio by its content, not by its name" in caplog.text
        assert "noname is audio" in caplog.text

    def test_hidden_files_are_left_out(self, tmp_path: Path) -> None:
        sounds(tmp_path, "a.wav", "._a.wav", ".cache/b.wav")
        assert [u.id for u in read("audio_text", tmp_path)] == ["c/a"]

    def test_a_broken_link_is_missing(self, tmp_path: Path) -> None:
        sounds(tmp_path, "a.wav")
        (tmp_path / "b.wav").symlink_to(tmp_path / "nowhere.wav")
        found = read("audio_text", tmp_path)
        assert reasons(found) == {"b": "audio_missing"}

    def test_no_audio_is_an_error(self, tmp_path: Path) -> None:
        text(tmp_path / "a.txt", "words")
        assert "no audio file below it" in wrong("audio_text", tmp_path)

    def test_headerless_files(self, tmp_path: Path) -> None:
        pcm = (tone(0.5, 8000)[:, 0] * 32767).astype("<i2").tobytes()
        (tmp_path / "a.raw").write_bytes(pcm)
        reader = AudioText(name="c", path=str(tmp_path), raw={"sampling_rate": 8000})
        (found,) = reader.utterances()
        heard = load(reader.audio(found.source), raw=reader.raw_format(found.source))
        assert (heard.seconds, heard.sampling_rate, heard.format) == (0.5, 8000, "RAW/PCM_16")


class TestPattern:
    """What names say."""

    def test_speech_commands(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        sounds(tmp_path, "bed/0b77_nohash_0.wav", "bed/0b77_nohash_1.wav", "one/c1b7_nohash_0.wav")
        sounds(tmp_path, "_background_noise_/hum.wav")
        text(tmp_path / "testing_list.txt", "bed/0b77_nohash_0.wav")
        options = AudioText.recognise(tmp_path)
        with caplog.at_level(logging.WARNING):
            found = read("audio_text", tmp_path, **options)
        assert said(found) == {"bed/0b77_nohash_0": "bed", "bed/0b77_nohash_1": "bed", "one/c1b7_nohash_0": "one"}
        assert [u.speaker for u in found] == [None, "c/0b77", "c/0b77", "c/c1b7"]
        assert reasons(found) == {"_background_noise_/hum": "malformed_name"}
        assert "1 of 4 names do not match the pattern" in caplog.text

    def test_words_replace_what_the_name_says(self, tmp_path: Path) -> None:
        sounds(tmp_path, "1_0_0-1.wav", "0_0.wav")
        found = read("audio_text", tmp_path, pattern=r"(?P<transcript>[01_-]+)$", words={"1": "yes", "0": "no"})
        assert said(found) == {"0_0": "no no", "1_0_0-1": "yes no no yes"}

    def test_all_that_a_name_can_say(self, tmp_path: Path) -> None:
        sounds(tmp_path, "train/fr/anna_f_happy_rec1_2.wav")
        pattern = (
            r"(?P<split>\w+)/(?P<language>\w\w)/(?P<speaker>[a-z]+)_(?P<gender>[fm])_(?P<emotion>[a-z]+)"
            r"_(?P<recording>\w+?)_(?P<intent>\d)?(?P<accent>x)?"
        )
        text(tmp_path / "train/fr/anna_f_happy_rec1_2.txt", "bonjour")
        (found,) = read("audio_text", tmp_path, pattern=pattern, language="en")
        assert (found.speaker, found.language, found.split, found.recording) == ("c/anna", "fr", "train", "c/rec1")
        assert found.labels == {"gender": "female", "emotion": "happy", "intent": "2"}
        assert found.transcript == "bonjour"

    def test_a_pattern_without_transcript_spares_names_that_do_not_match(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        sounds(tmp_path, "s1_a.wav", "odd.wav")
        with caplog.at_level(logging.WARNING):
            found = read("audio_text", tmp_path, pattern=r"(?P<speaker>s\d)_")
        assert {u.id: u.speaker for u in found} == {"c/s1_a": "c/s1", "c/odd": None}
        assert reasons(found) == {}
        assert "1 of 2 names do not match" in caplog.text

    def test_noise_needs_no_name(self, tmp_path: Path) -> None:
        sounds(tmp_path, "hum.wav", "word.wav")
        found = read("audio_text", tmp_path, pattern=r"(?P<transcript>word)", speech=False)
        assert reasons(found) == {}

    def test_a_pattern_that_never_matches_is_an_error(self, tmp_path: Path) -> None:
        sounds(tmp_path, "a.wav")
        complaint = wrong("audio_text", tmp_path, pattern=r"(?P<speaker>\d+)_")
        assert "no name matches" in complaint
        assert "the first is a" in complaint

    @pytest.mark.parametrize(
        ("pattern", "expected"),
        [
            ("(?P<speaker>", "a regular expression is expected"),
            ("abc", "its named groups must be among"),
            ("(?P<speker>.)", "speaker"),
            ("(?P<key>.)", "its named groups must be among"),
        ],
    )
    def test_wrong_patterns(self, pattern: str, expected: str) -> None:
        with pytest.raises(ValidationError, match=expected):
            AudioText(name="c", path=".", pattern=pattern)


class TestClaimedRates:
    """What names claim."""

    @pytest.mark.parametrize(
        ("name", "rate"),
        [
            ("x_8kHz", 8000),
            ("x-16KHZ-y", 16000),
            ("22.05 khz", 22050),
            ("for_8k", 8000),
            ("44100Hz", None),
            ("k8", None),
            ("a8k", None),
            ("8kg", None),
        ],
    )
    def test_a_name_may_claim_a_rate(self, tmp_path: Path, name: str, rate: int | None) -> None:
        sounds(tmp_path, f"{name}.wav")
        (found,) = read("audio_text", tmp_path)
        assert found.sampling_rate == rate
        (unclaimed,) = read("audio_text", tmp_path, claimed_rates=False)
        assert unclaimed.sampling_rate is None


class TestRecognise:
    """Which folders are of this layout."""

    def test_any_audio(self, tmp_path: Path) -> None:
        assert AudioText.recognise(tmp_path) is None
        assert AudioText.recognise(sound(tmp_path / "a" / "b.wav")) is None
        assert AudioText.recognise(tmp_path) == {}

    def test_speech_commands_behind_other_names(self, tmp_path: Path) -> None:
        sounds(tmp_path, "_background_noise_/a.wav", "_background_noise_/b.wav", "yes/00f_nohash_0.wav")
        assert "_nohash_" in AudioText.recognise(tmp_path)["pattern"]


class TestReal:
    """Recordings as they are found."""

    def test_fleurs(self, speech: Path) -> None:
        folder = speech / "fleurs_opus_txt_en_fr_pt" / "fixtures"
        found = read("audio_text", folder, pattern=r"fleurs-(?P<language>[a-z]{2})-")
        assert len(found) == 30
        entries = index(speech)
        for utterance in found:
            entry = entries[f"fleurs_opus_txt_en_fr_pt/fixtures/{utterance.source.path}"]
            assert (utterance.transcript, utterance.language) == (entry.transcript, entry.language)

    def test_digits(self, speech: Path) -> None:
        words = dict(zip("0123456789", "zero one two three four five six seven eight nine".split(), strict=True))
        folder = speech / "fsdd_2speakers" / "recordings"
        found = read("audio_text", folder, pattern=r"(?P<transcript>\d)_(?P<speaker>[a-z]+)_", words=words)
        entries = index(speech)
        assert len(found) == 100
        assert all(u.transcript == entries[f"fsdd_2speakers/recordings/{u.source.path}"].transcript for u in found)
        assert {u.speaker for u in found} == {"c/jackson", "c/nicolas"}

    def test_yes_and_no(self, speech: Path) -> None:
        found = read(
            "audio_text",
            speech / "kaldi_yesno" / "waves_yesno",
            pattern=r"(?P<transcript>[01_]+)$",
            words={"1": "yes", "0": "no"},
        )
        entries = index(speech)
        assert len(found) == 20
        assert all(u.transcript == entries[f"kaldi_yesno/waves_yesno/{u.source.path}"].transcript for u in found)

    def test_montreal_forced_aligner(self, speech: Path) -> None:
        found = read("audio_text", speech / "mfa_lab_textgrid")
        assert reasons(found) == {"lab/cold_corpus3_extra.lab": "audio_missing", "lab/日本語.lab": "audio_missing"}
        entries = index(speech)
        for utterance in found:
            if utterance.problem is None and utterance.transcript:
                entry = entries[f"mfa_lab_textgrid/{utterance.source.path}"]
                assert utterance.transcript.split()[:8] == entry.transcript.split()[:8]
        untold = {Path(u.source.path).stem for u in found if u.problem is None and not u.transcript}
        assert untold >= {"michaelandsickmichael", "whisper", "falsetto", "mfa_um"}

    def test_the_odd_one_of_watson(self, speech: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            found = read("audio_text", speech / "watson_untranscribed")
        assert len(found) == 14
        assert "es-ES_Broadband_sample2.wav_old is audio by its content" in caplog.text
        assert {Path(u.source.path).name: u.sampling_rate for u in found if u.sampling_rate} == {
            "pt-BR_Sample1-16KHz.wav": 16000,
            "pt-BR_Sample1-8KHz.wav": 8000,
            "pt-BR_Sample2-16KHz.wav": 16000,
            "zh-CN_sample1_for_16k.wav": 16000,
            "zh-CN_sample1_for_8k.wav": 8000,
        }

    def test_headerless(self, speech: Path) -> None:
        folder = speech / "voicekit_ru_untranscribed" / "audio"
        reader = AudioText(name="c", path=str(folder), raw={"sampling_rate": 16000})
        found = {os.path.basename(u.source.path): u for u in reader.utterances()}
        assert len(found) == 5
        raw = found["sample_3.s16"].source
        wav = load(reader.audio(found["sample_3.wav"].source))
        assert load(reader.audio(raw), raw=reader.raw_format(raw)).digest == wav.digest

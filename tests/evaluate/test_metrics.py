"""Metrics against cases worked by hand and against the reference libraries."""

from __future__ import annotations

import json
import math
from pathlib import Path

import jiwer
import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from pipeline import plugins
from pipeline.evaluate import labels, multiple_choice, outcomes, scoring, spoken_qa, tool_calls, translation, wer
from pipeline.evaluate.errors import EvaluationError
from pipeline.evaluate.figures import Figure
from pipeline.evaluate.intervals import bootstrap, ratio, wilson
from pipeline.tasks.base import Task
from pipeline.tools.turns import decisive, turns
from schemas.conversation import Message
from tests.evaluate.rows import answers, call, item, request, row
from tests.examples import utterance


def named(figures: list[Figure]) -> dict[str, Figure]:
    assert all("/" in figure.protocol for figure in figures), "each number names its protocol"
    return {figure.name: figure for figure in figures}


# Intervals


def test_wilson_as_in_the_literature() -> None:
    # Newcombe (1998), table I, method 3: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    for right, count, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611)):
        assert wilson(right, count) == pytest.approx((low, high), abs=1e-4)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=1e-4)
    assert wilson(20, 20)[1] == 1.0
    assert wilson(0, 0) == (0.0, 1.0)


def test_bootstrap_is_repeatable_and_as_wide_as_theory_says() -> None:
    generator = np.random.default_rng(3)
    rows = np.stack([generator.normal(0.5, 0.1, 400), np.ones(400)], 1)
    low, high = bootstrap(rows, ratio())
    assert (low, high) == bootstrap(rows, ratio())
    assert high - low == pytest.approx(2 * 1.96 * 0.1 / 20, rel=0.15)
    assert all(map(math.isnan, bootstrap(np.zeros((3, 2)), ratio())))


def test_weights_in_blocks_are_weights_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.stack([np.arange(50) % 2, np.ones(50)], 1)
    whole = bootstrap(rows, ratio())
    monkeypatch.setattr("pipeline.evaluate.intervals._REMEMBERED", 640)
    assert bootstrap(rows, ratio()) == pytest.approx(whole, abs=0.06)


# WER


def test_wer_is_of_all_rows_together() -> None:
    items = answers(
        "transcription", [("set a timer", "set the timer"), ("stop", "stop"), ("go on now please", "go on")]
    )
    found = named(wer.figures(items))
    # One substitution and two deletions in 3 + 1 + 4 words.
    assert found["wer"].value == pytest.approx(3 / 8)
    assert found["wer"].value == pytest.approx(
        jiwer.wer(["set a timer", "stop", "go on now please"], ["set the timer", "stop", "go on"])
    )
    assert found["wer"].better == "lower"
    assert found["wer"].count == 3


def test_wer_does_not_mind_how_a_number_is_written_and_is_told_by_characters_in_unspaced_languages() -> None:
    sample = row("transcription", "25 minutes", said="25 minutes")
    assert wer.of_output(sample, "twenty-five minutes").wer == 0
    voiced = replace(sample, utterances=(utterance("№ 7", id="c/9", spoken="number seven"),), answer="№ 7")
    assert wer.of_output(voiced, "number seven").wer == 0
    chinese = answers("transcription", [("今天天气好", "今天天汽好")], language="zh")
    found = named(wer.figures(chinese))
    assert "wer" not in found
    assert found["cer"].value == pytest.approx(1 / 5)


def test_wer_of_queries_counts_each_utterance_once() -> None:
    sample = request({"start_timer": {"minutes": 5}})
    items = [item(turn.sample, "", turn.number, heard=("please do",)) for turn in turns(sample)]
    (found,) = wer.query(items)
    assert (found.value, found.count) == (pytest.approx(1 / 3), 1)
    assert wer.query([item(sample, "")]) == []


# Answers


@pytest.mark.parametrize(
    ("right", "given", "language", "exact", "f1"),
    [
        ("The stew.", "stew", "en", True, 1.0),
        ("a red car", "the blue car", "en", False, 0.5),
        ("um café", "o café", "pt", True, 1.0),
        ("Москва", "москва!", "ru", True, 1.0),
        ("the", "a", "en", False, 0.0),
        ("今天", "明天", "zh", False, 0.5),
        ("", "", "en", True, 1.0),
        ("one two", "", "en", False, 0.0),
    ],
)
def test_answers(right: str, given: str, language: str, exact: bool, f1: float) -> None:
    assert spoken_qa.exact(right, given, language) is exact
    assert spoken_qa.f1(right, given, language) == pytest.approx(f1)


def test_translations_are_scored_by_sacrebleu_a_language_at_a_time() -> None:
    right = ["Der Hund schläft im Garten.", "Es regnet seit drei Tagen."]
    given = ["Der Hund schläft im Haus.", "Es regnet seit drei Tagen."]
    items = [
        item(row("translation", r, name=f"c/{n}", language="de"), g)
        for n, (r, g) in enumerate(zip(right, given, strict=True))
    ]
    items.append(item(row("translation", "今天下雨", name="c/9", language="zh-CN"), "今天下雪"))
    found = named(translation.figures(items))
    assert found["bleu_de"].value == pytest.approx(sacrebleu.corpus_bleu(given, [right]).score)
    assert found["chrf_de"].value == pytest.approx(sacrebleu.corpus_chrf(given, [right]).score)
    assert "tok:13a" in found["bleu_de"].protocol
    assert "tok:zh" in found["bleu_zh"].protocol
    assert found["bleu_de"].low is not None
    assert found["bleu_zh"].low is None, "one row has no interval"


# Labels


def test_labels_by_hand() -> None:
    pairs = [
        ("anger", "It is anger."),
        ("joy", "joy"),
        ("joy", "Anger or joy"),
        ("anger", "joy"),
        ("sadness", "no idea"),
    ]
    found = named(labels.figures(answers("emotion", pairs), first_word=False))
    assert found["accuracy"].value == pytest.approx(2 / 5)
    # anger: 1 of 1 named, 1 of 2 there; joy: 1 of 2 named, 1 of 2 there; sadness: never.
    assert found["macro_f1"].value == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert found["uar"].value == pytest.approx((1 / 2 + 1 / 2 + 0) / 3)
    assert found["unnamed"].value == pytest.approx(2 / 5), "none and several are failures, and not guessed"


def test_the_label_that_holds_another_is_meant() -> None:
    pairs = [("angry", "angry"), ("very angry", "very angry")]
    assert named(labels.figures(answers("emotion", pairs), False))["accuracy"].value == 1.0


def test_yes_and_no_are_told_by_the_first_word() -> None:
    items = [
        item(row("keyword_spotting", "yes", name="c/1", response="Yes, it is."), "Yes, no doubt."),
        item(row("keyword_spotting", "no", name="c/2", response="No."), "no"),
        item(row("keyword_spotting", "no", name="c/3", response="No."), "The word is not said: no."),
        item(row("speaker_count", "2", name="c/4", response="Two people."), "Two."),
    ]
    assert named(labels.figures(items[:3], True))["accuracy"].value == pytest.approx(2 / 3)
    assert named(labels.figures(items[3:], True))["accuracy"].value == 1.0


def test_macro_f1_and_uar_are_those_of_scikit_learn() -> None:
    # f1_score(average="macro") and balanced_accuracy_score of scikit-learn 1.9.1 gave these.
    right, given = list("aabbcadbacabdcabaacbdabcabdcaabbca"), list("abbacadbacbbdcacaacbdabdabdcacbbcb")
    assert labels.macro_f1(right, given).value == pytest.approx(0.8083505866114561)
    assert labels.uar(right, given).value == pytest.approx(0.8373626373626374)
    assert labels.macro_f1(list("aabbc"), list("abbde")).value == pytest.approx(0.2333333333333333)


def test_slu_f1_by_hand() -> None:
    right, given = [("date", "tomorrow morning"), ("place", "paris")], [("date", "tomorrow"), ("time", "noon")]
    # Words: a hit with distance 1/2, a wrong type, a miss. Characters: a hit with distance 8/16, and the same.
    hits, false, missed = 1 + 1, (0.5 + 1) + (0.5 + 1), (0.5 + 1) + (0.5 + 1)
    assert labels.slu_counts(right, given) == pytest.approx((hits, false, missed))
    text = "date: tomorrow morning; place: Paris"
    found = named(labels.slots([item(row("slots", text), "date: tomorrow; time: noon")]))
    assert found["slu_f1"].value == pytest.approx(2 * hits / (2 * hits + false + missed))
    assert found["span_f1"].value == 0.0
    perfect = named(labels.slots([item(row("slots", text), "Place: paris; date: tomorrow morning.")]))
    assert perfect["slu_f1"].value == perfect["span_f1"].value == 1.0


def test_of_two_slots_of_a_type_the_nearest_is_meant() -> None:
    right = [("person", "anna"), ("person", "maria")]
    assert labels.slu_counts(right, [("person", "maria"), ("person", "anna")]) == (4.0, 0.0, 0.0)


# Multiple choice

CHOICES = ("fish", "stew", "soup", "bread")


def question(name: str, letter: str = "B") -> object:
    sample = row("multiple_choice", letter, name=name, choices=CHOICES)
    text = f"What is hoped for?\n{multiple_choice.listing(CHOICES)}\nAnswer with the letter."
    return replace(sample, messages=(Message("user", f"<|audio|>\n{text}"), Message("assistant", letter)))


@pytest.mark.parametrize(
    ("output", "letter"),
    [("B", "B"), (" (C) soup", "C"), ("D.", "D"), ("A man", ""), ("**A**", "A"), ("E", ""), ("", ""), ("stew", "")],
)
def test_letters_are_read_and_never_guessed(output: str, letter: str) -> None:
    assert multiple_choice.parse(output, 4) == letter


def test_options_are_shuffled_by_the_rows_id_and_stay_what_they_were() -> None:
    seen = set()
    for n in range(40):
        before = question(f"c/{n}")
        after = multiple_choice.reshuffled(before)
        assert after == multiple_choice.reshuffled(before), "the same each time"
        assert sorted(after.choices) == sorted(CHOICES)
        assert after.choices["ABCD".index(after.answer)] == "stew"
        assert after.messages[-1].content == after.answer
        assert f"{after.answer}. stew\n" in after.messages[0].content + "\n"
        seen.add(after.answer)
    assert seen == set("ABCD")
    unlisted = replace(question("c/1"), messages=(Message("user", "?"), Message("assistant", "B")))
    assert multiple_choice.reshuffled(unlisted) == unlisted


def test_multiple_choice_by_hand() -> None:
    outputs = [
        ("B", "B", (0.0, -1.0, -2.0, -3.0)),
        ("A", "A", (0.0, -1, -2, -3)),
        ("C", "I think soup", (-1.0, -1.0, -3, -3)),
    ]
    items = [item(question(f"c/{n}", right), out, letters=letters) for n, (right, out, letters) in enumerate(outputs)]
    found = named(multiple_choice.figures(items))
    assert found["accuracy"].value == pytest.approx(2 / 3)
    assert found["accuracy_by_likelihood"].value == pytest.approx(1 / 3), "a tie is no answer"
    assert found["parse_failures"].value == pytest.approx(1 / 3)
    assert found["chance"].value == 0.25
    assert found["letter_bias"].value == pytest.approx(1 / 3)
    assert (found["accuracy"].low, found["accuracy"].high) == pytest.approx(wilson(2, 3))


def test_questions_in_mmlus_layout(tmp_path: Path) -> None:
    path = tmp_path / "gases.jsonl"
    path.write_text(json.dumps({"question": "Which gas?", "choices": ["O2", "CO2"], "answer": 1}) + "\n")
    (sample,) = multiple_choice.questions(path)
    assert (sample.answer, sample.choices, sample.utterances) == ("B", ("O2", "CO2"), ())
    assert multiple_choice.reshuffled(sample).choices["AB".index(multiple_choice.reshuffled(sample).answer)] == "CO2"
    for line in (
        '{"question": "x", "choices": ["a"], "answer": 0}',
        "no json",
        '{"question": "x", "choices": ["a","b"], "answer": 2}',
    ):
        path.write_text(f"\n{line}\n")
        with pytest.raises(EvaluationError, match=r"gases\.jsonl:2: .*answer"):
            multiple_choice.questions(path)


# Tools


def first(sample: object, output: str, **fields: object) -> object:
    turn = turns(sample)[0]
    return item(turn.sample, output, 0, **fields)


def test_tool_calls_by_hand() -> None:
    timer, lamp = {"start_timer": {"minutes": 5}}, {"switch_lamp": {"room": "hall", "on": True}}
    right = call("start_timer", minutes=5)
    items = [
        first(request(timer, name="t/1"), right),
        # Two are wanted: one right, one with a wrong argument of two.
        first(request(timer, lamp, name="t/2"), f"{right}\n{call('switch_lamp', room='hall', on=False)}"),
        # A tool that is not offered, in place of the one that is wanted.
        first(request(timer, name="t/3"), call("make_tea")),
        # An argument that breaks the schema.
        first(request(lamp, name="t/4"), call("switch_lamp", room="attic", on=True)),
        # Nothing is wanted: a false alarm, a call that cannot be read, and an answer.
        first(request(outcome="direct", name="t/5", reply="Paris."), right),
        first(request(outcome="cannot_answer", name="t/6", reply="I cannot do that."), '<tool_call>{"name": '),
        first(request(outcome="request_for_info", name="t/7", reply="For how long?"), "How long?"),
    ]
    found = named(tool_calls.figures(items))
    assert found["ast_accuracy"].value == pytest.approx(1 / 4)
    assert found["correct"].value == pytest.approx(2 / 7)
    # Made: 1 + 2 + 1 + 1 + 1 + 1 (unreadable) + 0; correct: t/1 and one of t/2. Needed: 1 + 2 + 1 + 1.
    assert found["precision"].value == pytest.approx(2 / 7)
    assert found["recall"].value == pytest.approx(2 / 5)
    assert (found["false_alarms"].value, found["false_alarms"].count) == (pytest.approx(2 / 3), 3)
    # t/1: 1 of 1; t/2: 1 of 1 and 1 of 2; t/4: 1 of 2.
    assert found["argument_accuracy"].value == pytest.approx(4 / 6)
    assert found["hallucinated"].value == pytest.approx(1 / 6)
    assert found["invalid"].value == pytest.approx(1 / 6)
    assert found["unreadable"].value == pytest.approx(1 / 7)
    assert "query_wer" not in found


def test_parallel_calls_are_paired_in_any_order() -> None:
    wanted = ({"start_timer": {"minutes": 5}}, {"start_timer": {"minutes": 7}})
    swapped = f"{call('start_timer', minutes=7)}{call('start_timer', minutes=5)}"
    verdict = tool_calls.judge(turns(request(*wanted))[0], swapped)
    assert (verdict.right, verdict.correct, verdict.arguments) == (True, 2, (2, 2))
    twice = tool_calls.judge(turns(request(wanted[0]))[0], call("start_timer", minutes=5) * 2)
    assert (twice.right, twice.correct, twice.made) == (False, 1, 2)


def test_a_dialogue_is_asked_turn_by_turn() -> None:
    sample = request({"start_timer": {"minutes": 5}})
    called, told = turns(sample)
    assert called.sample.messages[-1].tool_calls
    assert (called.outcome, told.outcome) == ("tool_call", "direct")
    assert (called.speaks, told.speaks) == (True, False)
    assert (len(called.wanted), told.wanted) == (1, ())
    assert decisive(sample) == called.sample
    found = named(tool_calls.figures([item(told.sample, call("start_timer", minutes=5), 1)]))
    assert found["false_alarms"].value == 1.0
    assert "outcome_macro_f1" not in found, "outcomes are of first turns"


def test_later_calls_are_compared_with_their_own_part_of_the_answer() -> None:
    sample = request({"start_timer": {"minutes": 5}})
    lamp = request({"switch_lamp": {"room": "hall", "on": True}})
    both = replace(
        sample,
        messages=(*sample.messages[:-1], *lamp.messages[2:]),
        answer=json.dumps([*json.loads(sample.answer), *json.loads(lamp.answer)]),
    )
    assert [[a.name for a in turn.wanted] for turn in turns(both)] == [["start_timer"], ["switch_lamp"], []]
    odd = replace(both, answer="something else")
    assert [[a.name for a in turn.wanted] for turn in turns(odd)] == [["start_timer"], ["switch_lamp"], []]


def test_outcomes_are_judged_by_rule_and_by_likeness() -> None:
    told = {
        "The capital is Paris.": "direct",
        "I see. For how many minutes?": "request_for_info",
        "I am sorry, I cannot do that.": "cannot_answer",
        call("start_timer", minutes=5): "tool_call",
        '<tool_call>{"name"': "tool_call",
    }
    assert {text: outcomes.Judge()(text, "en") for text in told} == told
    assert outcomes.by_rule("К сожалению, это не получится.", "ru") == "cannot_answer"
    assert outcomes.by_rule("Lamento, não tenho como fazer isso.", "pt") == "cannot_answer"
    odd = turns(request(outcome="cannot_answer", reply="My hands are full of dough today."))
    judge = outcomes.Judge(odd)
    assert judge("My hands are full of dough, today!", "en") == "cannot_answer"
    assert outcomes.by_rule("My hands are full of dough today.", "en") == "direct"
    assert outcomes.agreement(odd) == (0, 1), "the report says how often the rule errs"


def test_outcomes_are_counted_by_macro_f1() -> None:
    items = [
        first(request({"start_timer": {"minutes": 5}}, name="t/1"), call("make_tea")),
        first(request(outcome="direct", name="t/2", reply="Paris."), "Paris."),
        first(request(outcome="direct", name="t/3", reply="Rome."), "Which one?"),
        first(request(outcome="request_for_info", name="t/4", reply="Where?"), "Where?"),
    ]
    assert named(tool_calls.figures(items))["outcome_macro_f1"].value == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)
    assert tool_calls.confusion(items) == [[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "b", "c"]), max_size=4),
    st.lists(st.sampled_from(["a", "b", "c"]), max_size=4),
)
def test_correct_calls_are_what_both_have(wanted: list[str], made: list[str]) -> None:
    accepted = [tool_calls.Accepted(name, {}) for name in wanted]
    calls = [tool_calls.Call(name, {}) for name in made]
    found = tool_calls.paired(accepted, calls, lambda a, c: a.name == c.name)
    assert found == sum(min(wanted.count(name), made.count(name)) for name in "abc")


# Scoring


def test_every_task_is_scored_and_its_own_response_is_right() -> None:
    for name in plugins.names("tasks"):
        task: type[Task] = plugins.load("tasks", name)
        answer = {"multiple_choice": "B", "slots": "date: tomorrow", "keywords": "stew, dinner"}.get(name, "stew")
        if name in ("tool_call", "tool_grammar"):
            sample, output = turns(request({"start_timer": {"minutes": 5}}))[0].sample, call("start_timer", minutes=5)
        else:
            sample, output = row(task.key, answer, choices=CHOICES if name == "multiple_choice" else ()), answer
        assert scoring.score(sample, output)["correct"] == 1.0, name
        assert scoring.score(sample, "something else entirely")["correct"] == 0.0, name
        group = scoring.family(turns(sample)[0])
        figures = named(scoring.figures(group, [item(sample, output)]))
        wanted = scoring.headline(group)
        assert any(figure.startswith(wanted) for figure in figures), (name, wanted, list(figures))


def test_a_task_of_somebody_else_is_scored_by_itself() -> None:
    sample = row("not_a_task", "stew")
    assert scoring.score(sample, "Stew!") == {"correct": 1.0}
    assert named(scoring.figures("not_a_task", [item(sample, "soup")]))["correct"].value == 0.0


def test_transcriptions_are_scored_by_wer_and_no_response_is_an_error() -> None:
    assert scoring.score(row("transcription", "set a timer"), "set timer") == pytest.approx(
        {"wer": 1 / 3, "cer": 2 / 11, "correct": 0.0}
    )
    with pytest.raises(ValueError, match="c/1: its last message is no response"):
        scoring.score(replace(row("repeat", "x"), messages=()), "x")


def test_labels_in_two_languages_are_two_families() -> None:
    items = [*answers("emotion", [("anger", "anger")]), *answers("emotion", [("гнев", "гнев")], language="ru")]
    assert list(scoring.families(items)) == ["emotion (en)", "emotion (ru)"]
    assert scoring.families(answers("transcription", [("a", "a")])).keys() == {"transcription"}

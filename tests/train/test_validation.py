"""Validation: what is asked of rows that are not trained on, and that its figures can choose a checkpoint."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from msgspec.structs import replace

from pipeline.tools.turns import decisive
from pipeline.train.engine import TrainingError
from pipeline.train.held_out import hold_out
from pipeline.train.scoring import score
from pipeline.train.validation import Validation
from schemas.training import TrainingRecipe
from tests.evaluate.rows import call, request
from tests.train.running import engine_of

Recipes = Callable[..., TrainingRecipe]


def test_the_call_of_a_tool_dialogue_is_asked_for_not_what_is_said_after_it(training_recipe: Recipes) -> None:
    engine, rows, index = engine_of(training_recipe())
    engine.begin(0, 4)
    sample = request({"start_timer": {"minutes": 5}}, reply="It is on.")
    sample = replace(sample, utterances=rows[0].utterances[:1])
    validation = Validation(engine, rows, index, hold_out(index, 0.2, 0), score)
    validation._rows = dict.fromkeys(validation._decoded, sample)  # type: ignore[assignment]
    for answer in validation._answers():
        assert "start_timer" in answer.reference
        assert "It is on" not in answer.reference
    for said, right in (
        (call("start_timer", minutes=5), 1.0),
        (call("start_timer", minutes=6), 0.0),
        ("It is on.", 0.0),
    ):
        assert score(decisive(sample), said) == {"correct": right}
    assert score(decisive(request(outcome="direct")), "Hello!") == {"correct": 1.0}
    assert score(decisive(request(outcome="direct")), call("start_timer", minutes=5)) == {"correct": 0.0}


def test_calls_are_read_whose_marks_are_special_tokens(training_recipe: Recipes) -> None:
    """As Mistral's are, of which text without special tokens keeps nothing."""
    engine, rows, index = engine_of(training_recipe())
    engine.begin(0, 4)
    tokenizer = engine.speech_lm.tokenizer
    ours = '<tool_call>{"name": "{{ call.function.name }}", "arguments": {# -#}', "tojson }}}</tool_call>"
    theirs = "[TOOL_CALLS]{{ call.function.name }}[ARGS]{# -#}", "tojson }}"
    for one, other in zip(ours, theirs, strict=True):
        assert tokenizer.chat_template.count(one) == 1
        tokenizer.chat_template = tokenizer.chat_template.replace(one, other)
    tokenizer.add_special_tokens({"additional_special_tokens": ["[TOOL_CALLS]", "[ARGS]"]})
    sample = request({"start_timer": {"minutes": 5}})
    sample = replace(sample, utterances=rows[0].utterances[:1])
    validation = Validation(engine, rows, index, hold_out(index, 0.2, 0), score)
    validation._rows = dict.fromkeys(validation._decoded, sample)  # type: ignore[assignment]
    row = validation._decoded[0]
    answer = validation._answer(row, validation._answer(row, "").reference)
    assert answer.reference == call("start_timer", minutes=5)
    assert answer.scores == {"exact": 1.0, "correct": 1.0}


def test_a_loss_that_is_no_number_ends_the_run(training_recipe: Recipes) -> None:
    engine, rows, index = engine_of(training_recipe())
    engine.begin(0, 4)
    with torch.no_grad():
        next(parameter for _, parameter in engine.speech_lm.named("adapter")).fill_(torch.nan)
    with pytest.raises(TrainingError, match=r"stage 'adapter': the loss of the validation is not a finite number"):
        Validation(engine, rows, index, hold_out(index, 0.2, 0), score).run(1)

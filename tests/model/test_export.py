"""Exported models, loaded by transformers' own class. What vLLM makes of them is in tests/vllm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML
from transformers import AudioFlamingo3ForConditionalGeneration, AutoProcessor
from typer.testing import CliRunner

from pipeline.model import load
from pipeline.model.base import ModelError
from pipeline.model.export.base import export
from schemas.conversation import AUDIO_PLACEHOLDER
from tests.model import exporting, tiny_ready
from tests.model.exporting import asked, composed, greedy

SECONDS = (0.05, 0.33, 1.0, 2.517, 30.0, 31.3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the bases, `model` and `exported`; a recipe lies beside the model as in a run's folder."""
    made = tmp_path_factory.mktemp("export")
    exporting.trained(made)
    recipe = {
        "name": "tiny",
        "data": [{"path": str(made / "no-such-dataset")}],
        "model": {
            "encoders": ["openai/whisper-tiny"],
            "adapter": {"kind": "pool"},
            "llm": str(made / "qwen2"),
            "revision": {"openai/whisper-tiny": "abc"},
        },
        "lora": {"rank": 4, "alpha": 8.0, "targets": ["q_proj", "v_proj"]},
    }
    with open(made / "recipe.yaml", "w") as stream:
        YAML().dump(recipe, stream)
    assert export(str(made / "model"), made / "exported").merged
    return made


@pytest.fixture(scope="module")
def ours(folder: Path) -> Any:
    return load(str(folder / "model"))


def test_transformers_says_what_we_say(folder: Path, ours: Any) -> None:
    """No key is missing or too many; logits agree, and so do greedy tokens, in one batch of many lengths."""
    theirs, told = AudioFlamingo3ForConditionalGeneration.from_pretrained(folder / "exported", output_loading_info=True)
    assert not any(told.values())
    processor = AutoProcessor.from_pretrained(folder / "exported")
    samples = [asked(seconds) for seconds in SECONDS]
    messages = [{"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": exporting.ASKED}]}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    inputs = processor(text=[text] * len(samples), audio=[tiny_ready.heard(sample) for sample in samples])
    batch = ours.collate([ours.encode(sample, answer=False) for sample in samples], left=True)
    assert torch.equal(inputs["input_ids"][inputs["attention_mask"].bool()], batch.ids[batch.mask])
    with torch.no_grad():
        expected = ours.head()(ours.states(batch))[batch.mask]  # N, V
        found = theirs(**inputs).logits[inputs["attention_mask"].bool()]
        audio = ours.chat.audio_id
        assert expected.std() > 0.5
        torch.testing.assert_close(found[:, :audio], expected[:, :audio], rtol=1e-3, atol=2e-4)
        assert (found[:, audio] < found.amax(1)).all(), "the audio token is never said"
        made = theirs.generate(**inputs, max_new_tokens=12, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    said = greedy(ours, samples)
    assert [row[: len(own)] for row, own in zip(made.tolist(), said, strict=True)] == said
    assert len({tuple(row) for row in said}) == len(said)
    assert len({token for row in said for token in row}) > 20, "not one token again and again"


def test_it_is_loaded_here_as_a_ready_model(folder: Path, ours: Any, tmp_path: Path) -> None:
    again = load(str(folder / "exported"))
    assert greedy(again, [asked(1.0), asked(2.517)]) == greedy(ours, [asked(1.0), asked(2.517)])
    again.add_lora(2, 4.0, 0.0, ["q_proj"])
    with torch.no_grad():
        for _, parameter in again.named("lora"):
            parameter.fill_(0.3)
    again.save(tmp_path / "tuned")
    export(str(tmp_path / "tuned"), tmp_path / "exported")
    theirs, told = AudioFlamingo3ForConditionalGeneration.from_pretrained(
        tmp_path / "exported", output_loading_info=True
    )
    assert not any(told.values())
    batch = again.collate([again.encode(asked(1.0))])
    with torch.no_grad():
        found = theirs(input_ids=batch.ids, **batch.sounds).logits
        torch.testing.assert_close(found, again.head()(again.states(batch)), rtol=1e-4, atol=5e-5)


def test_a_llama_is_a_qwen2_without_biases(folder: Path, tmp_path: Path) -> None:
    llama = composed(folder, kind="llama")
    llama.save(tmp_path / "llama")
    assert not export(str(tmp_path / "llama"), tmp_path / "out").merged
    samples = [asked(1.0), asked(2.517)]
    again = load(str(tmp_path / "out"))
    assert again.model.config.text_config.model_type == "qwen2"
    assert greedy(again, samples) == greedy(llama, samples)


def test_tools_and_text_go_through_the_template_of_the_llm(folder: Path, ours: Any) -> None:
    processor = AutoProcessor.from_pretrained(folder / "exported")
    tools = [{"type": "function", "function": {"name": "lamp_on", "parameters": {"type": "object"}}}]
    plain = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": f"Listen: {AUDIO_PLACEHOLDER} What is it?"},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "lamp_on", "arguments": {}}}]},
    ]
    parts = [
        {"type": "text", "text": "Listen: "},
        {"type": "audio", "audio": "x.wav"},
        {"type": "text", "text": " What is it?"},
    ]
    expected = ours.tokenizer.apply_chat_template(plain, tools=tools, tokenize=False)
    plain[1]["content"] = parts  # type: ignore[assignment]
    assert processor.apply_chat_template(plain, tools=tools, tokenize=False) == expected


def test_the_card_names_what_is_known(folder: Path) -> None:
    card = (folder / "exported" / "README.md").read_text()
    head = YAML(typ="safe").load(card.split("---")[1])
    assert head["base_model"] == ["openai/whisper-tiny"]
    assert head["license"] == "other"
    assert "Encoder: `openai/whisper-tiny` at abc, whisper, " in card
    assert "LLM: `qwen2` (a local folder), qwen2, " in card
    assert "LoRA: rank 4, alpha 8.0, on q_proj, v_proj; merged" in card
    assert "`no-such-dataset`, licences unknown" in card
    assert "kind: pool" in card
    assert str(folder) not in card


def test_what_does_not_fit_is_refused(folder: Path, tmp_path: Path) -> None:
    untouched = composed(folder)
    untouched.add_lora(2, 4.0, 0.0, ["q_proj"])
    untouched.save(tmp_path / "untouched")
    with pytest.raises(ModelError, match=r"the LoRA of .*untouched changes nothing"):
        export(str(tmp_path / "untouched"), tmp_path / "out")
    composed(folder, adapter="conv").save(tmp_path / "conv")
    with pytest.raises(ModelError, match="takes the adapter `pool`; this model has conv"):
        export(str(tmp_path / "conv"), tmp_path / "out")
    composed(folder, kind="qwen3").save(tmp_path / "qwen3")
    with pytest.raises(ModelError, match="takes Qwen2 or Llama as LLM; this model has qwen3"):
        export(str(tmp_path / "qwen3"), tmp_path / "out")
    composed(folder, encoder="wav2vec2").save(tmp_path / "wav2vec2")
    with pytest.raises(ModelError, match="takes an encoder of Whisper's kind; this model has wav2vec2"):
        export(str(tmp_path / "wav2vec2"), tmp_path / "out")
    with pytest.raises(ModelError, match="is there already"):
        export(str(folder / "model"), folder / "exported")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["conv", "qwen3", "untouched", "wav2vec2"], "no remains"


def test_the_command(folder: Path, tmp_path: Path) -> None:
    import typer

    from pipeline.model.export.command import export as command

    application = typer.Typer()
    application.command()(command)
    composed(folder).save(tmp_path / "plain")
    told = CliRunner().invoke(application, [str(tmp_path / "plain"), str(tmp_path / "out"), "--dtype", "bfloat16"])
    assert told.exit_code == 0, told.output
    assert "has no LoRA: its LLM is exported as it is" in told.output
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    assert "LoRA: none" in (tmp_path / "out" / "README.md").read_text()
    assert CliRunner().invoke(application, ["x", "y", "--dtype", "int3"]).exit_code == 2


def test_a_ready_model_goes_into_its_own_format(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = load(str(tiny_ready.qwen2_audio(tmp_path / "base")))
    model.add_lora(2, 4.0, 0.0, ["q_proj"])
    with torch.no_grad():
        for _, parameter in model.named("lora"):
            parameter.fill_(0.3)
    model.save(tmp_path / "tuned")
    with pytest.raises(ModelError, match=r"a qwen2_audio has a format of its own.*`--format own`"):
        export(str(tmp_path / "tuned"), tmp_path / "out")
    export(str(tmp_path / "tuned"), tmp_path / "out", "own")
    batch = model.collate([model.encode(asked(1.0))])
    with torch.no_grad():
        expected = model.states(batch)
        torch.testing.assert_close(load(str(tmp_path / "out")).states(batch), expected, rtol=1e-4, atol=1e-4)
    assert not (tmp_path / "out" / "lora").exists()

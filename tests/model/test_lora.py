"""LoRA on AudioLM, and what is saved of both."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoProcessor, AutoTokenizer

from pipeline.model import compose, load
from pipeline.model.audio_lm import AudioLM
from pipeline.model.base import ModelError
from pipeline.model.speech_lm import Composed
from schemas.training import ModelSpec
from tests import hub as hubs
from tests.conftest import ROOT
from tests.model.rows import called, heard

torch.set_num_threads(1)
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture
def lm(tiny_llm: Path, tiny_whisper: Path) -> Composed:
    made = compose(ModelSpec(encoders=[str(tiny_whisper)], llm=str(tiny_llm), adapter={"kind": "pool"}), seed=3)
    assert isinstance(made, Composed)
    return made


def batch(lm: Any) -> Any:
    return lm.collate([lm.encode(heard(1.0)), lm.encode(called())])


@torch.no_grad()
def trained(lm: Composed) -> Composed:
    """With LoRA on both parts, as if it had learnt something."""
    lm.add_lora(4, 8.0, 0.1, TARGETS)
    lm.add_lora(2, 4.0, 0.0, ["q_proj", "v_proj"], encoder=True)
    torch.manual_seed(0)
    for part in ("lora", "encoder_lora"):
        for name, parameter in lm.named(part):  # type: ignore[arg-type]
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return lm


@torch.no_grad()
def test_it_changes_nothing_at_first_and_not_what_is_trained(lm: Composed) -> None:
    before = lm.states(batch(lm))
    next(lm.named("llm"))[1].requires_grad_()
    lm.add_lora(4, 8.0, 0.5, TARGETS)
    lm.add_lora(2, 4.0, 0.0, ["q_proj"], encoder=True)
    assert torch.equal(lm.states(batch(lm)), before)
    assert not lm.changed()
    assert len(list(lm.named("lora"))) == 2 * 2 * len(TARGETS)
    assert len(list(lm.named("encoder_lora"))) == 2 * 2
    assert [p.requires_grad for _, p in lm.named("llm")][:2] == [True, False]


@torch.no_grad()
def test_off_it_is_the_base_and_merged_what_it_was(lm: Composed) -> None:
    base = lm.states(batch(lm))
    lm.add_lora(4, 8.0, 0.0, TARGETS)
    lm.model.requires_grad_(False)
    for name, parameter in lm.named("lora"):
        if "lora_B" in name:
            parameter.normal_(std=0.1)
    assert lm.changed()
    changed = lm.states(batch(lm))
    assert (changed - base).abs().max() > 0.1
    with lm.without_lora():
        assert torch.equal(lm.states(batch(lm)), base)
    assert torch.equal(lm.states(batch(lm)), changed)
    assert not any(p.requires_grad for _, p in lm.named("lora"))  # the switch leaves alone what is trained
    lm.merge()
    torch.testing.assert_close(lm.states(batch(lm)), changed, rtol=1e-5, atol=1e-5)
    assert not list(lm.named("lora"))
    assert not lm.changed()
    lm.add_lora(4, 8.0, 0.0, TARGETS)  # there is room again


@torch.no_grad()
def test_beside_bf16_it_stays_fp32(tiny_llm: Path, tiny_whisper: Path) -> None:
    lm = compose(ModelSpec(encoders=[str(tiny_whisper)], llm=str(tiny_llm)), dtype="bfloat16")
    before = lm.states(batch(lm))
    lm.add_lora(4, 8.0, 0.0, TARGETS)
    assert {p.dtype for _, p in lm.named("lora")} == {torch.float32}
    assert torch.equal(lm.states(batch(lm)), before)
    with torch.autocast("cpu", torch.bfloat16):
        assert lm.states(batch(lm)).isfinite().all()


def test_names_that_fit_nothing_are_told(lm: Composed) -> None:
    with pytest.raises(ModelError, match=r"the LLM has no linear module 'qproj' for LoRA. Did you mean 'q_proj'\?"):
        lm.add_lora(4, 8.0, 0.0, ["qproj"])
    with pytest.raises(ModelError, match=r"the encoder has no linear module 'gate_proj'.*fc1, fc2, k_proj"):
        lm.add_lora(4, 8.0, 0.0, ["gate_proj"], encoder=True)
    # Merged, it would change what is looked up, too.
    with pytest.raises(ModelError, match=r"shares the weight of lm_head with its embeddings.*'lm_head' out of"):
        lm.add_lora(4, 8.0, 0.0, ["q_proj", "lm_head"])
    lm.add_lora(4, 8.0, 0.0, ["q_proj"])
    with pytest.raises(ModelError, match="the LLM has LoRA already: merge it first"):
        lm.add_lora(4, 8.0, 0.0, ["q_proj"])


@torch.no_grad()
def test_all_of_it_is_saved_without_its_bases(lm: Composed, tmp_path: Path) -> None:
    trained(lm)
    expected = lm.states(batch(lm))
    asked = lm.collate([lm.encode(heard(1.0), answer=False)], left=True)
    lm.save(tmp_path / "model")
    assert not list((tmp_path / "model").glob("*/*/"))  # push_to_hub takes no folders within folders
    (tmp_path / "model").rename(tmp_path / "moved")
    again = load(str(tmp_path / "moved"))
    assert isinstance(again, Composed)
    assert torch.equal(again.states(batch(again)), expected)
    assert again.generate(asked, most_tokens=8) == lm.generate(asked, most_tokens=8)
    with lm.without_lora(), again.without_lora():
        assert torch.equal(again.states(batch(again)), lm.states(batch(lm)))
    again.save(tmp_path / "again")
    for file in sorted(p for p in (tmp_path / "moved").rglob("*") if p.is_file()):
        assert (tmp_path / "again" / file.relative_to(tmp_path / "moved")).read_bytes() == file.read_bytes(), file
        assert str(tmp_path.parent).encode() not in file.read_bytes(), file  # no path of where it was made
    with safe_open(tmp_path / "moved" / "model.safetensors", "pt") as weights:
        assert not any("lora" in key or "base_layer" in key for key in weights.keys())  # noqa: SIM118
        assert {key.split(".")[0] for key in weights.keys()} == {"encoders", "adapter", "language_model"}  # noqa: SIM118
    half = load(str(tmp_path / "moved"), dtype="bfloat16")
    assert next(half.named("llm"))[1].dtype == torch.bfloat16
    assert {p.dtype for part in ("adapter", "lora") for _, p in half.named(part)} == {torch.float32}


@torch.no_grad()
def test_the_hub_gives_back_what_was_pushed(lm: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(lm)
    with hubs.serving() as hub:
        monkeypatch.setenv("HF_TOKEN", hubs.TOKEN)
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", hub.url)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        monkeypatch.setattr("transformers.utils.hub._hf_api", None, raising=False)  # kept, with the address
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        lm.model.push_to_hub("somebody/model")
        lm.processor.push_to_hub("somebody/model")
        again = load("somebody/model")
    assert isinstance(again, Composed)
    assert torch.equal(again.states(batch(again)), lm.states(batch(lm)))
    _, files = hub.repositories["somebody/model"].head
    assert {"config.json", "model.safetensors", "lora_language_model/adapter_model.safetensors"} <= set(files)


@torch.no_grad()
def test_peft_finds_its_way_in_what_was_saved(lm: Composed, tiny_llm: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    trained(lm).save(tmp_path)
    base = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llm), tmp_path / "lora_language_model")
    ids = torch.tensor([[5, 6, 7, 8]])
    torch.testing.assert_close(base(input_ids=ids).logits, lm.model(input_ids=ids).logits)


def test_what_ends_a_turn_is_saved_with_it(tiny_llm: Path, tiny_whisper: Path, tmp_path: Path) -> None:
    """Also where the LLM's generation configuration knows more than its configuration, as that of Qwen 2.5."""
    shutil.copytree(tiny_llm, tmp_path / "llm")
    file = tmp_path / "llm" / "generation_config.json"
    told = json.loads(file.read_text())
    file.write_text(json.dumps(told | {"eos_token_id": [0, told["eos_token_id"]]}))
    lm: Any = compose(ModelSpec(encoders=[str(tiny_whisper)], llm=str(tmp_path / "llm")))
    assert lm.chat.stops == {0, told["eos_token_id"]}
    lm.save(tmp_path / "saved")
    again: Any = load(str(tmp_path / "saved"))
    assert again.chat.stops == lm.chat.stops


def test_a_fresh_process_loads_it_by_auto_classes(lm: Composed, tmp_path: Path) -> None:
    lm.save(tmp_path)
    code = (
        "from pipeline.model import AudioLM, AudioLMProcessor\n"
        "from transformers import AutoModel, AutoProcessor\n"
        f"assert type(AutoModel.from_pretrained({str(tmp_path)!r})) is AudioLM\n"
        f"assert type(AutoProcessor.from_pretrained({str(tmp_path)!r})) is AudioLMProcessor\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_processor_takes_chats_as_transformers_does(lm: Composed) -> None:
    processor = lm.processor
    asked = {"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": "Hi"}]}
    call = {"type": "function", "function": {"name": "f", "arguments": {}}}
    chat = [asked, {"role": "assistant", "content": None, "tool_calls": [call]}]
    text = processor.apply_chat_template(chat)
    assert text.startswith("<|im_start|>user\n<|audio|>Hi<|im_end|>\n<|im_start|>assistant\n<tool_call>")
    assert processor.apply_chat_template([chat, [asked]]) == [text, processor.apply_chat_template([asked])]
    with pytest.raises(ModelError, match="a part of the type 'image'; only audio and text are taken"):
        processor.apply_chat_template([{"role": "user", "content": [{"type": "image"}]}])
    lm.tokenizer.pad_token = None  # as Llama's and Mistral's
    padded = lm.processor(["Hi", "Hello there"])
    assert padded["attention_mask"][0].tolist() != padded["attention_mask"][1].tolist()


@torch.no_grad()
def test_transformers_auto_classes_load_it(lm: Composed, tmp_path: Path) -> None:
    trained(lm).save(tmp_path)
    model, processor = AutoModelForCausalLM.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    assert type(model) is type(AutoModel.from_pretrained(tmp_path)) is AudioLM
    assert AutoConfig.from_pretrained(tmp_path).model_type == "audio_lm"
    assert AutoTokenizer.from_pretrained(tmp_path).convert_tokens_to_ids("<|audio|>") == model.config.audio_token_id
    samples = [heard(31.0, 0.5), called()]
    examples = [lm.encode(sample, answer=False) for sample in samples]
    chats = [
        [
            {
                "role": "user",
                "content": [{"type": "audio"}, {"type": "text", "text": "\n"}] * 2
                + [{"type": "text", "text": "What is said?"}],
            }
        ],
    ]
    texts = [processor.apply_chat_template(chat, add_generation_prompt=True) for chat in chats]
    texts.append(lm.tokenizer.decode(lm.chat.encode(samples[1], answer=False)[0]))
    inputs = processor(texts, [sound for example in examples for sound in example.sounds])
    batch = lm.collate(examples, left=True)
    assert torch.equal(inputs["input_ids"], batch.ids)
    assert torch.equal(inputs["attention_mask"].bool(), batch.mask)
    assert torch.equal(inputs["waveforms"], batch.sounds["waveforms"])
    made = model.generate(**inputs, max_new_tokens=6)[:, batch.ids.shape[1] :].tolist()
    expected = lm.generate(batch, most_tokens=6)
    assert [ids[: len(e)] for ids, e in zip(made, expected, strict=True)] == expected
    with pytest.raises(ModelError, match=r"the text has 2 placeholders <\|audio\|>, 1 sounds are given"):
        processor(texts[0], examples[0].sounds[:1])
    with pytest.raises(ModelError, match="sound of 8000 Hz is given"):
        processor(texts[0], examples[0].sounds, sampling_rate=8000)


def test_what_was_not_saved_whole_is_refused(lm: Composed, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    lm.add_lora(4, 8.0, 0.0, ["q_proj"])
    lm.save(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    del weights[
        "adapter.linear_1.weight"
        if "adapter.linear_1.weight" in weights
        else next(k for k in weights if k.startswith("adapter."))
    ]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(ModelError, match="lacks weights, such as adapter"):
        load(str(tmp_path))
    (tmp_path / "lora_language_model" / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"cannot be loaded: .*adapter_model.safetensors"):
        load(str(tmp_path))
    with pytest.raises(ModelError, match="is an AudioLM, and no audio LLM of transformers: give the `encoders`"):
        compose(ModelSpec(ready=str(tmp_path)))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    with pytest.raises(ModelError, match="is a bert, neither an AudioLM nor an audio LLM that is known"):
        load(str(tmp_path))

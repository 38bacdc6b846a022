"""Training: the strict model of a training recipe.

What belongs to an adapter stays a plain mapping here; it is checked against the adapter's own `Options`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, Strict, model_validator

from schemas.recipe import Mapping, Options

Part = Literal["adapter", "lora", "encoder_lora", "encoder", "llm"]
"""What a stage can train. `adapter` includes the weights of the encoder's layers."""

Share = Annotated[float, Field(ge=0, lt=1)]


class DataSpec(Options):
    """A finished dataset that is trained on."""

    path: str
    """Its folder."""
    weight: PositiveFloat = 1.0
    """How often its rows are seen in an epoch: 2 is twice, 0.5 is every second row."""


class ModelSpec(Options):
    """What the model is made of: parts that are put together, or a ready audio LLM."""

    encoders: Annotated[list[str], Field(max_length=2)] = []
    """Hub ids or folders. The frames of two go side by side."""
    adapter: Mapping = {"kind": "conv"}
    """`kind` names a file of `pipeline/model/adapters`; the rest are its options."""
    llm: str = ""
    """Hub id or folder of a causal LM with a chat template."""
    ready: str = ""
    """Hub id or folder of an audio LLM of transformers, in place of encoders, adapter and llm."""
    attention: Literal["sdpa", "eager", "flash_attention_2", "flex_attention"] = "sdpa"
    revision: dict[str, str] = {}
    """Revisions of hub ids, by id."""

    @model_validator(mode="after")
    def _either(self) -> ModelSpec:
        if bool(self.ready) == bool(self.encoders or self.llm):
            raise ValueError("give either `ready`, or `encoders` and `llm`")
        if not self.ready and not (self.encoders and self.llm):
            raise ValueError("both `encoders` and `llm` are needed")
        return self


class LoraSpec(Options):
    """LoRA on the LLM, and on the encoder where a stage trains `encoder_lora`."""

    rank: PositiveInt = 16
    alpha: PositiveFloat = 32.0
    dropout: Share = 0.0
    targets: list[str] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    """Names of the LLM's linear modules; those that it lacks are an error."""
    encoder_targets: list[str] = ["q_proj", "v_proj"]


class LossSpec(Options):
    """On response tokens only."""

    cross_entropy: Annotated[float, Field(ge=0)] = 1.0
    """Its weight."""
    distillation: Annotated[float, Field(ge=0)] = 0.0
    """Weight of KL(teacher || student), the teacher being the LLM without LoRA that reads the transcript."""
    temperature: PositiveFloat = 2.0
    end_of_turn: Annotated[float, Field(ge=0)] = 1.0
    """Further weight of the token that ends a turn, within the distillation."""

    @model_validator(mode="after")
    def _some(self) -> LossSpec:
        if not self.cross_entropy and not self.distillation:
            raise ValueError("one of `cross_entropy` and `distillation` must be above 0")
        return self


class StageSpec(Options):
    """One stage of the curriculum."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    trains: Annotated[list[Part], Field(min_length=1)]
    tasks: dict[str, PositiveFloat] | None = None
    """Which tasks, and their shares of the rows; all as they come if omitted."""
    learning_rate: PositiveFloat = 1e-4
    learning_rates: dict[Part, PositiveFloat] = {}
    """Of single parts, where theirs differs."""
    warmup: Annotated[int, Field(ge=0)] = 100
    """Steps in which the learning rate rises from 0."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How it falls to the stage's end."""
    steps: PositiveInt | None = None
    epochs: PositiveFloat | None = None
    patience: PositiveInt | None = None
    """The stage ends after so many validations without a better figure."""
    until: PositiveFloat | None = None
    """The stage ends when the validation's figure is at least as good."""
    loss: LossSpec = LossSpec()

    @model_validator(mode="after")
    def _ends(self) -> StageSpec:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("exactly one of `steps` and `epochs` is needed: it bounds the stage")
        return self


class BatchSpec(Options):
    """How rows become steps. None of it depends on the number of processes."""

    tokens: PositiveInt = 8192
    """Positions of the LLM in one forward pass, audio and text and padding together."""
    seconds: PositiveFloat = 600.0
    """Of audio in one forward pass, padding included."""
    per_step: PositiveInt = 1
    """Forward passes, over all processes, that make one step of the optimizer."""
    packing: bool = False
    """Whether the examples of a pass are put end to end, each attending to itself, instead of padded."""
    longest: PositiveInt | None = None
    """Positions of a row at most; the LLM's own limit if omitted. Longer rows end the run in the preflight."""
    workers: Annotated[int, Field(ge=0)] = 2
    """Processes that read ahead; 0 reads in the main one."""
    cache_encoder: bool | Literal["auto"] = "auto"
    """Whether what a frozen encoder says is kept on disk: worth it for many epochs of slow encoders."""


class OptimizerSpec(Options):
    """AdamW."""

    betas: Annotated[tuple[float, float], Strict(False)] = (0.9, 0.98)
    epsilon: PositiveFloat = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip: PositiveFloat = 1.0
    """Largest norm of the gradients."""


class ValidationSpec(Options):
    """What is measured during training."""

    share: Share = 0.02
    """Of the train split's speakers, kept out of training and validated on; the test split is not touched."""
    every: PositiveInt = 500
    """Steps."""
    rows: PositiveInt = 512
    """At most so many, drawn once, for the loss."""
    decode: PositiveInt = 64
    """So many of these are decoded."""
    most_tokens: PositiveInt = 256
    figure: Literal["auto", "wer", "correct", "loss"] = "auto"
    """By which checkpoints are chosen. `auto`: WER where a stage only transcribes, else the share of right answers
    as the task scores them."""


class CheckpointSpec(Options):
    """What is kept of a run."""

    every: PositiveInt = 500
    """Steps."""
    best: PositiveInt = 2
    """So many are kept, beside the last."""


class TrainingRecipe(Options):
    """A whole training recipe. Paths are relative to the recipe's file."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    description: str = ""
    seed: int = 0
    data: Annotated[list[DataSpec], Field(min_length=1)]
    model: ModelSpec
    lora: LoraSpec | None = LoraSpec()
    stages: Annotated[list[StageSpec], Field(min_length=1)]
    batches: BatchSpec = BatchSpec()
    optimizer: OptimizerSpec = OptimizerSpec()
    validation: ValidationSpec = ValidationSpec()
    checkpoints: CheckpointSpec = CheckpointSpec()
    precision: Literal["bf16", "fp32"] = "bf16"
    """Of the computation; what trains is kept in fp32."""
    gradient_checkpointing: bool = False
    compile: bool = False
    """Whether torch.compile is used on the LLM's layers: it pays on a GPU in long runs."""
    sharding: Literal["ddp", "fsdp2"] = "ddp"
    """How several processes share the model."""

    @model_validator(mode="after")
    def _consistent(self) -> TrainingRecipe:
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError("stages need different names")
        if self.lora is None and any("lora" in part for stage in self.stages for part in stage.trains):
            raise ValueError("a stage trains LoRA, and `lora` is null")
        return self

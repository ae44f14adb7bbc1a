"""Settings of training: no torch here, so that a configuration is checked at once."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, model_validator

Method = Literal["full", "lora", "memory"]
SlotScore = Literal["tf_idf", "kl", "tf", "all", "random"]


def complaint(detail: Any) -> str:
    """What one of a `ValidationError`'s errors says, in a line: the key, its value and what is allowed."""
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "value_error":
        return f"{key}: {detail['ctx']['error']}" if key else str(detail["ctx"]["error"])
    return f"{key}={detail['input']!r}: {detail['msg'][0].lower()}{detail['msg'][1:]}"


class MemorySettings(BaseModel):
    """The shape of the memories and how they learn."""

    model_config = ConfigDict(extra="forbid")

    layers: list[NonNegativeInt] | None = Field(
        None,
        min_length=1,
        description="decoder layers that get a memory; none: five, spread over the depth. Without early ones a "
        "step is cheaper, and teaches less",
    )
    num_keys: int = Field(128, ge=2, description="keys per half; the table has num_keys squared slots")
    num_heads: int = Field(4, ge=1, description="how often each token looks up, by keys of their own")
    top_k: int = Field(16, ge=1, description="slots that each head reads per token")
    key_width: int | None = Field(None, ge=1, description="width of one half-key; none: as the model allows")
    shared_values: bool = Field(False, description="one table of values that all layers read")
    codebooks: Literal["kmeans", "random"] = Field("kmeans", description="keys from data, or at random")
    slot_score: SlotScore = Field(
        "tf_idf",
        description="which of the rows that new text reads may move: those that it reads most (tf), more than "
        "generic text does (tf_idf, kl), all, or random ones",
    )
    update_rule: Literal["natural", "row", "table"] = Field(
        "natural",
        description="natural: the best rows of all the new text, by the gradient over the curvature; "
        "row, table: the best rows of each step's text, by the gradient over its RMS (of that row, or of all)",
    )
    top_t: int = Field(1000, ge=1, description="value rows per table that may move: at all (natural) or in a step")
    damping: float = Field(
        1.0,
        ge=1e-6,
        description="of the rule natural: holds back rows that generic text hardly reads (a share of the mean "
        "curvature)",
    )
    new_text_weight: float = Field(
        0.3,
        ge=0,
        description="of the rule natural: weight of the new text's own reads beside the background's; what "
        "all of it reads, such as a question's form, then moves less; 0: none",
    )
    protect_learned: float = Field(
        100.0, ge=0, description="weight of each learned token as background of what comes later; 0: none"
    )
    learned_tokens: int = Field(
        1000,
        ge=1,
        description="of the rule natural: how many tokens of the new text become background; more of them protect "
        "more of it and weigh more, at 0.3 KB of patch and adapter (4 heads, top_k=16) a token and table",
    )
    background_texts: int = Field(0, ge=0, description="generic texts for keys and counts; 0: all")
    own_texts: int = Field(
        0,
        ge=0,
        description="texts of questions and answers that the untouched model writes, read beside the generic ones: "
        "short answers then take more training to learn, and may be forgotten less",
    )
    warm_tokens: int = Field(
        0,
        ge=0,
        description="tokens of background text on which fresh values learn to predict, before training (the output "
        "is then no longer the base's); 0: values stay zero until something is learned",
    )
    warm_rate: float = Field(0.01, gt=0, description="learning rate of the warming, which is constant")

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        if self.top_t > self.num_keys**2:
            raise ValueError(f"top_t={self.top_t} exceeds the {self.num_keys**2} slots (num_keys squared)")
        if self.top_k > self.num_keys:
            raise ValueError(f"top_k={self.top_k} exceeds num_keys={self.num_keys}")
        if self.warm_tokens == 1:
            raise ValueError("warm_tokens=1 leaves nothing to predict: 0 for no warming, or at least 2")
        return self


class LoraSettings(BaseModel):
    """LoRA on all linear layers of the decoder."""

    model_config = ConfigDict(extra="forbid")

    rank: int = Field(32, ge=1, description="of the change of each matrix")
    alpha: int = Field(64, ge=1, description="the change is scaled by alpha / rank")


class LearningRates(BaseModel):
    """One learning rate per method: their scales have nothing to do with each other."""

    model_config = ConfigDict(extra="forbid")

    full: float = Field(
        2e-5,
        gt=0,
        description="of AdamW; usual for billions of parameters, and a model of 135 M learned most at 2e-4",
    )
    lora: float = Field(2e-4, gt=0, description="of AdamW; at 5e-4 more is learned, and more lost")
    memory: float = Field(0.035, gt=0, description="of the rule natural; for row and table 0.05 to 0.2 is in order")


class TrainSettings(BaseModel):
    """What is trained, on how much, and how."""

    model_config = ConfigDict(extra="forbid")

    methods: list[Method] = Field(["full", "lora", "memory"], min_length=1, description="what may change")
    data: list[str] = Field(
        ["naive", "augmented"],
        min_length=1,
        description="naive: the documents' chunks; augmented: these and all that was written; or names of "
        "templates, joined by +, for their texts alone (chunk: the chunks)",
    )
    num_tokens: int = Field(40_000, ge=100, description="token budget of every model")
    batch_tokens: int = Field(1024, ge=16, description="tokens per step, or one sequence's where that has more")
    max_length: int = Field(512, ge=16, description="longer texts are cut")
    seed: int = Field(0, ge=0, lt=2**32, description="of the order of texts, and of what a method draws")
    group_by: Literal["length", "chunk"] = Field(
        "length",
        description="texts of one step: of like length, or of one chunk (with texts_per_sequence=1)",
    )
    texts_per_sequence: int = Field(
        5,
        ge=1,
        description="texts that follow one another in a sequence, each seeing those before it: "
        "what is taught alone is hard to find behind other text",
    )
    question_loss: Literal["text", "answer"] = Field(
        "text",
        description="loss of question-answer texts: on the whole text, or on the answer alone (with "
        "texts_per_sequence=1)",
    )
    packing: bool = Field(
        False, description="sequences of a step end to end in one row, each seeing only itself: no padding on a GPU"
    )
    replay_share: float = Field(0, ge=0, lt=1, description="share of generic text among all tokens")
    kl_weight: float = Field(0, ge=0, description="weight of KL(base || model) in the objective")
    background: str | None = Field(
        None, description="JSONL of generic texts (`text`) for keys, counts and replay; none: those that ship"
    )
    checkpoint_steps: int = Field(200, ge=0, description="steps between checkpoints to resume from; 0: none")
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = Field(
        "linear", description="course of the learning rate after the warm-up"
    )
    warmup_share: float = Field(0.1, ge=0, le=1, description="share of the steps with a rising learning rate")
    weight_decay: float = Field(0.1, ge=0, description="AdamW, for full finetuning and LoRA")
    learning_rates: LearningRates = LearningRates()
    lora: LoraSettings = LoraSettings()
    memory: MemorySettings = MemorySettings()
    sweep: dict[str, list[Any]] = Field(
        {}, description="lists of values for settings of this section, such as seed or learning_rates.memory"
    )

    def decisive(self, method: Method) -> dict[str, Any]:
        """What the result of a training by `method` depends on, but for the texts, the model and the background."""
        apart = {"methods", "data", "learning_rates", "lora", "memory", "background", "checkpoint_steps", "sweep"}
        found = self.model_dump(exclude=apart)
        found |= {"method": method, "learning_rate": getattr(self.learning_rates, method)}
        if method != "full":
            found[method] = getattr(self, method).model_dump()
        return found

    @model_validator(mode="after")
    def _check_once(self) -> Self:
        for name in ("methods", "data"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)} names one twice")
        return self

    @model_validator(mode="after")
    def _check_company(self) -> Self:
        if self.texts_per_sequence > 1:
            for name, value in (("group_by", "chunk"), ("question_loss", "answer")):
                if getattr(self, name) == value:
                    raise ValueError(
                        f"{name}={value} needs texts_per_sequence=1: with {self.texts_per_sequence} (by default 5) "
                        "texts of any kind and chunk share a sequence"
                    )
        return self

"""Settings of generation: which templates are asked, how often, and of which engine."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from active_reading.augment.endpoint import EndpointSettings
from active_reading.augment.limits import BudgetSettings, PriceSettings


class TemplateUse(BaseModel):
    """How often one template is asked, and how."""

    model_config = ConfigDict(extra="forbid")

    template: str = Field(description="name of a shipped template, or a path to a .j2 file")
    replicates: int = Field(1, ge=1, description="answers per chunk (and strategy)")
    attempts: int | None = Field(
        None, ge=1, description="ask again, up to so often in all, until `replicates` answers are accepted"
    )
    max_tokens: int = Field(
        256, ge=8, description="longer answers are cut: their whole questions or strategies are used"
    )
    num_items: int = Field(4, ge=1, description="questions or strategies to ask for")
    task: str = Field("", description="for templates about a task: what the student will have to do")
    apply: str | None = Field(None, description="for strategies: the template that applies each of them")
    apply_max_tokens: int = Field(256, ge=8, description="for strategies: max_tokens of the applications")

    @model_validator(mode="after")
    def _attempts_suffice(self) -> Self:
        if self.attempts is not None and self.attempts < self.replicates:
            raise ValueError(
                f"{self.template}: attempts={self.attempts} is less than the replicates={self.replicates} wanted"
            )
        return self


class GenerateSettings(BaseModel):
    """What the generator is asked."""

    model_config = ConfigDict(extra="forbid")

    engine: Literal["vllm", "endpoint", "echo"] = Field(
        "vllm",
        description="vllm in this process, an OpenAI-compatible endpoint, or an echo, which only tests plumbing",
    )
    endpoint: EndpointSettings | None = Field(None, description="for engine: endpoint")
    temperature: float = Field(0.7, ge=0, le=2, description="0: always the likeliest token")
    top_p: float = Field(
        1.0, gt=0, le=1, description="below 1 the vocabulary is sorted at every token: slow on a CPU"
    )
    seed: int = Field(0, description="another one asks for other answers")
    max_model_len: int = Field(2048, ge=128, description="context of the engine, prompt and answer, in tokens")
    template_folder: str = Field("", description="a folder of .j2 files, which go before the shipped ones")
    max_num_seqs: int = Field(96, ge=1, description="sequences that the engine runs side by side")
    tensor_parallel: int = Field(1, ge=1, description="GPUs that share one model (vllm)")
    data_parallel: int = Field(1, ge=1, description="engines side by side, each on GPUs of its own (vllm)")
    budget: BudgetSettings = BudgetSettings()
    prices: PriceSettings = PriceSettings()
    templates: list[TemplateUse] = [
        TemplateUse(template="paraphrase", replicates=2),
        TemplateUse(template="questions", replicates=2),
        TemplateUse(template="propose_strategies", num_items=3, max_tokens=128, apply="apply_strategy"),
    ]

    @model_validator(mode="after")
    def _check_engine(self) -> Self:
        if (self.engine == "endpoint") != (self.endpoint is not None):
            raise ValueError("engine=endpoint and a section 'endpoint' go together: give both or none")
        if self.engine != "vllm" and (self.tensor_parallel > 1 or self.data_parallel > 1):
            raise ValueError(f"tensor_parallel and data_parallel are of vllm, and engine={self.engine}")
        if self.budget.money is not None and not any(self.prices.model_dump().values()):
            raise ValueError("budget.money needs prices: give machine_per_hour or the prices of tokens")
        return self

    @property
    def max_in_flight(self) -> int:
        """Requests that the engine is given at once: twice what runs side by side, so that it never waits."""
        return 2 * self.max_num_seqs * self.data_parallel

    def how(self) -> dict[str, Any]:
        """The settings without those that change no answer."""
        apart = {
            "max_num_seqs",
            "tensor_parallel",
            "data_parallel",
            "budget",
            "prices",
            "endpoint",
            "template_folder",
        }
        return self.model_dump(exclude=apart)

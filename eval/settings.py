"""Settings of the evaluation: no torch here, so that a configuration is checked at once."""

from pydantic import BaseModel, ConfigDict, Field


class EvaluateSettings(BaseModel):
    """What every model is asked."""

    model_config = ConfigDict(extra="forbid")

    questions: str | None = Field(
        None, description="gold questions on the corpus: JSON lines, or SQuAD's format (.json)"
    )
    few_shot: int = Field(5, ge=0, le=5, description="worked examples before each question")
    max_new_tokens: int = Field(16, ge=1, description="longest answer")
    batch_size: int = Field(32, ge=1)
    general_limit: int = Field(
        0, ge=0, description="use only the first so many items of each retention set; 0: all"
    )

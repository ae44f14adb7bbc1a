"""Limits of a run: what it may spend, and how often it may go wrong."""

import time
from collections import deque
from collections.abc import Callable

from pydantic import BaseModel, ConfigDict, Field

from active_reading.augment.engine import Completion
from active_reading.augment.filter import REFUSAL

WINDOW = 50  # attempts looked back on
MOST_BAD = 0.8  # of them. At a true rate of 5 % a window is so bad with a probability below 1e-40.


class BudgetSettings(BaseModel):
    """What one run may spend; at a limit it asks nothing more, and what runs is finished."""

    model_config = ConfigDict(extra="forbid")

    tokens: int | None = Field(None, ge=1, description="of prompts and answers together")
    seconds: float | None = Field(None, gt=0, description="from the engine's start")
    money: float | None = Field(None, gt=0, description="in the currency of generate.prices")


class PriceSettings(BaseModel):
    """What things cost, in any one currency."""

    model_config = ConfigDict(extra="forbid")

    machine_per_hour: float = Field(0.0, ge=0, description="all GPUs together")
    prompt_per_million: float = Field(0.0, ge=0, description="tokens")
    completion_per_million: float = Field(0.0, ge=0, description="tokens")

    def cost(self, seconds: float, prompt_tokens: float, completion_tokens: float) -> float:
        tokens = prompt_tokens * self.prompt_per_million + completion_tokens * self.completion_per_million
        return seconds / 3600 * self.machine_per_hour + tokens / 1e6


class LimitReached(ValueError):
    """The run ends before its plan does; what it did is kept."""


class Limits:
    """Told of every completion; says when to ask nothing more, and raises when a run has gone bad."""

    def __init__(
        self, budget: BudgetSettings, prices: PriceSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.budget, self.prices, self._clock = budget, prices, clock
        self._began = clock()
        self.prompt_tokens = self.cached_tokens = self.completion_tokens = self.answers = 0
        self._bad: deque[bool] = deque(maxlen=WINDOW)

    @property
    def seconds(self) -> float:
        return self._clock() - self._began

    def record(self, completion: Completion) -> None:
        """Raises LimitReached when nearly all of the last attempts gave nothing."""
        self.prompt_tokens += completion.prompt_tokens
        self.cached_tokens += completion.cached_tokens
        self.completion_tokens += completion.completion_tokens
        self.answers += 1
        refused = completion.error is None and REFUSAL.search(completion.text[:200]) is not None
        self._bad.append(completion.failed or refused or (completion.error is None and not completion.text))
        if len(self._bad) == WINDOW and sum(self._bad) >= MOST_BAD * WINDOW:
            last = completion.error or completion.text[:200] or "an empty answer"
            raise LimitReached(
                f"generate: {sum(self._bad)} of the last {WINDOW} attempts failed, were refused or came back "
                f"empty, the last one with: {last}. Answers that came before are kept; mend the cause and run again"
            )

    def describe(self) -> str:
        """Speed, the share of prompts that caching served, and the cost where prices are given."""
        speed = self.completion_tokens / max(self.seconds, 1e-9)
        words = f"{speed:.0f} tokens/s, {self.cached_tokens / max(self.prompt_tokens, 1):.0%} of prompts cached"
        cost = self.prices.cost(self.seconds, self.prompt_tokens, self.completion_tokens)
        return f"{words}, cost {cost:.2f}" if cost else words

    def spent(self, num_running: int) -> str | None:
        """Which budget is spent once the requests that run are finished, or None."""
        done, budget = max(self.answers, 1), self.budget
        prompt = self.prompt_tokens * (1 + num_running / done)
        completion = self.completion_tokens * (1 + num_running / done)
        if budget.tokens is not None and prompt + completion >= budget.tokens:
            return f"generate.budget.tokens={budget.tokens}"
        if budget.seconds is not None and self.seconds >= budget.seconds:
            return f"generate.budget.seconds={budget.seconds:g}"
        if budget.money is not None and self.prices.cost(self.seconds, prompt, completion) >= budget.money:
            return f"generate.budget.money={budget.money:g}"
        return None

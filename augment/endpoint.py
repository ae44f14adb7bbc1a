"""An engine behind an OpenAI-compatible endpoint (`vllm serve`, or a hosted service).

Requests run side by side, as many as the endpoint bears: one more after every full round of answers, half as many
when it says that it is too busy or cannot be reached (additive increase, multiplicative decrease: Jacobson 1988).
What may pass (429, 5xx, a broken connection, a timeout, an answer that is none) is tried again after a pause that
doubles, or after what `Retry-After` says; what cannot pass (another 4xx) is not. A failure names its type first.
The key comes from the environment alone, and no error shows it.
"""

import asyncio
import json
import os
import queue
import random
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict, Field

from active_reading.augment.engine import (
    CANDIDATES,
    TOO_LONG,
    Completion,
    Messages,
    Sampling,
    probability_of_yes,
)
from active_reading.prompts.characters import writable

MAX_PAUSE = 60.0  # seconds, of our own choice; what Retry-After says goes above it
POLL_SECONDS = 0.1


class EndpointSettings(BaseModel):
    """Where an OpenAI-compatible server listens."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(pattern="^https?://", description="up to and with /v1, such as http://localhost:8000/v1")
    model: str = Field(description="its name there; it is part of the address of every answer")
    revision: str = Field("", description="change it when the server's model changes under the same name")
    key_variable: str = Field("OPENAI_API_KEY", description="the environment variable that holds the key, if any")
    timeout_seconds: float = Field(120.0, gt=0, description="a longer answer counts as failed")
    max_tries: int = Field(5, ge=1, description="at one request, where another try may help")


class Concurrency:
    """How many requests may run at once."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = float(min(4, most))
        self._answered = 0
        self._running_at_cut = 0

    def answered(self) -> None:
        self._running_at_cut = max(0, self._running_at_cut - 1)
        self.limit = min(self.most, self.limit + 1 / self.limit)

    def refused(self, running: int) -> None:
        """Halve the limit, once for all requests that were under way when it was last halved."""
        if self._running_at_cut:
            self._running_at_cut -= 1
            return
        self.limit = max(1.0, self.limit / 2)
        self._running_at_cut = max(0, running - 1)


@dataclass
class Trouble(Exception):
    """Why a try gave no answer."""

    kind: str
    detail: str
    may_pass: bool = True
    is_load: bool = True  # fewer requests at a time may help
    pause: float | None = None  # seconds that the server asks for

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}"


class EndpointEngine:
    """Answers come from the endpoint; its requests run in a thread of their own."""

    def __init__(self, settings: EndpointSettings, max_at_once: int) -> None:
        self.settings = settings
        self.num_running = 0
        self.concurrency = Concurrency(max_at_once)
        key = os.environ.get(settings.key_variable, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise ValueError(f"{settings.key_variable} in the environment is no key: no key has such characters")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._done: queue.SimpleQueue[Completion] = queue.SimpleQueue()
        self._waiting: asyncio.Queue[tuple[str, Messages, Sampling]] = asyncio.Queue()
        self._running = 0
        self._open_at = 0.0  # no try begins before this moment of the loop's clock
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="endpoint", daemon=True)
        self._thread.start()

    def submit(self, request_id: str, messages: Messages, sampling: Sampling) -> None:
        self.num_running += 1
        self._loop.call_soon_threadsafe(self._waiting.put_nowait, (request_id, messages, sampling))

    def poll(self) -> list[Completion]:
        done: list[Completion] = []
        try:
            if not self._thread.is_alive():
                raise RuntimeError("the thread that asks the endpoint has died")
            done.append(self._done.get(timeout=POLL_SECONDS))
            while True:
                done.append(self._done.get_nowait())
        except queue.Empty:
            pass
        self.num_running -= len(done)
        return done

    def close(self) -> None:
        """Give up what runs."""
        if not self._loop.is_closed():  # where its thread has died
            self._loop.call_soon_threadsafe(lambda: self._main.cancel())
        self._thread.join()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._main = self._loop.create_task(self._work())
        try:
            self._loop.run_until_complete(self._main)
        except asyncio.CancelledError:
            pass
        finally:
            self._loop.close()

    async def _work(self) -> None:
        limits = httpx.Limits(max_connections=self.concurrency.most)
        timeout = httpx.Timeout(self.settings.timeout_seconds, pool=None)
        async with (
            httpx.AsyncClient(headers=self._headers, timeout=timeout, limits=limits) as self._client,
            asyncio.TaskGroup() as tasks,
        ):
            while True:
                request = await self._waiting.get()
                while self._running >= int(self.concurrency.limit):
                    await asyncio.sleep(0.01)
                self._running += 1
                tasks.create_task(self._answer(*request))

    async def _answer(self, request_id: str, messages: Messages, sampling: Sampling) -> None:
        """Try until there is an answer or no hope."""
        for tried in range(1, self.settings.max_tries + 1):
            await asyncio.sleep(max(0.0, self._open_at - self._loop.time()))
            try:
                async with asyncio.timeout(self.settings.timeout_seconds):
                    done = await self._ask(request_id, messages, sampling)
                self.concurrency.answered()
                break
            except TimeoutError:
                trouble = Trouble("timeout", f"no answer in {self.settings.timeout_seconds:g} s")
            except httpx.TimeoutException:
                trouble = Trouble("timeout", f"no answer in {self.settings.timeout_seconds:g} s")
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                trouble = Trouble("connection", f"{type(error).__name__}: {error}")
            except Trouble as found:
                trouble = found
            if trouble.is_load:
                self.concurrency.refused(self._running)
            done = _failed(request_id, trouble)
            if not trouble.may_pass or tried == self.settings.max_tries:
                break
            await self._pause(tried, trouble)
        self._running -= 1
        self._done.put(done)

    async def _pause(self, tried: int, trouble: Trouble) -> None:
        if trouble.pause is not None:  # the server speaks of all requests, not of this one
            self._open_at = max(self._open_at, self._loop.time() + trouble.pause)
            return
        await asyncio.sleep(min(MAX_PAUSE, 0.5 * 2 ** (tried - 1)) * random.uniform(0.5, 1.5))

    async def _ask(self, request_id: str, messages: Messages, sampling: Sampling) -> Completion:
        body: dict[str, Any] = {
            "model": self.settings.model,
            "messages": messages,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": 1 if sampling.yes_no else sampling.max_tokens,
            "seed": sampling.seed,
        }
        if sampling.yes_no:
            body |= {"logprobs": True, "top_logprobs": CANDIDATES}
        if sampling.schema:
            schema = {"name": "answer", "schema": json.loads(sampling.schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        response = await self._client.post(f"{self.settings.url.rstrip('/')}/chat/completions", json=body)
        if response.status_code != 200:
            raise _trouble(response)
        return _completion(request_id, response, sampling.yes_no)


def _trouble(response: httpx.Response) -> Trouble:
    status, detail = response.status_code, " ".join(response.text.split())[:300]
    if status == 400 and ("context length" in detail or "context_length" in detail or "max_model_len" in detail):
        return Trouble(TOO_LONG, detail, may_pass=False, is_load=False)
    if status == 429:
        return Trouble("rate_limited", f"HTTP 429 {detail}", pause=_retry_after(response))
    if status >= 500 or status == 408:
        return Trouble("server_error", f"HTTP {status} {detail}", pause=_retry_after(response))
    kind = "not_allowed" if status in (401, 403) else "bad_request"
    return Trouble(kind, f"HTTP {status} {detail}", may_pass=False, is_load=False)


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds; the header holds a number of them or a date (RFC 9110, 10.2.3)."""
    value = response.headers.get("Retry-After", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def _completion(request_id: str, response: httpx.Response, yes_no: bool) -> Completion:
    try:
        answer = response.json()
        choice, usage = answer["choices"][0], answer.get("usage") or {}
        text, finish_reason = choice["message"]["content"] or "", choice["finish_reason"] or "stop"
        if yes_no:
            candidates = choice["logprobs"]["content"][0]["top_logprobs"]
            text = probability_of_yes((each["token"], each["logprob"]) for each in candidates)
            finish_reason = "stop" if finish_reason == "length" else finish_reason
        counts = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
        cached = int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)
        return Completion(request_id, writable(text).strip(), str(finish_reason), *counts, cached_tokens=cached)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        shown = " ".join(response.text.split())[:200]
        raise Trouble("bad_answer", f"{type(error).__name__} in '{shown}'", is_load=False) from error


def _failed(request_id: str, trouble: Trouble) -> Completion:
    kind = TOO_LONG if trouble.kind == TOO_LONG else "error"
    return Completion(request_id, "", kind, 0, 0, str(trouble), is_final=True)

"""Engines: what turns chat messages into text.

An engine is fed continuously: `submit` hands over a request, `poll` returns what has finished since.
`VllmEngine` is the real one, in this process. `EchoEngine` is deterministic and costs nothing:
it tests the plumbing around an engine, never what a model writes.
"""

import gc
import json
import math
import os
import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

Messages = list[dict[str, str]]
TOO_LONG = "too_long"  # the finish_reason of a request that cannot fit into the context, however often it is asked
# Twenty tokens or more, three times over: every loop of up to 39 tokens has a multiple of its length in this range,
# and so few lengths cost 5 us a token. No text that is worth keeping does it.
REPETITION = {"min_pattern_size": 20, "max_pattern_size": 39, "min_count": 3}
CANDIDATES = 20  # likeliest tokens among which a yes or a no is looked for: the most that servers give
ANSWERED = ("stop", "length", "repetition")  # how vLLM ends an answer; it has other words for its own failures


@dataclass(frozen=True)
class Sampling:
    """How one answer is drawn."""

    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    schema: str | None = None  # a JSON schema, as text: the answer must satisfy it
    yes_no: bool = False  # one token is drawn, and the answer is the probability of a yes


@dataclass(frozen=True)
class Completion:
    """One finished request; `error` is set, and `text` empty, when the engine could not answer it.

    Another attempt may answer it, unless `finish_reason` is `TOO_LONG`.
    """

    request_id: str
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    error: str | None = None
    cached_tokens: int = 0  # of the prompt, those that needed no computing
    is_final: bool = False  # the engine itself tried again, as often as made sense

    @property
    def failed(self) -> bool:
        """Not answered, and another attempt may be."""
        return self.error is not None and self.finish_reason != TOO_LONG


def probability_of_yes(tokens: Iterable[tuple[str, float]]) -> str:
    """P(yes) of an answer that is yes or no, as text; empty when the likeliest tokens hold neither word.

    `tokens` are candidates for the answer's first token, each with its log-probability. All ways of writing a word
    count, and the two words' probabilities are taken as all there is.
    """
    of = {"yes": 0.0, "no": 0.0}
    for token, log_probability in tokens:
        word = token.strip(" \n.,*_\"'").casefold()
        if word in of:
            of[word] += math.exp(log_probability)
    total = of["yes"] + of["no"]
    return f"{of['yes'] / total:.6f}" if total else ""


class Engine(Protocol):
    """Anything that answers requests."""

    num_running: int

    def submit(self, request_id: str, messages: Messages, sampling: Sampling) -> None: ...

    def poll(self) -> list[Completion]: ...

    def close(self) -> None: ...


class VllmEngine:
    """vLLM's engine, stepped in this process.

    On a CPU the engine core shares this process and skips compilation: 20 s to start instead of 97,
    and both cores compute. Without AVX-512 it computes in fp32: bf16 is emulated there, five times
    slower. On a GPU vLLM's own defaults stand (a core process of its own, CUDA graphs).
    """

    def __init__(
        self, model: str, max_model_len: int, max_num_seqs: int, seed: int, tensor_parallel: int = 1
    ) -> None:
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        try:
            import torch

            on_cpu = not torch.cuda.is_available()
            if on_cpu:
                os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
                os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
            import vllm
            from vllm.sampling_params import RepetitionDetectionParams, RequestOutputKind, StructuredOutputsParams
        except ImportError as error:
            raise ValueError(
                f"vLLM cannot be imported ({error}): install it (make demo does), or set generate.engine=echo "
                "to test the plumbing without a model"
            ) from error
        self._vllm = vllm
        self._final_only = RequestOutputKind.FINAL_ONLY
        self._repetition = RepetitionDetectionParams(**REPETITION)
        self._structured = StructuredOutputsParams
        arguments = vllm.EngineArgs(
            model=model,
            max_model_len=max_model_len,
            max_num_seqs=max_num_seqs,
            enable_prefix_caching=True,
            tensor_parallel_size=tensor_parallel,
            # Only whole blocks are shared. A CPU's default of 128 tokens is longer than most of what prompts share.
            block_size=32 if on_cpu else None,
            seed=seed,
            disable_log_stats=True,
            use_tqdm_on_load=False,
            dtype="float32" if on_cpu and not torch.cpu.get_capabilities().get("avx512_f", False) else "auto",
            enforce_eager=on_cpu,
            # Per-request seeds fail on a CPU when a prompt is prefilled in parts (vLLM 0.32).
            enable_chunked_prefill=not on_cpu,
            max_num_batched_tokens=max(max_model_len, 4096),
        )
        self._engine = vllm.LLMEngine.from_engine_args(arguments)
        self._tokenizer: Any = self._engine.get_tokenizer()
        self._max_model_len = max_model_len
        self._refused: list[Completion] = []
        self.num_running = 0

    def submit(self, request_id: str, messages: Messages, sampling: Sampling) -> None:
        tokens = self._tokens(messages)
        self.num_running += 1
        if len(tokens) + sampling.max_tokens > self._max_model_len:
            message = (
                f"prompt of {len(tokens)} tokens leaves no room for {sampling.max_tokens} new ones in "
                f"generate.max_model_len={self._max_model_len}"
            )
            self._refused.append(Completion(request_id, "", TOO_LONG, len(tokens), 0, message))
            return
        self._engine.add_request(request_id, {"prompt_token_ids": tokens}, self.parameters(sampling))

    def parameters(self, sampling: Sampling) -> Any:
        """The sampling in vLLM's words."""
        return self._vllm.SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=1 if sampling.yes_no else sampling.max_tokens,
            logprobs=CANDIDATES if sampling.yes_no else None,
            seed=sampling.seed,
            output_kind=self._final_only,
            repetition_detection=self._repetition,
            structured_outputs=self._structured(json=sampling.schema) if sampling.schema else None,
        )

    def poll(self) -> list[Completion]:
        done, self._refused = self._refused, []
        if self._engine.has_unfinished_requests():
            done += [_completion(output) for output in self._engine.step() if output.finished]
        self.num_running -= len(done)
        return done

    def close(self) -> None:
        """Stop the engine and give its memory back."""
        self._engine.engine_core.shutdown()
        del self._engine
        gc.collect()

    def _tokens(self, messages: Messages) -> list[int]:
        if getattr(self._tokenizer, "chat_template", None) is None:
            plain = "\n\n".join(message["content"] for message in messages) + "\n\n"
            return [int(token) for token in self._tokenizer.encode(plain)]
        return list(
            self._tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=True, return_dict=False
            )
        )


def _completion(output: Any) -> Completion:
    answer = output.outputs[0]
    finish_reason = answer.finish_reason or "error"
    text = answer.text.strip()
    if answer.logprobs:  # asked for with a yes or a no alone
        candidates = answer.logprobs[0].values()
        text = probability_of_yes((each.decoded_token or "", each.logprob) for each in candidates)
        finish_reason = "stop" if finish_reason == "length" else finish_reason
    error = None if finish_reason in ANSWERED else f"vLLM ended the request with '{finish_reason}'"
    return Completion(
        request_id=output.request_id,
        text="" if error else text,
        finish_reason=finish_reason,
        prompt_tokens=len(output.prompt_token_ids),
        completion_tokens=len(answer.token_ids),
        error=error,
        cached_tokens=output.num_cached_tokens or 0,
    )


class EchoEngine:
    """Answers from the prompt alone: the text's sentences, in another order, in the form asked for."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[str, Messages, Sampling]] = deque()
        self.num_running = 0

    def submit(self, request_id: str, messages: Messages, sampling: Sampling) -> None:
        self._waiting.append((request_id, messages, sampling))
        self.num_running += 1

    def poll(self) -> list[Completion]:
        request_id, messages, sampling = self._waiting.popleft()
        self.num_running -= 1
        prompt = messages[-1]["content"]
        text = _echo_verdict(prompt) if sampling.yes_no else _echo(prompt, sampling.seed)
        text = _echo_json(text) if sampling.schema else text
        return [Completion(request_id, text, "stop", len(prompt.split()), len(text.split()))]

    def close(self) -> None:
        self._waiting.clear()


def _echo_verdict(prompt: str) -> str:
    """The share of a statement's words that the text has; of an answer's, that the accepted ones have."""
    if "\n\nGiven answer:\n" in prompt:
        text, _, statement = prompt.rpartition("Accepted answers:\n")[2].partition("\n\nGiven answer:\n")
    else:
        text, _, rest = prompt.partition("\n\nStatement:\n")
        statement = rest.rpartition("\n\n")[0]
    words = statement.split()
    return f"{sum(word.strip('.,') in text for word in words) / max(len(words), 1):.6f}"


def _echo_json(text: str) -> str:
    """The questions of an answer, in JSON."""
    pairs = re.findall(r"Q: (.*)\nA: (.*)", text)
    return json.dumps({"questions": [{"question": question, "answer": answer} for question, answer in pairs]})


def _echo(prompt: str, seed: int) -> str:
    instruction, marker, text = prompt.partition("Text:\n")
    if not (instruction and marker):
        text, _, instruction = prompt.removeprefix("Text:").rpartition("\n\n")
    text = text.partition("\n\nStudy strategy:")[0]
    text, _, question = text.partition("\n\nQuestion: Complete the fact: ")
    sentences = [s.strip(" .") for s in text.replace("\n", " ").split(". ") if s.strip(" .")]
    if question:
        return next((s.split()[-1] for s in sentences if s.startswith(question)), "unknown")
    if "questions" in instruction:
        return "\n".join(f"Q: Complete the fact: {s.rsplit(' ', 1)[0]}\nA: {s.split()[-1]}" for s in sentences)
    if "strategies" in instruction:
        return "## Read it backwards\n## Read every second sentence first"
    turn = seed % len(sentences) if sentences else 0
    return " ".join(f"It is so that {s}." for s in sentences[turn:] + sentences[:turn])

"""Engines: which ends of a request are answers, which are failures, and which are final. Without vLLM."""

from types import SimpleNamespace

import pytest

from active_reading.augment.engine import TOO_LONG, Completion, Sampling, VllmEngine, _completion


@pytest.mark.parametrize(
    ("finish_reason", "failed"),
    [("stop", False), ("length", False), ("repetition", False), ("abort", True), ("error", True), (None, True)],
)
def test_an_end_that_is_no_answer_is_a_failure_without_text(finish_reason, failed):
    answer = SimpleNamespace(text=" The owl. ", finish_reason=finish_reason, token_ids=[1, 2], logprobs=None)
    output = SimpleNamespace(request_id="r1", outputs=[answer], prompt_token_ids=[1, 2, 3], num_cached_tokens=2)
    done = _completion(output)
    assert done.cached_tokens == 2
    assert done.failed is failed
    assert done.text == ("" if failed else "The owl.")
    assert (done.error is None) is not failed
    assert (done.request_id, done.prompt_tokens, done.completion_tokens) == ("r1", 3, 2)


def test_a_prompt_without_room_is_no_failure_that_passes():
    assert Completion("r1", "", "error", 9, 0, "broken").failed
    assert not Completion("r1", "", TOO_LONG, 9, 0, "no room").failed
    assert not Completion("r1", "The owl.", "stop", 9, 3).failed


def test_a_prompt_beyond_the_context_never_reaches_vllm(monkeypatch):
    engine = VllmEngine.__new__(VllmEngine)
    engine._max_model_len, engine._refused, engine.num_running = 12, [], 0
    engine._engine = SimpleNamespace(has_unfinished_requests=lambda: False)
    monkeypatch.setattr(engine, "_tokens", lambda messages: [1] * 9)
    engine.submit("r1", [{"role": "user", "content": "The owl."}], Sampling(0.7, 1.0, 4, 0))
    (done,) = engine.poll()
    assert (done.finish_reason, done.text, done.prompt_tokens, engine.num_running) == (TOO_LONG, "", 9, 0)
    assert done.error == "prompt of 9 tokens leaves no room for 4 new ones in generate.max_model_len=12"

"""Answers and likelihoods from a shared, cached prefix equal those of one question at a time without a cache."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache, GPT2Config, MistralConfig

from active_reading.eval.answers import ClosedBook, batched, pad_right, text_nll, token_nll
from active_reading.eval.questions import Question
from active_reading.train.load import load_model, load_tokenizer

EXAMPLES = [Question("Capital of Austria?", ("Vienna", "Wien")), Question("Sides of a triangle?", ("3",))]
QUESTIONS = [
    Question("Who?", ("Ada",)),
    Question("In which year did the Berlin Wall fall, and why then?", ("1989", "89")),
    Question("What is raisin made from, in short?", ("grapes from a vineyard",)),
    Question("Is it?", ("no",)),
    Question("Where was the heron kept by Orsella?", ("Pellamire",)),
]
NEW_TOKENS = 12


@pytest.fixture(scope="module", params=["rotary", "absolute", "sliding"])
def model(request, tiny_model) -> Any:
    """Families that treat positions and caches differently."""
    if request.param == "rotary":
        return load_model(tiny_model).eval()
    torch.manual_seed(3)
    sizes = {"vocab_size": 257, "initializer_range": 0.3, "eos_token_id": 256, "bos_token_id": None}
    if request.param == "absolute":
        config = GPT2Config(**sizes, n_embd=32, n_layer=2, n_head=4, n_positions=512)
    else:
        narrow = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        config = MistralConfig(**sizes, **narrow, num_key_value_heads=2, sliding_window=256)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture(scope="module")
def tokenizer(tiny_model) -> Any:
    return load_tokenizer(tiny_model)


def prompt(question: Question, examples: list[Question]) -> str:
    shots = "".join(f"Question: {e.question}\nAnswer: {e.answers[0]}\n\n" for e in examples)
    return f"{shots}Question: {question.question}\nAnswer:"


def ids_of(tokenizer: Any, text: str, examples: list[Question]) -> list[int]:
    start = [] if examples else [tokenizer.eos_token_id]
    return start + tokenizer(text)["input_ids"]


@torch.no_grad()
def plain_answer(model: Any, tokenizer: Any, question: Question, examples: list[Question]) -> str:
    """Greedy decoding that reads everything again for every token."""
    ids, written = ids_of(tokenizer, prompt(question, examples), examples), []
    while len(written) < NEW_TOKENS:
        token = int(model(input_ids=torch.tensor([ids + written]), use_cache=False).logits[0, -1].argmax())
        written.append(token)
        if token == tokenizer.eos_token_id or "\n" in tokenizer.decode([token]):
            break
    return tokenizer.decode(written, skip_special_tokens=True).split("\n")[0].strip()


@torch.no_grad()
def plain_nll(model: Any, tokenizer: Any, question: Question, examples: list[Question]) -> float:
    start = ids_of(tokenizer, prompt(question, examples), examples)
    gold = tokenizer(f" {question.answers[0]}")["input_ids"]
    logits = model(input_ids=torch.tensor([start + gold]), use_cache=False).logits[0].double()
    losses = [-torch.log_softmax(logits[len(start) + place - 1], dim=-1)[token] for place, token in enumerate(gold)]
    return float(sum(losses) / len(losses))


@pytest.mark.parametrize("examples", [EXAMPLES, []], ids=["few-shot", "zero-shot"])
def test_answers_equal_plain_greedy_decoding(model, tokenizer, examples):
    book = ClosedBook(model, tokenizer, examples, NEW_TOKENS)
    expected = [plain_answer(model, tokenizer, question, examples) for question in QUESTIONS]
    assert book.answer(QUESTIONS) == expected
    assert len(set(expected)) > 2, "the questions have different answers"


@pytest.mark.parametrize("examples", [EXAMPLES, []], ids=["few-shot", "zero-shot"])
def test_answer_nll_equals_a_plain_forward_pass(model, tokenizer, examples):
    book = ClosedBook(model, tokenizer, examples, NEW_TOKENS)
    expected = [plain_nll(model, tokenizer, question, examples) for question in QUESTIONS]
    assert book.answer_nll(QUESTIONS) == pytest.approx(expected, rel=1e-4)
    assert max(expected) - min(expected) > 0.1


def test_questions_are_put_in_the_wanted_format_in_the_examples_too(model, tokenizer):
    form = "Q: {question}? {braces}\nA:"
    book = ClosedBook(model, tokenizer, EXAMPLES, NEW_TOKENS, form)
    asked = [replace(q, question=f"{q.question}? {{braces}}") for q in QUESTIONS]
    shown = [replace(e, question=f"{e.question}? {{braces}}") for e in EXAMPLES]
    usual = ClosedBook(model, tokenizer, shown, NEW_TOKENS, "Q: {question}\nA:")
    assert torch.equal(book.prefix, usual.prefix)
    assert book.answer_nll(QUESTIONS) == pytest.approx(usual.answer_nll(asked), rel=1e-4)
    assert book.answer_nll(QUESTIONS) != pytest.approx(
        ClosedBook(model, tokenizer, EXAMPLES, NEW_TOKENS).answer_nll(QUESTIONS), rel=1e-2
    )


def test_the_batch_size_does_not_matter(model, tokenizer):
    book = ClosedBook(model, tokenizer, EXAMPLES, NEW_TOKENS)
    alone = [answer for question in QUESTIONS for answer in book.answer([question])]
    assert book.answer(QUESTIONS) == alone
    assert book.answer(QUESTIONS[::-1]) == alone[::-1]
    losses = [loss for question in QUESTIONS for loss in book.answer_nll([question])]
    assert book.answer_nll(QUESTIONS) == pytest.approx(losses, rel=1e-4)


def test_the_shared_prefix_is_not_changed_by_asking(model, tokenizer):
    book = ClosedBook(model, tokenizer, EXAMPLES, NEW_TOKENS)
    first = book.answer(QUESTIONS), book.answer_nll(QUESTIONS)
    assert isinstance(book.cache, DynamicCache)
    assert book.cache.get_seq_length() == book.prefix.shape[1]
    assert (book.answer(QUESTIONS), book.answer_nll(QUESTIONS)) == first


def parrot(model: Any, tokenizer: Any, text: str) -> tuple[Any, list[int]]:
    """A copy of the model that follows a colon by `text`, and a list that grows by one per forward pass."""
    ids = tokenizer(f":{text}")["input_ids"]
    successor, calls = torch.zeros(len(tokenizer), dtype=torch.long), []
    successor[ids[:-1]] = torch.tensor(ids[1:])

    def speak(_: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        output.logits = torch.nn.functional.one_hot(successor[kwargs["input_ids"]], len(tokenizer)).float()
        calls.append(1)

    model = copy.deepcopy(model)
    model.register_forward_hook(speak, with_kwargs=True)
    return model, calls


def test_an_answer_ends_at_its_line_and_writing_stops_there(model, tokenizer):
    speaker, calls = parrot(model, tokenizer, " yes\nno")
    book = ClosedBook(speaker, tokenizer, EXAMPLES, 50)
    calls.clear()
    assert book.answer(QUESTIONS[:2]) == ["yes", "yes"]
    assert len(calls) == 1 + len(" yes\n")  # the question is read, then a token is written at a time


def test_what_a_token_holds_beyond_the_line_is_cut_off(model, tokenizer, monkeypatch):
    """In other vocabularies one token holds a line break and more: here all of it is written at once."""
    book = ClosedBook(model, tokenizer, EXAMPLES, 50)
    ids = torch.tensor([tokenizer(" yes, \n\nQuestion")["input_ids"]])
    monkeypatch.setattr(model, "generate", lambda input_ids, **_: torch.cat([input_ids, ids], dim=1))
    assert book.answer(QUESTIONS[:1]) == ["yes,"]


def test_an_answer_is_cut_at_the_longest_length(model, tokenizer):
    speaker, _ = parrot(model, tokenizer, " abcdefgh")
    assert ClosedBook(speaker, tokenizer, EXAMPLES, 6).answer(QUESTIONS[:1]) == ["abcde"]


def test_text_nll_equals_a_plain_forward_pass_and_leaves_the_first_token_out(model, tokenizer):
    texts = ["short one", "a text that is quite a bit longer than the first", "mid size text"]
    expected = []
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        with torch.no_grad():
            chances = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0].double(), dim=-1)
        expected.append(-sum(float(chances[t - 1, ids[t]]) for t in range(1, len(ids))) / (len(ids) - 1))
    for batch_size in (1, 2, 3):
        assert text_nll(model, tokenizer, texts, batch_size) == pytest.approx(expected, rel=1e-4)


def test_text_nll_cuts_long_texts(model, tokenizer):
    text = "abcdefghij" * 5
    assert text_nll(model, tokenizer, [text], 1, max_length=12) == pytest.approx(
        text_nll(model, tokenizer, [text[:12]], 1), rel=1e-5
    )


def test_a_text_of_one_token_is_refused_before_the_model_is_run(tokenizer):
    with pytest.raises(ValueError, match="the text 'a' has 1 tokens, and an NLL needs two: leave it out"):
        text_nll(None, tokenizer, ["long enough", "a"], 2)


def test_token_nll_by_hand():
    logits = torch.log(torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [1.0, 1.0, 1.0]]]))
    losses = token_nll(logits, torch.tensor([[2, 1, 0]]))
    torch.testing.assert_close(losses, -torch.log(torch.tensor([[0.25, 0.1]])))


def test_padding_goes_to_the_right():
    ids, mask = pad_right([[1, 2, 3], [4]], pad_token_id=9)
    assert ids.tolist() == [[1, 2, 3], [4, 9, 9]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_batches_cover_all_items_in_order():
    assert list(batched([1, 2, 3, 4, 5], 2)) == [[1, 2], [3, 4], [5]]
    assert list(batched([], 2)) == []

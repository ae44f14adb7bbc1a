"""Answers and likelihoods from a shared, cached prefix equal those of one question at a time without a cache."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache, GPT2Config, MistralConfig

from active_reading.eval.answers import ClosedBook
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
BEHIND = [
    replace(question, context=passage)
    for question, passage in zip(
        QUESTIONS, ["Ada kept a heron.", "", "Raisins are dry.", "Ada kept a heron.", ""], strict=True
    )
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
    passage = f"Passage: {question.context}\n\n" if question.context else ""
    return f"{shots}{passage}Question: {question.question}\nAnswer:"


def answers(book: ClosedBook, questions: list[Question]) -> list[str]:
    return [answer.text for answer in book.ask(questions)]


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


EACH_PROMPT = pytest.mark.parametrize(
    ("examples", "questions"),
    [(EXAMPLES, QUESTIONS), ([], QUESTIONS), (EXAMPLES, BEHIND), ([], BEHIND)],
    ids=["few-shot", "zero-shot", "few-shot behind passages", "zero-shot behind passages"],
)


@EACH_PROMPT
def test_answers_equal_plain_greedy_decoding(model, tokenizer, examples, questions):
    book = ClosedBook(model, tokenizer, examples, NEW_TOKENS)
    expected = [plain_answer(model, tokenizer, question, examples) for question in questions]
    assert answers(book, questions) == expected
    assert len(set(expected)) > 2, "the questions have different answers"
    assert len(set(map(len, expected))) > 1, "they do not all leave the batch together"


@EACH_PROMPT
def test_answer_nll_equals_a_plain_forward_pass(model, tokenizer, examples, questions):
    book = ClosedBook(model, tokenizer, examples, NEW_TOKENS)
    expected = [plain_nll(model, tokenizer, question, examples) for question in questions]
    assert book.answer_nll(questions) == pytest.approx(expected, rel=1e-4)
    assert [answer.gold_nll for answer in book.ask(questions)] == pytest.approx(expected, rel=1e-4)
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


def test_a_passage_is_read_once_for_all_questions_behind_it(model, tokenizer):
    model, read = copy.deepcopy(model), []
    book = ClosedBook(model, tokenizer, EXAMPLES, NEW_TOKENS)
    model.register_forward_pre_hook(
        lambda _, args, kwargs: read.append(
            kwargs["attention_mask"][:, -kwargs["input_ids"].shape[1] :].sum().item()
        ),
        with_kwargs=True,
    )
    passage = "Ada kept a heron, and bees, and a dog."
    some = [replace(question, context=passage) for question in QUESTIONS]
    alone = sum(book.answer_nll([question])[0] for question in some)
    apart = sum(read)
    read.clear()
    assert sum(book.answer_nll(some)) == pytest.approx(alone, rel=1e-4)
    assert apart - sum(read) >= 4 * len(passage)


def test_the_batch_size_does_not_matter(model, tokenizer):
    book = ClosedBook(model, tokenizer, EXAMPLES, NEW_TOKENS)
    alone = [answer for question in BEHIND for answer in answers(book, [question])]
    assert answers(book, BEHIND) == alone
    assert answers(book, BEHIND[::-1]) == alone[::-1]
    losses = [loss for question in BEHIND for loss in book.answer_nll([question])]
    assert book.answer_nll(BEHIND) == pytest.approx(losses, rel=1e-4)


def test_the_shared_prefix_is_not_changed_by_asking(model, tokenizer):
    book = ClosedBook(model, tokenizer, EXAMPLES, NEW_TOKENS)
    first = book.ask(BEHIND)
    assert isinstance(book.cache, DynamicCache)
    assert book.cache.get_seq_length() == book.prefix.shape[1]
    assert book.ask(BEHIND) == first


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
    assert answers(book, QUESTIONS[:2]) == ["yes", "yes"]
    assert len(calls) == len(" yes\n")  # reading the question gives the first token, then one comes at a time


def test_what_a_token_holds_beyond_the_line_is_cut_off(model, tokenizer, monkeypatch):
    """In other vocabularies one token holds a line break and more: here a full stop does."""
    speaker, calls = parrot(model, tokenizer, " yes.no")
    book = ClosedBook(speaker, tokenizer, EXAMPLES, 50)
    calls.clear()
    decode = type(tokenizer).decode
    monkeypatch.setattr(
        type(tokenizer), "decode", lambda *args, **how: decode(*args, **how).replace(".", ", \n\nQuestion")
    )
    monkeypatch.setattr(
        type(tokenizer), "batch_decode", lambda self, rows, **how: [self.decode(row, **how) for row in rows]
    )
    assert answers(book, QUESTIONS[:1]) == ["yes,"]
    assert len(calls) == len(" yes.")


@pytest.mark.parametrize("ends", ["x", ["x", "q"]])
def test_an_answer_ends_at_each_token_that_ends_a_text(model, tokenizer, ends):
    speaker, calls = parrot(model, tokenizer, " yesxq")
    ids = [tokenizer(end)["input_ids"][0] for end in ends]
    speaker.generation_config.eos_token_id = ids if isinstance(ends, list) else ids[0]
    book = ClosedBook(speaker, tokenizer, EXAMPLES, 50)
    calls.clear()
    book.ask(QUESTIONS[:1])
    assert len(calls) == len(" yesx")


def test_an_answer_is_cut_at_the_longest_length(model, tokenizer):
    speaker, _ = parrot(model, tokenizer, " abcdefgh")
    assert answers(ClosedBook(speaker, tokenizer, EXAMPLES, 6), QUESTIONS[:1]) == ["abcde"]


def test_a_question_is_tokenized_as_one_with_the_worked_examples():
    """Two line ends are one token of many tokenizers when nothing follows, and two before a word."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["Question:", "Answer:", "Owl", "oak", "A", "B", "\n", "\n\n", " ", "?"]
    core = Tokenizer(models.WordLevel({word: place for place, word in enumerate([*words, "[UNK]"])}, "[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n+(?!\w)|\n|\S+| "), "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]", eos_token="?", pad_token="?")
    config = LlamaConfig(
        vocab_size=11, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, head_dim=8
    )
    asked, examples = Question("A", ("oak",)), [Question("Owl", ("B",))]
    book = ClosedBook(LlamaForCausalLM(config).eval(), tokenizer, examples, 4)
    whole = tokenizer("Question: Owl\nAnswer: B\n\nQuestion: A\nAnswer:")["input_ids"]
    alone = tokenizer("Question: Owl\nAnswer: B\n\n")["input_ids"]
    assert whole[: len(alone)] != alone
    assert book.prefix[0].tolist() + book._behind_shots("Question: A\nAnswer:") == whole
    assert len(book.ask([asked])) == 1

"""Training a tiny random model with each method: it learns, saves what it learned, and touches nothing else.

Also: what it is trained on again, replay, the distance to the base, and what is refused.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.utils import extract_model_from_parallel
from safetensors.torch import load_file
from training import (
    EACH_METHOD,
    METHODS,
    SETTINGS,
    TEXTS,
    Run,
    final_tensors,
    logits,
    read_metrics,
    same,
    some_tokens,
    train,
)

from active_reading.train import background, loop, trainer
from active_reading.train.adapter_files import read_adapter, unpack_reads, without
from active_reading.train.batches import Batch, Sequence, collate, tokenize
from active_reading.train.generic_text import read_background
from active_reading.train.load import load_model, load_tokenizer
from active_reading.train.objectives import base_logits_of, kl_to_base, next_token_loss
from active_reading.train.patch import apply_patch, read_patch, revert_patch
from active_reading.train.settings import TrainSettings
from active_reading.train.trainer import train_model


@pytest.fixture(scope="module")
def runs(tiny_model, tmp_path_factory) -> dict[str, Run]:
    return {method: train(tiny_model, method, tmp_path_factory.mktemp(method) / "out") for method in METHODS}


@EACH_METHOD
def test_the_loss_falls(runs, method):
    losses = [line["loss"] for line in read_metrics(runs[method].folder)]
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])
    assert runs[method].summary["final_loss"] == pytest.approx(sum(losses[-10:]) / 10)


def test_every_method_spends_exactly_the_same_budget(runs):
    assert [runs[method].summary["tokens"] for method in METHODS] == [1200] * 3
    assert len({runs[method].summary["steps"] for method in METHODS}) == 1


def test_every_method_sees_the_same_batches_in_the_same_order(runs):
    """The first loss comes before any change, so that it is the same for all."""
    first = [read_metrics(runs[method].folder)[0]["loss"] for method in METHODS]
    assert first == pytest.approx([first[0]] * 3, rel=1e-5)


@EACH_METHOD
def test_the_saved_folder_gives_the_trained_logits(runs, tiny_model, method):
    trained = extract_model_from_parallel(runs[method].model, keep_fp32_wrapper=False)  # out of autocast
    expected = logits(trained)
    assert torch.equal(logits(load_model(runs[method].folder)), expected)
    assert not torch.allclose(expected, logits(load_model(tiny_model)), atol=0.1), "training changed the model"


def test_the_new_text_counts_in_what_it_costs_to_move_rows(runs, tiny_model, tmp_path):
    uncounted = train(tiny_model, "memory", tmp_path, memory={"new_text_weight": 0.0})
    assert uncounted.summary["final_loss"] != pytest.approx(runs["memory"].summary["final_loss"], rel=1e-3)


@pytest.mark.parametrize("method", ["lora", "memory"])
def test_the_weights_of_the_base_stay_bit_identical(runs, tiny_model, method):
    base = load_model(tiny_model).state_dict()
    trained = {
        name.removeprefix("base_model.model.").replace(".base_layer.", "."): tensor
        for name, tensor in runs[method].model.state_dict().items()
    }
    assert base
    for name, tensor in base.items():
        assert torch.equal(trained[name], tensor), name


def test_lora_learns_on_every_linear_layer_but_the_head(runs):
    names = load_file(runs["lora"].folder / "adapter_model.safetensors").keys()
    adapted = {name.split(".")[-3] for name in names}
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_memory_moves_only_rows_that_it_counts_as_touched(runs):
    summary, files = runs["memory"].summary, read_adapter(runs["memory"].folder)
    moved = sum(len(files.tensors[f"{layer}.rows"]) for layer in (1, 2))
    assert summary["touched_parameters"] == moved * 32
    assert summary["trainable_parameters"] == 2 * 64 * 32
    assert 0 < moved < 128


def test_background_counts_are_saved_with_the_memory(tiny_model, tmp_path):
    run = train(tiny_model, "memory", tmp_path, num_tokens=200, memory={"protect_learned": 0, "own_texts": 0})
    files = read_adapter(run.folder)
    num_tokens = sum(min(len(text.encode()), 47) + 1 for text in read_background(limit=3))
    counts = files.tensors["1.background_counts"]
    assert counts.max() > 0
    assert counts.max() <= files.batches("1")
    assert files.batches("1") <= num_tokens / 48, "a batch holds a text at least"


def test_what_was_learned_is_known_from_then_on(tiny_model, tmp_path):
    """With `protect_learned` a row counts once more for each step that moved it, and a table for each step."""
    learned, plain = (
        train(tiny_model, "memory", tmp_path / str(protect), num_tokens=200, memory={"protect_learned": protect})
        for protect in (1, 0)
    )
    known, before = read_adapter(learned.folder), read_adapter(plain.folder)
    steps = learned.summary["steps"]
    for layer in ("1", "2"):
        more = known.tensors[f"{layer}.background_counts"] - before.tensors[f"{layer}.background_counts"]
        assert torch.equal(more.nonzero().flatten(), known.tensors[f"{layer}.rows"])
        assert 1 < more.max() <= steps
        assert known.batches(layer) - before.batches(layer) == steps
        assert torch.equal(known.tensors[f"{layer}.values"], before.tensors[f"{layer}.values"])


def test_what_was_learned_counts_as_much_as_is_asked(tiny_model, tmp_path):
    """Four times as much: the products of its read weights, which the background's covariance adds up."""
    heavy, light, none = (
        read_adapter(
            train(tiny_model, "memory", tmp_path / str(w), num_tokens=200, memory={"protect_learned": w}).folder
        )
        for w in (4, 1, 0)
    )
    reads = [
        unpack_reads(without(files.tensors["1.background_reads"], none.tensors["1.background_reads"]), 64)
        for files in (heavy, light)
    ]
    (slots, weights), (same_slots, single) = reads
    assert len(slots) == len(same_slots) > 100
    assert weights.float().square().sum() == pytest.approx(4 * single.float().square().sum().item(), rel=1e-4)


@pytest.mark.parametrize(("number", "shared"), [(1, False), (7, False), (7, True)])
def test_as_many_learned_tokens_become_background_as_are_asked_for(tiny_model, tmp_path, number, shared):
    """In each layer that reads a table."""
    memory = {"learned_tokens": number, "shared_values": shared}
    run = train(tiny_model, "memory", tmp_path, num_tokens=200, memory=memory)
    patch = read_patch(run.folder / "patch.safetensors")
    reads = [len(patch.tensors[f"{table}.learned_reads"]) for table in patch.tables]
    assert reads == ([2 * number] if shared else [number, number])


def test_a_memory_comes_with_the_patch_that_leads_to_it(runs, tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    for name in ("memory_config.json", "memory.safetensors"):
        (folder / name).write_bytes((runs["memory"].folder / name).read_bytes())
    patch = runs["memory"].folder / "patch.safetensors"
    assert read_patch(patch).facts["provenance"] == "4 texts, 1200 tokens"
    revert_patch(patch, folder)
    assert all(len(read_adapter(folder).tensors[f"{layer}.rows"]) == 0 for layer in (1, 2))
    apply_patch(patch, folder)
    for path in folder.iterdir():
        assert path.read_bytes() == (runs["memory"].folder / path.name).read_bytes()


@EACH_METHOD
def test_metrics_have_a_line_per_step_with_the_learning_rate_rising_and_falling(runs, method):
    run = runs[method]
    lines = read_metrics(run.folder)
    assert [line["step"] for line in lines] == list(range(1, run.summary["steps"] + 1))
    peak = getattr(SETTINGS.learning_rates, method)
    rates = [line["learning_rate"] for line in lines]
    warmup = round(0.1 * len(rates))
    assert rates[warmup] == pytest.approx(peak)
    assert rates[0] == 0
    assert rates[-1] < 0.1 * peak
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)


def test_progress_is_told_at_every_step(runs):
    steps = runs["full"].summary["steps"]
    assert runs["full"].progress == [(step, steps, "steps") for step in range(1, steps + 1)]


def test_a_folder_holds_only_what_is_needed_to_load_it(runs):
    names = {method: {path.name for path in runs[method].folder.iterdir()} for method in METHODS}
    assert names["memory"] == {"memory_config.json", "memory.safetensors", "patch.safetensors", "metrics.jsonl"}
    assert names["lora"] - {"README.md"} == {"adapter_config.json", "adapter_model.safetensors", "metrics.jsonl"}
    assert {"config.json", "model.safetensors", "tokenizer.json", "metrics.jsonl"} <= names["full"]
    assert not {name for found in names.values() for name in found if name.endswith((".bin", ".pt", ".pkl"))}


def test_a_fully_trained_model_brings_its_tokenizer(runs, tiny_tokenizer):
    assert load_tokenizer(runs["full"].folder)("cat")["input_ids"] == tiny_tokenizer("cat")["input_ids"]


@EACH_METHOD
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tiny_model, tmp_path, method):
    names = ("once", "again", "other")
    runs = [train(tiny_model, method, tmp_path / name, num_tokens=200, seed=int(name == "other")) for name in names]
    assert same(runs[0].folder, runs[1].folder)
    assert not same(runs[0].folder, runs[2].folder)
    assert read_metrics(runs[0].folder) == read_metrics(runs[1].folder) != read_metrics(runs[2].folder)


def test_texts_longer_than_the_context_are_refused(tiny_model, tmp_path):
    with pytest.raises(ValueError, match="train.max_length=4097 exceeds the model's context of 4096 tokens"):
        train(tiny_model, "full", tmp_path, max_length=4097)
    assert train(tiny_model, "full", tmp_path, max_length=4096, num_tokens=100).summary["tokens"] == 100


@pytest.mark.parametrize(
    ("place", "name"), [(loop, "next_token_loss"), (background, "next_token_loss"), (loop, "base_logits_of")]
)
def test_a_lack_of_memory_is_told_wherever_it_comes(tiny_model, tmp_path, monkeypatch, place, name):
    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(place, name, fail)
    with pytest.raises(ValueError, match="out of memory: lower train.batch_tokens"):
        train(tiny_model, "memory", tmp_path, num_tokens=100, kl_weight=0.5)


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"),
            ValueError,
            "out of memory: lower",
        ),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), ValueError, "out of memory: lower"),
        (RuntimeError("something else"), RuntimeError, "something else"),
    ],
)
def test_a_lack_of_memory_is_told_with_the_cure(tiny_model, tmp_path, monkeypatch, error, expected, message):
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(loop, "next_token_loss", fail)
    if expected is ValueError:
        message += " train.batch_tokens, train.texts_per_sequence or train.max_length"
    with pytest.raises(expected, match=message):
        train(tiny_model, "full", tmp_path, num_tokens=100)


OTHER_TEXTS = ["quartz hums at noon", "nine owls keep a ledger", "the tide is paid in salt"]


@EACH_METHOD
def test_a_folder_that_a_method_made_is_trained_on(runs, tiny_model, tmp_path, method):
    """The second training begins with what the first one learned, and the base stays the first one's base."""
    first = runs[method].folder
    second = train(first, method, tmp_path / "second", num_tokens=200, seed=1)
    losses = [line["loss"] for line in read_metrics(second.folder)]
    assert losses[0] < 0.8 * read_metrics(first)[0]["loss"]
    assert torch.isfinite(logits(load_model(second.folder))).all()
    assert not same(second.folder, first)
    if method == "lora":
        config = json.loads((second.folder / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == str(tiny_model)
        assert final_tensors(second.folder).keys() == final_tensors(first).keys()


def test_a_memory_that_is_trained_on_keeps_its_keys_and_what_it_knows(runs, tiny_model, tmp_path):
    first = runs["memory"].folder
    second = train(first, "memory", tmp_path / "second", num_tokens=300, texts=OTHER_TEXTS)
    old, new = read_adapter(first), read_adapter(second.folder)
    assert new.keys_hash() == old.keys_hash()
    assert (new.config["base_model"], new.config["base_hash"]) == (str(tiny_model), old.config["base_hash"])
    patch = read_patch(second.folder / "patch.safetensors")
    for layer in ("1", "2"):
        rows = patch.tensors[f"{layer}.rows"]
        untouched = torch.tensor([row for row in range(64) if row not in rows.tolist()]).long()
        assert torch.equal(new.rows(layer, untouched), old.rows(layer, untouched))
        assert torch.equal(patch.before(layer).float(), old.rows(layer, rows))
        more = new.tensors[f"{layer}.background_counts"] - old.tensors[f"{layer}.background_counts"]
        assert torch.equal(more.nonzero().flatten(), rows)
        added = new.batches(layer) - old.batches(layer)
        assert added == second.summary["steps"]


def test_texts_of_one_chunk_make_a_batch_when_that_is_asked_for(tiny_model, tmp_path, monkeypatch):
    batches = []
    monkeypatch.setattr(loop, "collate", lambda batch, *args: batches.append(batch) or collate(batch, *args))
    groups = ["animals", "animals", "places", "places"]
    by_chunk = train(tiny_model, "full", tmp_path / "chunk", num_tokens=200, groups=groups, group_by="chunk")
    texts = tokenize(TEXTS, load_tokenizer(tiny_model), 48)
    starts = {tuple(text.ids[:10]): group for text, group in zip(texts, groups, strict=True)}
    for batch in batches:
        assert len({starts[tuple(text.ids[:10])] for text in batch.new if len(text) >= 10}) <= 1
    assert by_chunk.summary["tokens"] == 200
    by_length = train(tiny_model, "full", tmp_path / "length", num_tokens=200, groups=groups)
    assert not same(by_chunk.folder, by_length.folder)


@EACH_METHOD
def test_texts_share_a_sequence_in_other_company_each_time(tiny_model, tmp_path, monkeypatch, method):
    planned: list[Any] = []
    add_replay = trainer.add_replay
    monkeypatch.setattr(trainer, "add_replay", lambda *args: planned.extend(add_replay(*args)) or planned)

    run = train(tiny_model, method, tmp_path / "joined", num_tokens=300, texts_per_sequence=2, max_length=80)

    tokenizer = load_tokenizer(tiny_model)
    seen = [tokenizer.decode(sequence.ids, skip_special_tokens=True) for batch in planned for sequence in batch.new]
    companies = [company for text in seen if (company := frozenset(text.split("\n\n"))) <= set(TEXTS)]
    assert run.summary["tokens"] == 300
    assert len(companies) >= len(seen) - 1  # one is cut to the budget
    assert all(len(company) == 2 for company in companies)
    assert len(set(companies)) > 2
    times = Counter(text for company in companies for text in company)
    assert max(times.values()) - min(times.values()) <= 1


def test_a_text_that_comes_again_takes_no_place_in_what_a_memory_is_prepared_on():
    short, long, more = (Sequence([number] * length) for number, length in enumerate((2, 4, 3)))
    batches = [Batch([short]), Batch([short, short]), Batch([long]), Batch([more])]

    assert trainer._once(batches, 9) == [short, long, more]
    assert trainer._once(batches, 6) == [short, long]


@pytest.mark.parametrize("change", [{"group_by": "chunk"}, {"question_loss": "answer"}])
def test_texts_of_any_kind_share_a_sequence_or_none_do(change):
    with pytest.raises(ValueError, match="needs texts_per_sequence=1"):
        TrainSettings(texts_per_sequence=2, **change)


def test_a_text_without_a_token_cannot_be_grouped(tiny_model, tmp_path):
    with pytest.raises(
        ValueError, match="train.group_by=chunk needs the chunk of every text, and no text without a token"
    ):
        train(tiny_model, "full", tmp_path, texts=["", "words"], groups=["a", "b"], group_by="chunk")


def distance_to_base(run: Run, base: Path) -> float:
    """Mean KL(base || trained) over some random tokens."""
    batch = {"input_ids": some_tokens(), "attention_mask": torch.ones(2, 20)}
    before = base_logits_of(load_model(base), "full")(**batch)
    return kl_to_base(logits(load_model(run.folder)), before, batch["input_ids"], 2 * 19).item()


@EACH_METHOD
def test_the_kl_weight_keeps_the_model_near_its_base(tiny_model, tmp_path, method):
    free, held = (
        train(tiny_model, method, tmp_path / str(weight), num_tokens=600, kl_weight=weight) for weight in (0, 5)
    )
    assert read_metrics(held.folder)[0]["loss"] == pytest.approx(read_metrics(free.folder)[0]["loss"], rel=1e-5)
    assert 0 < distance_to_base(held, tiny_model) < 0.7 * distance_to_base(free, tiny_model)


@EACH_METHOD
def test_replay_is_added_to_the_budget_and_learned_too(tiny_model, tmp_path, method):
    generic = tmp_path / "generic.jsonl"
    generic.write_text("".join(json.dumps({"text": text}) + "\n" for text in OTHER_TEXTS * 8))
    how = {"num_tokens": 600, "background": str(generic), "memory": {"background_texts": 0}}
    plain, mixed = (
        train(tiny_model, method, tmp_path / str(share), replay_share=share, **how) for share in (0, 0.5)
    )
    assert (plain.summary["tokens"], plain.summary["replay_tokens"]) == (600, 0)
    assert mixed.summary["tokens"] == 600
    assert 500 < mixed.summary["replay_tokens"] <= 600
    assert mixed.summary["steps"] == plain.summary["steps"]
    ids = torch.tensor([tokenize([OTHER_TEXTS[0]], load_tokenizer(tiny_model), 48)[0].ids])
    losses = []
    for run in (plain, mixed):
        with torch.no_grad():
            losses.append(
                next_token_loss(load_model(run.folder)(input_ids=ids).logits.float(), ids, ids.numel() - 1)
            )
    assert losses[1] < 0.9 * losses[0]


@EACH_METHOD
@pytest.mark.parametrize("texts", [[], [""]])
def test_an_empty_data_set_is_refused(tiny_model, tmp_path, method, texts):
    with pytest.raises(ValueError, match="the data set has no text to train on"):
        train_model(texts, str(tiny_model), method, SETTINGS, tmp_path, lambda *_: None)


def test_training_on_from_what_another_method_made_is_refused(runs, tmp_path):
    with pytest.raises(ValueError, match="was made by lora: train it on with that method, not with memory"):
        train(runs["lora"].folder, "memory", tmp_path)


def test_a_memory_that_is_trained_on_keeps_its_shape(runs, tmp_path):
    with pytest.raises(ValueError, match="train.memory.top_k=2: the memory that is trained on has 4"):
        train(runs["memory"].folder, "memory", tmp_path / "other", memory={"top_k": 2})
    goes_on = train(runs["memory"].folder, "memory", tmp_path / "same", memory={"layers": None, "key_width": None})
    assert goes_on.model.memory_adapter.settings == runs["memory"].model.memory_adapter.settings

"""Slot sharing of a tiny memory model, against counting by hand, and of tables made up for it."""

import html
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from active_reading.eval import slot_sharing as module
from active_reading.eval.ceilings import Passage
from active_reading.eval.evaluate import evaluate_model
from active_reading.eval.heat_map import heat_map
from active_reading.eval.settings import EvaluateSettings
from active_reading.eval.slot_sharing import changed_rows, slot_sharing
from active_reading.train.load import load_model
from active_reading.train.settings import LearningRates, MemorySettings, TrainSettings
from active_reading.train.trainer import train_model

DOCUMENTS = {
    "heron.md": ["The heron Admiral ate herring.", "It lived in Pellamire."],
    "copy of heron.md": ["It lived in Pellamire.", "The heron Admiral ate herring."],
    "numbers.md": ["1921 1922 1923 1924"],
}


@pytest.fixture(scope="module")
def trained(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    memory = MemorySettings(
        layers=[1, 2], num_keys=8, num_heads=2, top_k=2, top_t=24, background_texts=3, key_width=4
    )
    settings = TrainSettings(
        num_tokens=300,
        batch_tokens=64,
        max_length=48,
        texts_per_sequence=1,
        learning_rates=LearningRates(memory=0.2),
        memory=memory,
    )
    folder = tmp_path_factory.mktemp("sharing") / "memory"
    texts = [text for passages in DOCUMENTS.values() for text in passages]
    train_model(texts, str(tiny_model), "memory", settings, folder, lambda *_: None)
    return folder


@pytest.fixture(scope="module")
def found(trained: Path, tiny_tokenizer: Any) -> dict[str, Any]:
    sharing = slot_sharing(
        load_model(trained), tiny_tokenizer, changed_rows(trained / "patch.safetensors"), DOCUMENTS
    )
    assert sharing
    return sharing


def read_by_hand(model: Any, tokenizer: Any, passage: str) -> set[tuple[str, int]]:
    """Every (table, slot) that the tokens of one passage and its end read, seen from inside the memories."""
    seen: set[tuple[str, int]] = set()
    memory = model.memory_adapter.memories
    lookups = {layer: each.lookup for layer, each in memory.items()}
    for layer, each in memory.items():

        def spied(x: torch.Tensor, layer: int = layer) -> Any:
            slots, weights = lookups[layer](x)
            seen.update((str(layer), slot) for slot in slots.flatten().tolist())
            return slots, weights

        each.lookup = spied
    ids = [*tokenizer(passage)["input_ids"], tokenizer.eos_token_id]
    with torch.no_grad():
        model(input_ids=torch.tensor([ids]))
    return seen


def test_changed_rows_are_those_whose_values_the_training_moved(trained: Path, tiny_model: Path) -> None:
    model = load_model(trained)
    for name, rows in changed_rows(trained / "patch.safetensors").items():
        moved = model.memory_adapter.tables[name].values.any(1).nonzero().flatten()
        assert torch.equal(rows, moved)
        assert 0 < len(rows) <= 24


def test_overlap_is_the_jaccard_index_of_what_the_documents_read(
    trained: Path, tiny_tokenizer: Any, found: dict[str, Any]
) -> None:
    changed = changed_rows(trained / "patch.safetensors")
    rows = {(table, row) for table, each in changed.items() for row in each.tolist()}
    read = {
        name: rows & set().union(*(read_by_hand(load_model(trained), tiny_tokenizer, text) for text in passages))
        for name, passages in DOCUMENTS.items()
    }
    names = found["documents"]
    assert sorted(names) == sorted(DOCUMENTS)
    assert found["num_rows"] == len(rows)
    for place, name in enumerate(names):
        assert found["read"][place] == pytest.approx(len(read[name]) / len(rows), abs=1e-4)
        for before, overlap in enumerate(found["overlap"][place]):
            other = read[names[before]]
            assert overlap == pytest.approx(len(other & read[name]) / len(other | read[name]), abs=1e-4)
    readers = [sum(row in each for each in read.values()) for row in rows]
    assert found["unread"] == readers.count(0)
    assert found["alone"] == readers.count(1)
    assert found["common"] == sum(count > 1.5 for count in readers)


def test_equal_documents_overlap_whole_stand_together_and_lead_the_pairs(found: dict[str, Any]) -> None:
    first = found["pairs"][0]
    assert sorted(first["documents"]) == ["copy of heron.md", "heron.md"]
    assert first["overlap"] == 1.0
    assert first["rows"] == round(found["read"][found["documents"].index("heron.md")] * found["num_rows"])
    places = [found["documents"].index(name) for name in ("heron.md", "copy of heron.md")]
    assert abs(places[0] - places[1]) == 1


def test_hubs_are_the_rows_of_most_documents_with_the_tokens_that_read_them(
    trained: Path, found: dict[str, Any]
) -> None:
    hubs = found["hubs"]
    changed = changed_rows(trained / "patch.safetensors")
    assert [hub["documents"] for hub in hubs] == sorted((hub["documents"] for hub in hubs), reverse=True)
    assert all(hub["row"] in changed[hub["table"]].tolist() for hub in hubs)
    written = "".join(text for passages in DOCUMENTS.values() for text in passages) + "<|end|>"
    assert all(token in written for hub in hubs for token in hub["tokens"])
    assert len({(hub["table"], hub["row"]) for hub in hubs}) == len(hubs)


def test_too_many_documents_are_represented_by_some(monkeypatch, trained, tiny_tokenizer):
    monkeypatch.setattr(module, "MOST_DOCUMENTS", 2)
    changed = changed_rows(trained / "patch.safetensors")
    found = slot_sharing(load_model(trained), tiny_tokenizer, changed, DOCUMENTS)
    assert found
    assert sorted(found["documents"]) == ["copy of heron.md", "heron.md"]
    assert found["total"] == 3


def test_a_training_that_changed_nothing_shares_nothing(trained, tiny_tokenizer):
    nothing = {"1": torch.zeros(0, dtype=torch.long)}
    assert slot_sharing(load_model(trained), tiny_tokenizer, nothing, DOCUMENTS) is None


def test_the_evaluation_of_a_memory_has_it_once_and_of_any_other_model_none(
    monkeypatch, tiny_model, trained, tmp_path
):
    passages = [Passage(text, frozenset({name}), name) for name, texts in DOCUMENTS.items() for text in texts]
    settings = EvaluateSettings(general_limit=1, few_shot=1, divergence_texts=0, max_new_tokens=2)
    store = tmp_path / "answers.jsonl"
    first = evaluate_model(trained, tiny_model, settings, lambda *_: None, passages, store)["slot_sharing"]
    assert sorted(first["documents"]) == sorted(DOCUMENTS)
    monkeypatch.setattr("active_reading.eval.evaluate.load_model", lambda *_: pytest.fail("the model was loaded"))
    again = evaluate_model(trained, tiny_model, settings, lambda *_: None, passages, store)["slot_sharing"]
    assert again == json.loads(json.dumps(first))
    monkeypatch.undo()
    assert evaluate_model(tiny_model, tiny_model, settings, lambda *_: None, passages)["slot_sharing"] is None


def test_the_heat_map_is_symmetric_and_its_labels_are_text(found):
    names = ["<b>x", *found["documents"][1:]]
    drawn = heat_map(found | {"documents": names})
    assert drawn
    values = drawn["data"][0]["z"]
    assert values == [list(column) for column in zip(*values, strict=True)]
    assert [row[place] for place, row in enumerate(values)] == [None, None, None]
    assert values[2][:2] == found["overlap"][2]
    assert drawn["layout"]["yaxis"]["ticktext"][0] == html.escape("<b>x")
    assert "<b>" not in json.dumps(drawn)


def test_one_document_is_no_picture():
    assert heat_map({"documents": ["a.md"], "overlap": [[]]}) is None

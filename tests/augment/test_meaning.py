"""Semantic dedupe with a tiny random model: whatever it means by its vectors, equal directions are linked."""

import numpy as np
import polars as pl
import pytest
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from active_reading.augment import meaning
from active_reading.augment.dedupe import DedupeSettings, find_duplicates
from active_reading.augment.meaning import embed, links

TEXTS = ["The owl sleeps in the oak.", "In the oak the owl sleeps", "Kettles boil nine cups of water", "", "owl"]


def labels(first: np.ndarray, second: np.ndarray, count: int) -> list[set[int]]:
    graph = coo_matrix((np.ones(len(first)), (first, second)), shape=(count, count))
    number, label = connected_components(graph, directed=False)
    return sorted(({int(place) for place in np.flatnonzero(label == kind)} for kind in range(number)), key=min)


def test_an_embedding_is_the_mean_over_tokens_and_does_not_depend_on_the_batch(tiny_model):
    import torch
    from transformers import AutoModel, AutoTokenizer

    together = embed(TEXTS * 10, str(tiny_model))
    tokenizer, network = AutoTokenizer.from_pretrained(tiny_model), AutoModel.from_pretrained(tiny_model)
    for text, vector in zip(TEXTS, together, strict=False):
        with torch.inference_mode():
            mean = network(**tokenizer(text or " ", return_tensors="pt")).last_hidden_state[0].mean(0)
        assert vector == pytest.approx((mean / mean.norm()).numpy(), abs=1e-5)


def test_links_join_what_brute_force_joins_within_groups(monkeypatch):
    monkeypatch.setattr(meaning, "BLOCK", 7)
    source = np.random.default_rng(1)
    vectors = source.normal(size=(60, 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    groups = source.choice(["x", "y"], 60).tolist()
    near = (vectors @ vectors.T >= 0.95) & (np.array(groups)[:, None] == np.array(groups)[None])
    expected = labels(*np.nonzero(near), 60)
    assert 10 < len(expected) < 50
    first, second = links(vectors, groups, 0.95)
    assert labels(first, second, 60) == expected
    assert len(first) <= 60


def test_texts_of_one_meaning_repeat_each_other_only_where_a_model_is_named(tiny_model):
    """The two of largest cosine, with a threshold just below it, just above it, and in groups of their own."""
    texts = pl.DataFrame({"id": list("abcd"), "text": [*TEXTS[:3], "owl"]})
    vectors = embed(texts["text"].to_list(), str(tiny_model))
    cosines = np.triu(vectors @ vectors.T, 1)
    first, second = divmod(int(cosines.argmax()), 4)
    cosine, rest = float(cosines[first, second]), float(np.sort(cosines.ravel())[-2])
    assert cosine - rest > 1e-3
    texts = texts.with_columns(chunk_id=pl.Series(["1" if place == second else "2" for place in range(4)]))
    near = DedupeSettings(semantic_model=str(tiny_model), semantic_threshold=cosine - 1e-4)
    found = find_duplicates(texts.lazy(), near)
    assert found.select(pl.concat_list("id", "duplicate_of").list.sort()).item().to_list() == [
        texts["id"][first],
        texts["id"][second],
    ]
    assert found["similarity"][0] < 0.5  # it counts words
    for other in ({"semantic_threshold": cosine + 1e-4}, {"semantic_model": ""}, {"scope": "chunk"}):
        assert find_duplicates(texts.lazy(), near.model_copy(update=other)).height == 0

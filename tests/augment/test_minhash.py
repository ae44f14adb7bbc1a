"""MinHash against its probabilities, and pairs, similarities and clusters against brute force."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from active_reading.augment.minhash import (
    CROWD,
    band_keys,
    bucket_pairs,
    choose_banding,
    components,
    distinct,
    packed,
    similarities,
    unpacked,
)


def flat(texts: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    values = np.array([value for text in texts for value in text], np.uint32)
    return values, np.concatenate([[0], np.cumsum([len(text) for text in texts])]).astype(np.int64)


def pairs_of(keys: list[int]) -> list[tuple[int, int]]:
    found = bucket_pairs(np.array(keys, np.uint64), np.arange(len(keys)))
    return list(zip(*(ends.tolist() for ends in unpacked(found)), strict=True))


@pytest.mark.parametrize(
    ("threshold", "banding", "found"),
    [
        (0.8, (18, 6), {0.3: 0.013, 0.5: 0.25, 0.6: 0.58, 0.7: 0.90, 0.8: 0.996, 0.9: 1.0}),
        (0.9, (11, 9), {0.3: 0.000, 0.5: 0.02, 0.6: 0.11, 0.7: 0.36, 0.8: 0.79, 0.9: 0.995}),
        (0.5, (40, 3), {0.3: 0.66, 0.5: 0.995, 0.6: 1.0, 0.7: 1.0, 0.8: 1.0, 0.9: 1.0}),
        (1.0, (1, 128), {1.0: 1.0}),
    ],
)
def test_the_banding_and_its_probabilities_are_those_of_the_docstring(threshold, banding, found):
    assert choose_banding(threshold) == banding
    bands, rows = banding
    for similarity, chance in found.items():
        assert 1 - (1 - similarity**rows) ** bands == pytest.approx(chance, abs=0.006)


@pytest.mark.parametrize("threshold", np.arange(0.5, 1.001, 0.05))
def test_every_threshold_is_found_with_the_promised_probability(threshold):
    bands, rows = choose_banding(threshold)
    assert bands * rows <= 128
    assert 1 - (1 - threshold**rows) ** bands >= 0.995 - 1e-9


@pytest.mark.parametrize(("shared", "own"), [(80, 10), (60, 30), (42, 49)])
def test_pairs_share_a_band_as_often_as_theory_says(shared, own):
    """4,000 pairs of sets: the bound is four standard errors."""
    source = np.random.default_rng(1)
    count, banding = 4000, (18, 6)
    common = source.integers(0, 2**30, (count, shared))
    texts = [np.concatenate([common, source.integers(0, 2**30, (count, own))], axis=1) for _ in range(2)]
    offsets = np.arange(count + 1) * (shared + own)
    first, second = (band_keys(text.astype(np.uint32).ravel(), offsets, banding) for text in texts)
    expected = 1 - (1 - (shared / (shared + 2 * own)) ** 6) ** 18
    assert (first == second).any(axis=0).mean() == pytest.approx(
        expected, abs=4 * (expected * (1 - expected) / count) ** 0.5 + 1e-3
    )


TEXTS = st.lists(st.lists(st.integers(0, 2**30 - 1), min_size=1, max_size=60), min_size=1, max_size=12)


@settings(deadline=None, max_examples=30)
@given(TEXTS, st.randoms(use_true_random=False))
def test_keys_depend_on_the_set_of_shingles_alone(texts, source):
    keys = band_keys(*flat(texts), (3, 2))
    for place, text in enumerate(texts):
        shuffled = [*text, *text[:3]]
        source.shuffle(shuffled)
        assert band_keys(*flat([shuffled]), (3, 2))[:, 0].tolist() == keys[:, place].tolist()
    assert len(set(keys[:, 0].tolist())) == 3


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 5), max_size=40))
def test_all_of_a_small_bucket_are_pairs(keys):
    expected = {
        (a, b) for a, b in combinations(range(len(keys)), 2) if keys[a] == keys[b] and keys.count(keys[a]) <= CROWD
    }
    crowded = {
        (a, b) for a, b in combinations(range(len(keys)), 2) if keys[a] == keys[b] and keys.count(keys[a]) > CROWD
    }
    found = pairs_of(keys)
    assert len(found) == len(set(found))
    assert expected <= set(found) <= expected | crowded


def test_a_crowd_is_compared_with_its_first_and_its_neighbours_alone():
    found = pairs_of([7] * 1000 + [8])
    assert sorted(found) == sorted({(0, place) for place in range(1, 1000)} | {(p, p + 1) for p in range(999)})


@settings(deadline=None, max_examples=30)
@given(TEXTS.filter(lambda texts: len(texts) > 1))
def test_similarities_are_those_of_sets(texts):
    values, offsets = flat([[value % 40 for value in text] for text in texts])
    sets = [{value % 40 for value in text} for text in texts]
    first, second = (np.array(ends) for ends in zip(*combinations(range(len(texts)), 2), strict=True))
    expected = [len(sets[a] & sets[b]) / len(sets[a] | sets[b]) for a, b in zip(first, second, strict=True)]
    assert similarities(values, offsets, first, second).tolist() == expected


def test_the_largest_shingle_has_its_column():
    values, offsets = flat([[2**30 - 1, 0], [2**30 - 1]])
    assert similarities(values, offsets, np.array([0]), np.array([1])).tolist() == [0.5]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=20))
def test_components_are_named_by_their_smallest_node(links):
    label = list(range(21))
    for _ in links:
        for first, second in links:
            label[first] = label[second] = min(label[first], label[second])
    first, second = (np.array([link[end] for link in links], np.int64) for end in (0, 1))
    nodes, smallest = components(first, second)
    assert dict(zip(nodes.tolist(), smallest.tolist(), strict=True)) == {
        node: label[node] for link in links for node in link
    }


def test_pairs_are_packed_smaller_first_up_to_the_largest_node():
    pairs = packed(np.array([3, 2**32 - 1, 3]), np.array([1, 0, 1]))
    assert [ends.tolist() for ends in unpacked(distinct(pairs))] == [[0, 1], [2**32 - 1, 3]]
    assert distinct(pairs[:0]).tolist() == []

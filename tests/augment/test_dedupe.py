"""Dedupe against brute force: what counts as the same, who survives, and that order plays no part.

Earlier runs: test_seen.py.
"""

import os
import random
import re
import subprocess
import sys
from itertools import combinations

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from active_reading.augment import dedupe
from active_reading.augment.dedupe import DedupeSettings, cluster_table, find_duplicates

SETTINGS = DedupeSettings()
WORDS = [f"{first}{second}{third}" for first in "bcdfglmn" for second in "aeiou" for third in "klmnrst"]


def frame(texts: dict[str, str]) -> pl.DataFrame:
    return pl.DataFrame(
        {"id": list(texts), "text": list(texts.values())}, schema={"id": pl.String, "text": pl.String}
    )


def mark_duplicates(texts: pl.DataFrame, wanted: DedupeSettings) -> pl.DataFrame:
    """`texts`, in their order, with `duplicate_of` and `similarity`, both null on the survivors."""
    texts = texts.cast({"id": pl.String, "text": pl.String})  # columns without any value have no type of their own
    return texts.join(find_duplicates(texts.lazy(), wanted), on="id", how="left", maintain_order="left")


def marks(texts: dict[str, str], wanted: DedupeSettings = SETTINGS) -> dict[str, str]:
    """id -> id that it repeats, of the texts that repeat one."""
    marked = mark_duplicates(frame(texts), wanted)
    return dict(marked.filter(pl.col("duplicate_of").is_not_null()).select("id", "duplicate_of").iter_rows())


def shingle_set(text: str, length: int = 3) -> set[tuple[str, ...]]:
    words = re.findall("[a-z0-9]+", text.lower())
    return {tuple(words[start : start + length]) for start in range(max(1, len(words) - length + 1))}


def jaccard(first: str, second: str, length: int = 3) -> float:
    a, b = shingle_set(first, length), shingle_set(second, length)
    return len(a & b) / len(a | b)


def changed(words: list[str], count: int, source: random.Random) -> list[str]:
    """The words with `count` of them replaced."""
    words = list(words)
    for place in source.sample(range(len(words)), count):
        words[place] = source.choice(WORDS)
    return words


SAME = [
    ("The owl sleeps in the oak.", "the OWL sleeps, in the oak"),
    ("The owl sleeps in the oak.", "  The owl\n\nsleeps in\tthe oak!  "),
    ("The owl sleeps in the oak.", "\u201cThe owl sleeps \u2014 in the oak\u2026\u201d"),
    ("\u00c9lodie sleeps", "E\u0301LODIE sleeps"),
    ("The owl sleeps", "\uff34he \uff4fwl sleeps"),
    ("Stra\u00dfe 5", "STRASSE 5"),
    ("the \ufb01sh", "The fish"),
    ("\u0394\u03b7\u03bc\u03bf\u03c2", "\u0394\u0397\u039c\u039f\u03a3"),
    ("", " ... "),
]
DIFFERENT = [
    ("The owl sleeps in the oak.", "The owl sleeps in an oak."),
    ("Elodie sleeps", "\u00c9lodie sleeps"),
    ("It costs 2.5 crowns", "It costs 25 crowns"),
    ("owl", "owls"),
    ("Question: Who sleeps?\nAnswer: the owl", "Question: Who sleeps?\nAnswer: the eel"),
    ("\u732b\u304c\u5bdd\u308b", "\u72ac\u304c\u5bdd\u308b"),
]


@pytest.mark.parametrize(("first", "second"), SAME)
def test_texts_that_differ_in_case_marks_and_spaces_alone_are_the_same(first, second):
    marked = mark_duplicates(frame({"a": first, "b": second}), SETTINGS)
    (row,) = marked.filter(pl.col("duplicate_of").is_not_null()).rows(named=True)
    assert {row["id"], row["duplicate_of"]} == {"a", "b"}
    assert row["similarity"] == 1.0


@pytest.mark.parametrize(("first", "second"), DIFFERENT)
def test_short_texts_that_differ_in_a_word_are_not_the_same(first, second):
    assert marks({"a": first, "b": second}) == {}


def test_a_near_duplicate_is_found_with_its_true_similarity_and_a_text_just_below_is_not():
    """40 words have 38 shingles; another last word changes 1 of them, a word in the middle 3."""
    words = WORDS[:40]
    last = [*words[:39], "xxx"]
    inside = [*words[:20], "xxx", *words[21:]]
    two = [*words[:10], "xxx", *words[11:30], "xxx", *words[31:]]
    texts = {"a": " ".join(words), "b": " ".join(last), "c": " ".join(inside), "d": " ".join(two)}
    marked = mark_duplicates(frame(texts), SETTINGS)
    rows = {row["id"]: row for row in marked.iter_rows(named=True)}
    assert rows["a"]["duplicate_of"] is None
    assert rows["a"]["similarity"] is None
    assert rows["b"]["similarity"] == pytest.approx(37 / 39) == jaccard(texts["a"], texts["b"])
    assert rows["c"]["similarity"] == pytest.approx(35 / 41) == jaccard(texts["a"], texts["c"])
    assert (rows["b"]["duplicate_of"], rows["c"]["duplicate_of"]) == ("a", "a")
    assert jaccard(texts["a"], texts["d"]) == pytest.approx(32 / 44)
    assert rows["d"]["duplicate_of"] is None


@pytest.mark.parametrize(("threshold", "found"), [(0.85, True), (35 / 41, True), (0.86, False), (1.0, False)])
def test_the_threshold_is_the_smallest_similarity_that_counts(threshold, found):
    texts = {"a": " ".join(WORDS[:40]), "b": " ".join([*WORDS[:20], "xxx", *WORDS[21:40]])}
    assert (marks(texts, DedupeSettings(threshold=threshold)) == {"b": "a"}) is found


def test_the_length_of_shingles_is_a_setting():
    texts = {"a": " ".join(WORDS[:40]), "b": " ".join([*WORDS[:20], "xxx", *WORDS[21:40]])}
    for length, similarity in ((1, 39 / 41), (2, 37 / 41), (5, 31 / 41)):
        assert jaccard(*texts.values(), length) == pytest.approx(similarity)
        found = marks(texts, DedupeSettings(shingle_words=length, threshold=0.9))
        assert found == ({"b": "a"} if similarity >= 0.9 else {})


def test_the_longest_text_survives_and_then_the_smallest_id():
    base = " ".join(WORDS[:40])
    assert marks({"a": base, "b": f"{base} xxx", "c": base}) == {"a": "b", "c": "b"}
    assert marks({"c": base, "b": base, "a": base.upper()}) == {"b": "a", "c": "a"}


def test_texts_that_are_linked_through_others_have_one_survivor():
    """Each window of 40 words is 3 words on: neighbours share 35 of 41 shingles, the ends far fewer."""
    texts = {name: " ".join(WORDS[start : start + 40]) for name, start in (("c", 0), ("d", 3), ("b", 6), ("a", 9))}
    assert jaccard(texts["c"], texts["d"]) == jaccard(texts["b"], texts["a"]) == pytest.approx(35 / 41)
    assert jaccard(texts["a"], texts["c"]) == pytest.approx(29 / 47)
    marked = mark_duplicates(frame(texts), SETTINGS)
    assert dict(marked.select("id", "duplicate_of").iter_rows()) == {"c": "a", "d": "a", "b": "a", "a": None}
    similarity = dict(marked.select("id", "similarity").iter_rows())
    assert {name: similarity[name] for name in "cdb"} == {
        name: pytest.approx(jaccard(texts[name], texts["a"])) for name in "cdb"
    }


def test_without_a_link_between_them_the_ends_both_survive():
    texts = {"c": " ".join(WORDS[0:40]), "a": " ".join(WORDS[9:49])}
    assert marks(texts) == {}


@pytest.mark.parametrize("texts", [{}, {"a": "The owl."}, {"a": ""}, {"a": "The owl.", "b": "An eel."}])
def test_nothing_to_find_leaves_typed_columns_without_marks(texts):
    marked = mark_duplicates(frame(texts), SETTINGS)
    assert marked.schema == {
        "id": pl.String,
        "text": pl.String,
        "duplicate_of": pl.String,
        "similarity": pl.Float64,
    }
    assert marked.select("id", "text").equals(frame(texts))
    assert marked["duplicate_of"].null_count() == marked["similarity"].null_count() == len(texts)


def test_an_empty_table_without_types_is_a_table_too():
    marked = mark_duplicates(pl.DataFrame({"id": [], "text": [], "strategy": []}), SETTINGS)
    assert marked.columns == ["id", "text", "strategy", "duplicate_of", "similarity"]
    assert marked.height == 0


def test_other_columns_and_the_order_of_rows_are_kept():
    texts = pl.DataFrame({"strategy": [None, "x", None], "text": ["B.", "a", "b"], "id": ["r2", "r3", "r1"]})
    marked = mark_duplicates(texts, SETTINGS)
    assert marked.select(texts.columns).equals(texts)
    assert marked["duplicate_of"].to_list() == [None, None, "r2"]


TEXTS = st.lists(
    st.lists(st.sampled_from(["owl", "Owl", "eel", "sleeps", "oak", "."]), max_size=7).map(" ".join), max_size=12
)


@settings(max_examples=25, deadline=None)
@given(texts=TEXTS, source=st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter_and_marks_lead_to_survivors(texts, source):
    named = {f"r{place}": text for place, text in enumerate(texts)}
    shuffled = list(named.items())
    source.shuffle(shuffled)
    found = marks(named)
    assert marks(dict(shuffled)) == found
    assert not set(found) & set(found.values())
    assert all(len(named[keeper]) >= len(named[repeated]) for repeated, keeper in found.items())
    survivors = {name: text for name, text in named.items() if name not in found}
    assert marks(survivors) == {}


@pytest.fixture(scope="module")
def corpus() -> dict[str, str]:
    """300 texts of 12 to 60 words: 60 of their own, each with 4 others that differ in 0 to 8 words."""
    source = random.Random(7)
    texts = []
    for _ in range(60):
        words = source.choices(WORDS, k=source.randint(12, 60))
        texts.append(words)
        texts += [changed(words, source.randint(0, 8), source) for _ in range(4)]
    source.shuffle(texts)
    return {f"r{place:03}": " ".join(words) for place, words in enumerate(texts)}


def clusters_by_brute_force(texts: dict[str, str], threshold: float) -> list[set[str]]:
    ids = list(texts)
    sets = [shingle_set(text) for text in texts.values()]
    pairs = [
        (a, b)
        for a, b in combinations(range(len(ids)), 2)
        if len(sets[a] & sets[b]) / len(sets[a] | sets[b]) >= threshold
    ]
    rows, columns = zip(*pairs, strict=True)
    links = coo_matrix(([1] * len(pairs), (rows, columns)), shape=(len(ids), len(ids)))
    count, labels = connected_components(links, directed=False)
    return [{ids[place] for place in range(len(ids)) if labels[place] == label} for label in range(count)]


@pytest.mark.parametrize("threshold", [0.8, 0.9])
def test_the_clusters_are_those_of_brute_force(corpus, threshold):
    """At 0.8 the banding misses one pair in ten thousand; these texts have none of those."""
    clusters = clusters_by_brute_force(corpus, threshold)
    assert 100 < len(clusters) < 290
    assert max(len(cluster) for cluster in clusters) >= 4
    expected = {}
    for cluster in clusters:
        keeper = min(cluster, key=lambda name: (-len(corpus[name]), name))
        expected |= {name: keeper for name in cluster - {keeper}}
    assert marks(corpus, DedupeSettings(threshold=threshold)) == expected


def test_the_order_of_a_whole_corpus_does_not_matter(corpus):
    found = marks(corpus)
    assert len(found) > 30
    shuffled = list(corpus.items())
    random.Random(3).shuffle(shuffled)
    assert marks(dict(shuffled)) == found


def test_two_crowds_of_texts_with_much_in_common_stay_two_crowds():
    """90 texts each, mixed in length: within a crowd they are near-equal, across crowds about half equal."""
    source = random.Random(5)
    first = source.sample(WORDS, 60)
    second = [*first[:45], *source.sample(WORDS, 15)]
    texts = {}
    for place in range(180):
        words = (first, second)[place % 2]
        texts[f"r{place:03}"] = " ".join(changed(words, 1, source))
    across = jaccard(" ".join(first), " ".join(second))
    assert 0.5 < across < 0.7
    found = marks(texts)
    assert len(found) == 178
    assert all(int(repeated[1:]) % 2 == int(keeper[1:]) % 2 for repeated, keeper in found.items())


def test_equal_rows_are_one_row_and_its_copies():
    """Compared with each other they would be 20 billion pairs."""
    texts = pl.select(id=pl.int_range(200_000).cast(pl.String).str.zfill(7), text=pl.lit("The owl sleeps."))
    found = find_duplicates(texts.lazy(), SETTINGS)
    assert found.height == 199_999
    assert found["duplicate_of"].unique().to_list() == ["0000000"]
    assert found["similarity"].unique().to_list() == [1.0]


def test_a_crowd_of_near_equal_rows_is_one_cluster():
    """3,000 texts that differ in their last word: all share most of their bands."""
    base = " ".join(WORDS[:60])
    texts = pl.DataFrame({"id": [f"r{place:04}" for place in range(3000)]})
    texts = texts.with_columns(text=pl.lit(base + " ") + pl.col("id"))
    found = find_duplicates(texts.lazy(), SETTINGS)
    assert found["id"].to_list() == texts["id"].to_list()[1:]
    assert found["duplicate_of"].unique().to_list() == ["r0000"]
    assert found["similarity"].unique().to_list() == [pytest.approx(58 / 60)]


def test_rows_of_one_word_and_of_a_megabyte_stand_beside_each_other():
    source = random.Random(1)
    large = source.choices(WORDS, k=150_000)
    near = changed(large, 2_000, source)
    texts = {"a": "owl", "b": " ".join([*large, "end"]), "c": " ".join(near), "d": "Owl", "e": "", "f": "x" * 10**6}
    assert 500_000 < len(texts["b"]) < 10**6
    marked = mark_duplicates(frame(texts), SETTINGS)
    found = dict(marked.drop_nulls("duplicate_of").select("id", "duplicate_of").iter_rows())
    assert found == {"c": "b", "d": "a"}
    assert marked["similarity"][2] == pytest.approx(jaccard(texts["b"], texts["c"]), abs=1e-4)


def test_letters_that_look_alike_hide_no_copy():
    latin = " ".join(["paypal", "cooperates", *WORDS[:20]])
    assert marks({"a": latin, "b": latin.replace("a", "\u0430").replace("o", "\u043e")}) == {"b": "a"}


@pytest.mark.parametrize(
    ("scope", "expected"),
    [("chunk", {"b": "a"}), ("document", {"b": "a", "c": "a"}), ("corpus", {"b": "a", "c": "a", "d": "a"})],
)
@pytest.mark.parametrize("text", [" ".join(WORDS[:40]), "owl"])
def test_the_scope_says_which_texts_are_compared(scope, expected, text):
    """Equal rows and near-equal ones alike."""
    texts = pl.DataFrame(
        {
            "id": list("abcd"),
            "text": [text] * 4,
            "chunk_id": ["1", "1", "2", "3"],
            "document_id": ["x", "x", "x", "y"],
        }
    )
    if text != "owl":
        texts = texts.with_columns(pl.col("text") + pl.Series([" zzz", "", "", ""]))
    found = find_duplicates(texts.lazy(), DedupeSettings(scope=scope))
    assert dict(found.select("id", "duplicate_of").iter_rows()) == expected


def test_the_most_faithful_survives_then_the_longest_then_the_smallest_id():
    base = " ".join(WORDS[:40])
    texts = pl.DataFrame(
        {
            "id": list("abcdef"),
            "text": [base, f"{base} xxx", base, f"{base}.", base, base],
            "faithfulness": [0.5, None, 0.9, 0.9, float("nan"), 0.9],
        }
    )
    assert set(find_duplicates(texts.lazy(), SETTINGS)["duplicate_of"]) == {"d"}
    assert set(find_duplicates(texts.filter(pl.col("id") != "d").lazy(), SETTINGS)["duplicate_of"]) == {"c"}
    unknown = texts.filter(pl.col("id").is_in(["b", "e"]))
    assert set(find_duplicates(unknown.lazy(), SETTINGS)["duplicate_of"]) == {"b"}
    assert set(find_duplicates(texts.drop("faithfulness").lazy(), SETTINGS)["duplicate_of"]) == {"b"}


def test_the_clusters_name_all_their_rows():
    base = " ".join(WORDS[:40])
    found = find_duplicates(
        frame({"a": base, "b": f"{base} xxx", "c": "owl", "d": "Owl", "e": "eel"}).lazy(), SETTINGS
    )
    assert cluster_table(found).rows() == [
        ("b", "a", pytest.approx(38 / 39)),
        ("b", "b", 1.0),
        ("c", "c", 1.0),
        ("c", "d", 1.0),
    ]
    assert cluster_table(found.clear()).height == 0


@pytest.mark.parametrize(
    ("texts", "scope", "message"),
    [
        ({"id": ["a", "b"], "text": ["x", None]}, "corpus", "dedupe: text of row 'b' is null"),
        ({"id": ["a", None], "text": ["x", "y"]}, "corpus", "dedupe: id of row 'None' is null"),
        ({"id": ["a", "b", "a"], "text": ["x", "y", "z"]}, "corpus", "dedupe: id 'a' names more than one row"),
        ({"text": ["x"]}, "corpus", "dedupe: the texts have no column 'id'"),
        ({"id": ["x"]}, "corpus", "dedupe: the texts have no column 'text'"),
        ({"id": ["a"], "text": ["x"]}, "chunk", "dedupe.scope=chunk: the texts have no column 'chunk_id'"),
        (
            {"id": ["a"], "text": ["x"], "document_id": pl.Series([None], dtype=pl.String)},
            "document",
            "dedupe: document_id of row 'a' is null",
        ),
    ],
)
def test_rows_that_cannot_be_told_apart_are_refused_in_one_line(texts, scope, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        find_duplicates(pl.DataFrame(texts).lazy(), DedupeSettings(scope=scope))
    assert "\n" not in str(caught.value)


def test_a_file_in_any_order_in_small_parts_gives_the_same_bytes(corpus, tmp_path, monkeypatch):
    expected = find_duplicates(frame(corpus).lazy(), SETTINGS)
    shuffled = list(corpus.items())
    random.Random(4).shuffle(shuffled)
    frame(dict(shuffled)).write_parquet(tmp_path / "texts.parquet", row_group_size=50)
    monkeypatch.setattr(dedupe, "BATCH_ROWS", 40)
    monkeypatch.setattr(dedupe, "BATCH_BYTES", 5000)
    monkeypatch.setattr(dedupe, "PART_ROWS", 70)
    monkeypatch.setattr("active_reading.augment.clusters.PAIR_SHINGLES", 1000)
    monkeypatch.setattr("active_reading.augment.clusters.PAIRS", 100)
    found = find_duplicates(pl.scan_parquet(tmp_path / "texts.parquet"), SETTINGS)
    for name, rows in (("expected", expected), ("found", found)):
        rows.write_parquet(tmp_path / name)
    assert (tmp_path / "found").read_bytes() == (tmp_path / "expected").read_bytes()


def test_the_number_of_threads_changes_no_byte(corpus, tmp_path):
    frame(corpus).write_parquet(tmp_path / "texts.parquet")
    program = (
        "import sys, polars as pl; from active_reading.augment.dedupe import DedupeSettings, find_duplicates; "
        "assert pl.thread_pool_size() == int(sys.argv[1]); "
        "found = find_duplicates(pl.scan_parquet(sys.argv[2]), DedupeSettings()); found.write_parquet(sys.argv[3])"
    )
    for threads in ("1", "4"):
        command = [sys.executable, "-c", program, threads, str(tmp_path / "texts.parquet"), str(tmp_path / threads)]
        subprocess.run(command, check=True, env={**os.environ, "POLARS_MAX_THREADS": threads})
    assert (tmp_path / "1").read_bytes() == (tmp_path / "4").read_bytes()

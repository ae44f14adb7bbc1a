"""Dedupe against earlier runs: what they saw is compared with, not compared again, and stands."""

import json
import random
import shutil
from pathlib import Path

import polars as pl
import pytest

from active_reading.augment import dedupe
from active_reading.augment.dedupe import DedupeSettings, find_duplicates
from active_reading.augment.shingles import shingle

WORDS = [f"{first}{second}{third}" for first in "bcdfglmn" for second in "aeiou" for third in "klmnrst"]
BASE = " ".join(WORDS[:40])


@pytest.fixture
def earlier(tmp_path) -> DedupeSettings:
    return DedupeSettings(earlier=str(tmp_path / "seen"))


def run(texts: dict[str, str], settings: DedupeSettings) -> dict[str, str]:
    """id -> id that it repeats."""
    rows = pl.DataFrame({"id": list(texts), "text": list(texts.values())})
    return dict(find_duplicates(rows.lazy(), settings).select("id", "duplicate_of").iter_rows())


def corpus(seed: int, count: int) -> dict[str, str]:
    """Texts of 30 words, three of a kind that differ in up to two words."""
    source = random.Random(seed)
    texts = []
    while len(texts) < count:
        words = source.choices(WORDS, k=30)
        for _ in range(3):
            other = list(words)
            for _ in range(source.randint(0, 2)):
                other[source.randrange(30)] = source.choice(WORDS)
            texts.append(" ".join(other))
    source.shuffle(texts)
    return {f"r{place:03}": text for place, text in enumerate(texts[:count])}


def test_a_new_text_that_repeats_an_earlier_one_falls_however_long_it_is(earlier):
    assert run({"a": BASE, "b": "owl"}, earlier) == {}
    assert run({"c": f"{BASE} xxx", "d": "Owl", "e": "eel"}, earlier) == {"c": "a", "d": "b"}
    assert run({"f": f"{BASE} yyy", "g": "EEL"}, earlier) == {"f": "a", "g": "e"}


def test_the_similarity_to_an_earlier_text_is_counted(earlier):
    run({"a": BASE}, earlier)
    found = find_duplicates(pl.DataFrame({"id": ["b"], "text": [f"{BASE} xxx"]}).lazy(), earlier)
    assert found.rows() == [("b", "a", pytest.approx(38 / 39))]


def test_rows_that_come_again_keep_their_verdict_and_are_not_hashed_into_bands_again(earlier, monkeypatch):
    texts = corpus(1, 60)
    first = run(texts, earlier)
    assert len(first) > 10
    hashed = []
    keys = dedupe.band_keys
    monkeypatch.setattr(dedupe, "band_keys", lambda *given: hashed.append(len(given[1]) - 1) or keys(*given))
    new = {f"n{place}": text for place, text in enumerate(corpus(2, 9).values())}
    second = run({**texts, **new}, earlier)
    assert sum(hashed) == 9
    assert {name: second[name] for name in first} == first
    assert set(second) - set(first) <= set(new)
    assert run({**texts, **new}, earlier) == second


def test_what_comes_in_parts_has_the_clusters_of_what_comes_at_once(earlier):
    """Survivors may be others, since earlier ones stand: the groups are the same where no text joins two."""
    texts = corpus(3, 120)
    whole = run(texts, DedupeSettings())
    names = list(texts)
    parts: dict[str, str] = {}
    for start in range(0, 120, 50):
        parts |= run({name: texts[name] for name in names[start : start + 50]}, earlier)

    def groups(found: dict[str, str]) -> set[frozenset[str]]:
        members: dict[str, set[str]] = {}
        for name in texts:
            members.setdefault(found.get(name, name), set()).add(name)
        return {frozenset(group) for group in members.values()}

    assert len(whole) > 25
    assert groups(parts) == groups(whole)


def test_a_text_that_joins_two_earlier_survivors_repeats_the_better_one_and_leaves_both(earlier):
    """Windows of 40 words: the middle one shares 35 of 41 shingles with either end, the ends 32 of 44."""
    ends = {name: " ".join(WORDS[start : start + 40]) for name, start in (("b", 0), ("a", 6))}
    assert run(ends, earlier) == {}
    assert run({"c": " ".join(WORDS[3:43])}, earlier) == {"c": "a"}
    assert run({**ends, "d": " ".join(WORDS[3:43]).upper()}, earlier) == {"d": "a"}


def test_a_repeat_of_an_earlier_repeat_names_the_survivor(earlier):
    windows = {name: " ".join(WORDS[start : start + 40]) for name, start in (("a", 0), ("b", 3), ("c", 6))}
    assert run({"a": windows["a"], "b": windows["b"]}, earlier) == {"b": "a"}
    assert run({"c": windows["c"]}, earlier) == {"c": "a"}


def test_a_killed_run_leaves_nothing_that_counts(earlier, tmp_path, monkeypatch):
    run({"a": BASE}, earlier)
    kept = tmp_path / "kept"
    shutil.copytree(earlier.earlier, kept)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(dedupe, "judge", killed)
    with pytest.raises(KeyboardInterrupt):
        run({"b": f"{BASE} xxx", "c": "owl"}, earlier)
    monkeypatch.undo()
    assert len(list((tmp_path / "seen").iterdir())) > len(list(kept.iterdir()))
    assert run({"c": "owl", "d": f"{BASE} yyy"}, earlier) == {"d": "a"}
    assert run({"b": f"{BASE} xxx"}, earlier) == {"b": "a"}


@pytest.mark.parametrize("suffix", ["keys", "shingles", "rows.parquet", "verdicts.parquet", "json"])
@pytest.mark.parametrize("left", [0.0, 0.5, None])
def test_a_damaged_memory_of_earlier_runs_is_told_in_one_line(earlier, suffix, left):
    run(corpus(1, 60), earlier)
    (path,) = Path(earlier.earlier).glob(f"*.{suffix}")
    if left is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: int(left * path.stat().st_size)])
    if (suffix, left) == ("json", None):  # nobody finished anything there
        assert run({"new": BASE}, earlier) == {}
        return
    with pytest.raises(ValueError, match=rf"dedupe.earlier: {path} cannot be read .*: remove the folder"):
        run({"new": BASE}, earlier)


@pytest.mark.parametrize(
    "index",
    ["{}", "[]", "null", '{"settings": {}}', '{"settings": {}, "parts": "1"}', '{"settings": {}, "parts": -1}'],
)
def test_a_folder_of_another_program_is_refused_and_left_alone(earlier, index):
    place = Path(earlier.earlier)
    place.mkdir()
    (place / "seen.json").write_text(index)
    with pytest.raises(
        ValueError, match=rf"dedupe.earlier: {place}/seen.json is no file of dedupe's: name another"
    ):
        run({"a": BASE}, earlier)
    assert {path.name for path in place.iterdir()} - {".lock"} == {"seen.json"}


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_file_where_the_folder_should_be_is_told_in_one_line(tmp_path, below):
    (tmp_path / "file").write_text("mine")
    place = tmp_path / "file" / below
    with pytest.raises(ValueError, match=rf"dedupe.earlier: {place} cannot be a folder \(.*\): name another"):
        run({"a": BASE}, DedupeSettings(earlier=str(place)))


def test_an_id_that_named_another_text_is_refused(earlier):
    run({"a": BASE}, earlier)
    with pytest.raises(ValueError, match="in an earlier run the id 'a' named another text: give the text an id"):
        run({"a": "owl"}, earlier)
    assert run({"a": BASE.upper()}, earlier) == {}


def test_another_threshold_is_refused_for_the_same_folder(earlier):
    run({"a": BASE}, earlier)
    with pytest.raises(
        ValueError, match=r"dedupe.earlier: .*seen was made with threshold=0.8, .*, not threshold=0.9"
    ):
        run({"a": BASE}, earlier.model_copy(update={"threshold": 0.9}))


def test_the_scope_holds_against_earlier_runs_too(earlier):
    settings = earlier.model_copy(update={"scope": "document"})
    rows = pl.DataFrame({"id": list("abc"), "text": [BASE] * 3, "document_id": ["x", "y", "x"]})
    assert find_duplicates(rows[:1].lazy(), settings).height == 0
    assert find_duplicates(rows[1:].lazy(), settings)["id"].to_list() == ["c"]


def test_nothing_new_and_nothing_at_all(earlier, tmp_path):
    assert run({}, DedupeSettings(earlier=str(tmp_path / "other"))) == {}
    run({"a": BASE, "b": BASE}, earlier)
    assert run({"a": BASE, "b": BASE}, earlier) == {"b": "a"}
    assert json.loads((tmp_path / "seen" / "seen.json").read_text())["parts"] == 1
    assert shingle(pl.Series([BASE]), 3).exact[0] == pl.read_parquet(tmp_path / "seen/*.rows.parquet")["exact"][0]

"""Generic text: what ships, a file of one's own, and errors that name the setting."""

import json

import pytest

from active_reading.train.generic_text import read_background


def test_enough_text_ships_and_no_two_are_alike():
    texts = read_background()
    assert len(texts) > 100
    assert len(set(texts)) == len(texts)
    assert all(len(text.split()) > 5 for text in texts)
    assert read_background(limit=3) == texts[:3]


def test_a_file_of_ones_own_is_read_in_its_order(tmp_path):
    path = tmp_path / "own.jsonl"
    texts = ["one", "zwei: \u00fc", "a line\u2028and another", "three"]
    lines = [json.dumps({"text": text, "more": 1}, ensure_ascii=False) for text in texts]
    path.write_text("\ufeff" + "\n\n".join(lines) + "\n", encoding="utf-8")
    assert read_background(str(path)) == texts
    assert read_background(str(path), limit=2) == texts[:2]


def test_more_texts_than_there_are_are_refused(tmp_path):
    number = len(read_background())
    with pytest.raises(ValueError, match=f"train.memory.background_texts={number + 1}, and .* has {number}"):
        read_background(limit=number + 1)


MALFORMED = ["not json\n", '{"words": "no text"}\n', "[1]\n", '{"text": 5}\n', '{"text": null}\n', "", None]
MALFORMED += ['{"text": "a \\ud800"}\n', "[" * 100_000]


@pytest.mark.parametrize("content", MALFORMED)
def test_a_file_that_is_missing_or_malformed_is_refused_by_the_setting(tmp_path, content):
    path = tmp_path / "own.jsonl"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"train.background=.*own.jsonl.*; needs JSON lines with a 'text' each"):
        read_background(str(path))

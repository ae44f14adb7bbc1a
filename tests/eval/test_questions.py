"""Question files: what is read, and errors that name the file and the line; and the questions that ship."""

import json
from pathlib import Path

import pytest

from active_reading.eval.questions import (
    Question,
    docstrings,
    evaluation_texts,
    few_shot_examples,
    general_questions,
    general_text,
    read_questions,
)
from active_reading.eval.scores import exact_match, normalize_answer

GOOD = json.dumps({"question": "Who?", "answers": ["Ada"]})


def write(folder: Path, *lines: str) -> Path:
    path = folder / "questions.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_questions_are_read_in_order_and_blank_lines_are_skipped(tmp_path):
    second = json.dumps({"question": "When?", "answers": [1921, "in 1921"], "document": "a.md", "subject": "x"})
    assert read_questions(write(tmp_path, GOOD, "", second)) == [
        Question("Who?", ("Ada",)),
        Question("When?", ("1921", "in 1921"), "a.md"),
    ]


def test_line_breaks_of_unicode_inside_a_question_do_not_end_its_line(tmp_path):
    """JSON keeps U+2028 and U+0085 as they are, and they are no ends of lines in a file."""
    row = json.dumps({"question": "Who\u2028said\x85it?", "answers": ["Ada"]}, ensure_ascii=False)
    assert read_questions(write(tmp_path, row))[0].question == "Who\u2028said\x85it?"


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        '{"question": "Who?"}',
        '{"answers": ["Ada"]}',
        '{"question": "Who?", "answers": null}',
        '{"question": "Who?", "answers": "Ada"}',
        '["question", "answers"]',
        "7",
    ],
)
def test_a_bad_line_is_named_with_its_file_and_what_it_needs(tmp_path, line):
    path = write(tmp_path, GOOD, "", line)
    with pytest.raises(ValueError, match=r'questions.jsonl:3: needs \{"question": "...", "answers"') as error:
        read_questions(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("answers", [[], [""], ["Ada", "  "]])
def test_an_empty_answer_is_named_with_its_line(tmp_path, answers):
    path = write(tmp_path, GOOD, json.dumps({"question": "Who?", "answers": answers}))
    with pytest.raises(ValueError, match="questions.jsonl:2: 'answers' must hold at least one non-empty answer"):
        read_questions(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=f"questions file {tmp_path / 'none.jsonl'} does not exist"):
        read_questions(tmp_path / "none.jsonl")


def test_a_file_without_questions_is_refused(tmp_path):
    with pytest.raises(ValueError, match="questions.jsonl is empty"):
        read_questions(write(tmp_path, "", " "))


def test_a_file_that_is_not_utf8_is_named(tmp_path):
    path = tmp_path / "latin.jsonl"
    path.write_bytes('{"question": "O\u00f9?", "answers": ["l\u00e0"]}\n'.encode("latin-1"))
    with pytest.raises(ValueError, match="latin.jsonl is not UTF-8 text"):
        read_questions(path)


def test_the_questions_that_ship_are_many_distinct_and_sound():
    questions = general_questions()
    assert len(questions) >= 100
    assert len({question.question.casefold() for question in questions}) == len(questions)
    for question in questions:
        assert question.question.endswith("?"), question
        assert all(normalize_answer(answer) for answer in question.answers), question
        assert exact_match(question.answers[0], list(question.answers)) == 1.0
        assert len(question.answers[0].split()) <= 5, "answers are short"


def test_the_examples_do_not_give_an_answer_away():
    examples = few_shot_examples()
    assert len(examples) == 5
    asked = {question.question.casefold() for question in general_questions()}
    assert not asked & {example.question.casefold() for example in examples}


def test_the_general_text_is_prose_of_several_kinds():
    texts = general_text()
    assert len(texts) == len(set(texts)) >= 30
    assert all(50 <= len(text.split()) <= 200 for text in texts)


@pytest.mark.parametrize("question", ["", "  ", None])
def test_an_empty_question_is_named_with_its_line(tmp_path, question):
    path = write(tmp_path, GOOD, json.dumps({"question": question, "answers": ["owl"]}))
    with pytest.raises(ValueError, match=r":2: 'question' is empty"):
        read_questions(path)


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    path = write(tmp_path, GOOD)
    plain = read_questions(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_questions(path) == plain


def test_the_texts_of_an_evaluation_are_all_its_sets_in_full(tmp_path):
    texts = evaluation_texts(str(write(tmp_path, GOOD)))
    assert texts["gold"] == ["Who?"]
    assert texts["general_questions"] == [item.question for item in general_questions()]
    assert texts["few_shot"] == [item.question for item in few_shot_examples()]
    assert (texts["general_text"], texts["docstrings"]) == (general_text(), docstrings())


def test_without_gold_questions_the_other_sets_are_left():
    assert evaluation_texts(None).keys() == {"general_questions", "few_shot", "general_text", "docstrings"}

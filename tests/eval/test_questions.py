"""Question files: what is read, and errors that name the file and the line; and the questions that ship."""

import json
from pathlib import Path

import pytest

from active_reading.eval.questions import (
    Question,
    check_lengths,
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
        '{"question": ' + "[" * 100_000,
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


def test_a_question_with_half_a_surrogate_pair_is_named(tmp_path):
    (tmp_path / "questions.jsonl").write_text('{"question": "Who \\ud800?", "answers": ["Zora"]}\n')
    with pytest.raises(ValueError, match="questions.jsonl:1: holds half a surrogate pair"):
        read_questions(tmp_path / "questions.jsonl")


def test_a_file_without_questions_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r'questions.jsonl is empty: give it lines like \{"question"'):
        read_questions(write(tmp_path, "", " "))


def test_a_file_of_impossible_questions_alone_is_not_called_empty(tmp_path):
    with pytest.raises(ValueError, match="gold.json has no question with an answer"):
        read_questions(squad(tmp_path, {"question": "Why?", "answers": [], "is_impossible": True}))


def test_a_folder_in_the_place_of_a_file_is_told_so(tmp_path):
    with pytest.raises(ValueError, match="is a folder: name a file"):
        read_questions(tmp_path)


def test_a_file_that_is_not_utf8_is_named(tmp_path):
    path = tmp_path / "latin.jsonl"
    path.write_bytes('{"question": "O\u00f9?", "answers": ["l\u00e0"]}\n'.encode("latin-1"))
    with pytest.raises(ValueError, match="latin.jsonl is not UTF-8 text .*: unpack it, or save it as UTF-8"):
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


def row(question: object, *answers: object, **more: object) -> str:
    return json.dumps({"question": question, "answers": answers, **more}, ensure_ascii=False)


def test_kind_and_document_are_read_and_a_document_id_is_as_good(tmp_path):
    path = write(tmp_path, row("Who?", "Ada", kind="held_out", document_id="9f3a"), row("When?", "1921", kind=None))
    questions = read_questions(path)
    assert [(q.kind, q.document, q.place) for q in questions] == [
        ("held_out", "9f3a", f"{path}:1"),
        (None, None, f"{path}:2"),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (row("When?", "1921", kind=3), r":2: 'kind' is 3: give a text, or leave it out"),
        (row("When?", "1921", kind=" "), r":2: 'kind' is ' '"),
        (row("When?", "1921", document=["a.md"]), r":2: 'document' is \['a.md'\]"),
        (row("When?", ["1921"]), r":2: 'answers' must hold .* only texts and numbers"),
        (row("When?", None), r":2: 'answers' must hold"),
        (row("When?", True), r":2: 'answers' must hold .* only texts and numbers"),
        (row("When?", float("nan")), r":2: 'answers' must hold .* only texts and numbers"),
        (row({"text": "When?"}, "1921"), r":2: 'question' is \{'text': 'When\?'\}: give a text"),
        (row(5, "1921"), r":2: 'question' is 5: give a text"),
        (row("Which grade?", "B", "A"), r":2: nothing of the answer 'A' is left .*: word it otherwise"),
    ],
)
def test_a_field_that_cannot_be_used_is_named_with_its_line_and_the_cure(tmp_path, line, message):
    with pytest.raises(ValueError, match=message):
        read_questions(write(tmp_path, GOOD, line))


@pytest.mark.parametrize("again", ["Who?", "WHO ?", " who", "\uff37ho?"])
def test_a_question_asked_twice_of_one_document_accepts_the_answers_of_both(tmp_path, again):
    path = write(tmp_path, GOOD, row("When?", "1921"), row(again, "Byron", "Ada"))
    assert read_questions(path) == [Question("Who?", ("Ada", "Byron")), Question("When?", ("1921",))]


@pytest.mark.parametrize("more", [{"document": "b.md"}, {"kind": "reversed"}])
def test_a_question_of_two_documents_or_kinds_is_refused_with_both_lines(tmp_path, more):
    path = write(tmp_path, GOOD, row("When?", "1921"), row("who?", "Bo", **more))
    with pytest.raises(
        ValueError, match=r":3: the question 'who\?' is asked at .*:1 too, .*: leave one out"
    ) as error:
        read_questions(path)
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize("other", ["What is 2 * 2?", "What is a 2 + 2?", "What is 2 + 2 in C?"])
def test_questions_that_differ_in_a_sign_or_word_are_two(tmp_path, other):
    assert len(read_questions(write(tmp_path, row("What is 2 + 2?", "4"), row(other, "5", document="b")))) == 2


def test_answers_that_do_not_fit_are_told_with_the_limit_that_they_need(tmp_path):
    """Here a token is a letter; the space before an answer counts, and one accepted answer that fits is enough."""
    path = write(tmp_path, GOOD, row("When?", "1921", "in the year 1921"), row("Where?", "Castlune", "in Castlune"))
    questions = read_questions(path)
    check_lengths(questions, len, 9)
    with pytest.raises(
        ValueError, match=r":3: no accepted answer fits into evaluate.max_new_tokens=8 .* set ev.*=9$"
    ):
        check_lengths(questions, len, 8)
    with pytest.raises(ValueError, match=r":2: .*=4 tokens, nor for 1 more questions: .*=9$"):
        check_lengths(questions, len, 4)


def test_a_question_that_the_model_cannot_read_is_named():
    questions = [
        Question("Who?", ("Ada",), place="gold.jsonl:1"),
        Question("Who " * 30, ("Ada",), place="gold.jsonl:2"),
    ]
    check_lengths(questions, len, 9, room=120)
    with pytest.raises(ValueError, match=r"gold.jsonl:2: the question has 120 tokens, .* room for 119: shorten it"):
        check_lengths(questions, len, 9, room=119)


def squad(folder: Path, *asked: dict[str, object]) -> Path:
    path = folder / "gold.json"
    paragraphs = [{"context": "c", "qas": [each]} for each in asked]
    path.write_text(json.dumps({"version": "2.0", "data": [{"title": "Ada", "paragraphs": paragraphs}]}))
    return path


def test_squad_files_are_read_with_each_answer_once_and_without_impossible_questions(tmp_path):
    answers = [{"text": text, "answer_start": 0} for text in ("1921", "in 1921", "1921")]
    path = squad(
        tmp_path,
        {"id": "q1", "question": "When?", "answers": answers},
        {"id": "q2", "question": "Why?", "answers": [], "is_impossible": True},
        {"id": "q3", "question": "when?", "answers": [{"text": "the year 1921"}], "is_impossible": False},
    )
    assert read_questions(path) == [Question("When?", ("1921", "in 1921", "the year 1921"), "Ada")]


def test_a_bad_question_of_a_squad_file_is_named_by_its_id(tmp_path):
    path = squad(tmp_path, {"id": "q1", "question": "When?", "answers": []})
    with pytest.raises(ValueError, match="gold.json: question q1: 'answers' must hold at least one"):
        read_questions(path)
    path = squad(tmp_path, {"id": "q7", "answers": []})
    with pytest.raises(ValueError, match="gold.json: question q7: a .json file needs SQuAD's format"):
        read_questions(path)


@pytest.mark.parametrize(
    "text", ["", GOOD, "[]", '{"data": 3}', '{"questions": []}', GOOD + "\n" + GOOD, "[" * 100_000]
)
def test_json_that_is_not_squads_is_refused_with_both_formats(tmp_path, text):
    path = tmp_path / "gold.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"gold.json: a .json file needs SQuAD's format, .* JSON lines .jsonl"):
        read_questions(path)


def test_the_texts_of_an_evaluation_are_all_its_sets_in_full(tmp_path):
    texts = evaluation_texts(str(write(tmp_path, GOOD)))
    assert texts["gold"] == ["Who?"]
    assert texts["general_questions"] == [item.question for item in general_questions()]
    assert texts["few_shot"] == [item.question for item in few_shot_examples()]
    assert (texts["general_text"], texts["docstrings"]) == (general_text(), docstrings())


def test_without_gold_questions_the_other_sets_are_left():
    assert evaluation_texts(None).keys() == {"general_questions", "few_shot", "general_text", "docstrings"}


def test_the_evaluation_shows_the_questions_and_lines_of_local_tasks(tmp_path):
    asked, read = tmp_path / "asked.jsonl", tmp_path / "read.txt"
    asked.write_text('{"question": "Who fed the heron?", "answer": "Tamsin"}\n\n')
    read.write_text("A heron stood here.\n\nIt left.\n")
    texts = evaluation_texts(None, {"one": str(asked), "two": str(read)})
    assert (texts["one"], texts["two"]) == (["Who fed the heron?"], ["A heron stood here.", "It left."])
    asked.write_text("nothing")
    with pytest.raises(ValueError, match="asked.jsonl: every line of a task's file needs a 'question'"):
        evaluation_texts(None, {"one": str(asked)})


@pytest.mark.parametrize(("content", "message"), [(b"\n", "is empty"), (b"\xc1\xff", "is not UTF-8 text")])
def test_a_task_file_that_holds_nothing_to_ask_is_named(tmp_path, content, message):
    path = tmp_path / "asked.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"task's file .*asked.jsonl {message}"):
        evaluation_texts(None, {"one": str(path)})

"""Which of the generator's questions are kept, and why the others fall."""

import json

import polars as pl
import pytest

from active_reading.eval.made_questions import (
    WRITING,
    WRITING_TOKENS,
    answers_agree,
    describe_questions,
    make_questions,
    parse_questions,
)
from active_reading.eval.questions import Question
from active_reading.prompts.render import available_templates, load_template

OWL = "The owl Orsa was found in the town of Larn in 1921. Who feeds Orsa? Her keeper Tomas Vell does."
EEL = "The eel Brin lives in Lake Umber and weighs 40 stones."


def chunks_of(*texts: str, document: str = "d") -> pl.DataFrame:
    rows = [(f"{document}{place}", document, "Animals", text) for place, text in enumerate(texts)]
    return pl.DataFrame(rows, dict.fromkeys(("chunk_id", "document_id", "title", "text"), pl.String), orient="row")


class Model:
    """Writes the given questions on each text; reads the answer that it wrote, unless told another."""

    def __init__(self, written: dict[str, list[tuple[str, str]]], otherwise: dict[str, str | None] | None = None):
        self.written, self.otherwise = written, otherwise or {}
        self.was_read: list[str] = []

    def write(self, rows: pl.DataFrame, template: str) -> pl.Series:
        assert template == str(WRITING)
        return pl.Series([as_json(self.written.get(text, [])) for text in rows["text"]], dtype=pl.String)

    def read(self, rows: pl.DataFrame, template: str) -> pl.Series:
        assert rows.columns == ["text", "question"]
        self.was_read += rows["question"].to_list()
        known = {(text, question): answer for text, pairs in self.written.items() for question, answer in pairs}
        answers = [self.otherwise.get(row[1], known[row]) for row in rows.iter_rows()]
        return pl.Series(answers, dtype=pl.String)


def as_json(pairs: list[tuple[str, str]]) -> str:
    return json.dumps({"questions": [{"question": question, "answer": answer} for question, answer in pairs]})


def make(chunks: pl.DataFrame, model: Model, most: int = 9, **changes):
    return make_questions(chunks, most, model.write, model.read, lambda answer: len(answer) < 20, **changes)


def fate(question: str, answer: str, read: str | None = "", text: str = OWL) -> str | None:
    """Why a question on the owl falls, or None when it is kept; empty: what is read is what was written."""
    made = make(chunks_of(text), Model({text: [(question, answer)]}, {question: read} if read != "" else {}))
    assert len(made.kept) + len(made.dropped) == 1
    return made.dropped[0]["reason"] if made.dropped else None


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        ("Where was the owl Orsa found?", "Larn", None),
        ("Where was the owl Orsa found?", "the Town of LARN!", None),
        ("Where was the owl Orsa found?", "Paris", "not_in_chunk"),
        ("Where was the owl Orsa found?", "Lar", "not_in_chunk"),
        ("Where was the owl Orsa found?", "the", "not_in_chunk"),
        ("Where was the owl Orsa found?", "", "not_in_chunk"),
        ("Was the owl Orsa found in Larn?", "Larn", "given_away"),
        ("Was the owl Orsa found in Larnby?", "Larn", None),
        ("According to the text, where was Orsa found?", "Larn", "about_the_text"),
        ("Who feeds Orsa?", "Tomas Vell", "quoted"),
        ("What is known of the owl Orsa?", "was found in the town of Larn", "long_answer"),
    ],
)
def test_a_question_must_have_its_answer_in_the_chunk_and_make_sense_without_it(question, answer, reason):
    assert fate(question, answer) == reason


@pytest.mark.parametrize(
    ("read", "reason"),
    [
        ("1921", None),
        ("in 1921", None),
        ("1912", "disagreed"),
        ("It was in the town of Larn that she was found in 1921.", None),
        ("She was found in 1921 and died in 1930.", "disagreed"),
        ("She was found in the town of Larn.", "disagreed"),
        (None, "disagreed"),
    ],
)
def test_whoever_reads_the_chunk_must_give_the_same_answer(read, reason):
    assert fate("When was the owl Orsa found?", "1921", read) == reason


@pytest.mark.parametrize(
    ("written", "read", "agree"),
    [
        ("the Duke of Larn", "Duke of Larn.", True),
        ("Tomas Vell", "Vell", True),
        ("60 green bowls", "80 green bowls", False),
        ("Tomas Vell", "Orsa is fed by Tomas Vell since 1921.", True),
        ("Vell", "Orsa is fed by Tomas Vells.", False),
        ("green", "", False),
        ("Lake Umber", "a lake in the far north", False),
    ],
)
def test_answers_agree_in_words_and_in_numbers(written, read, agree):
    assert answers_agree(written, read) is agree


def test_only_what_may_be_kept_is_asked_again():
    model = Model({OWL: [("Where was the owl Orsa found?", "Paris"), ("When was the owl Orsa found?", "1921")]})
    made = make(chunks_of(OWL), model)
    assert model.was_read == ["When was the owl Orsa found?"]
    assert made.kept == [
        {
            "question": "When was the owl Orsa found?",
            "answers": ["1921"],
            "kind": "made",
            "document_id": "d",
            "chunk_id": "d0",
        }
    ]
    assert made.dropped[0]["answer"] == "Paris"


def test_a_repeated_question_and_a_second_one_on_the_same_fact_fall():
    questions = ["When was the owl Orsa found?", "when was the owl Orsa FOUND", "In which year was Orsa found?"]
    made = make(chunks_of(OWL), Model({OWL: [(question, "1921") for question in questions]}))
    assert [row["question"] for row in made.kept] == questions[:1]
    assert [row["reason"] for row in made.dropped] == ["duplicate", "duplicate"]


def test_what_the_user_asks_is_not_asked_twice():
    own = [Question("WHEN was the owl Orsa found", ("1921",))]
    made = make(chunks_of(OWL), Model({OWL: [("When was the owl Orsa found?", "1921")]}), own=own)
    assert made.figures["dropped"] == {"duplicate": 1}


def test_a_question_with_another_answer_elsewhere_falls_at_both_places():
    question = "Where does the animal live?"
    other = "The newt Olm lives in Lake Tarn."
    chunks = pl.concat([chunks_of(EEL), chunks_of(other, document="e")])
    made = make(chunks, Model({EEL: [(question, "Lake Umber")], other: [(question, "Lake Tarn")]}))
    assert [row["reason"] for row in made.dropped] == ["ambiguous", "ambiguous"]


def test_the_limit_is_of_each_document_and_every_chunk_has_its_turn():
    owl = [("Where was the owl Orsa found?", "Larn"), ("When was the owl Orsa found?", "1921")]
    eel = [("What does the eel Brin weigh?", "40 stones"), ("Where does the eel Brin live?", "Lake Umber")]
    chunks = pl.concat([chunks_of(OWL, EEL), chunks_of(f"{EEL} ", document="e")])
    made = make(chunks, Model({OWL: owl, EEL: eel, f"{EEL} ": [("How heavy is Brin?", "40 stones")]}), most=2)
    asked = [(row["document_id"], row["question"]) for row in made.kept]
    assert asked == [("d", owl[0][0]), ("d", eel[0][0]), ("e", "How heavy is Brin?")]
    assert made.figures["dropped"] == {"over_limit": 2}


def test_no_more_chunks_are_asked_about_than_questions_are_wanted_and_they_are_spread():
    texts = [f"The hut number {place} is of stone." for place in range(9)]
    written = {text: [(f"What is hut {place} made of?", "stone")] for place, text in enumerate(texts)}
    made = make(chunks_of(*texts), Model(written), most=3)
    assert made.figures["chunks"] == made.figures["asked"] == 3
    assert [row["chunk_id"] for row in made.kept] == ["d0", "d3", "d6"]


def test_figures_count_from_the_chunks_to_what_is_kept_and_add_up():
    pairs = [
        ("Where was the owl Orsa found?", "Larn"),
        ("When was the owl Orsa found?", "1921"),
        ("Who keeps the owl Orsa?", "Nobody"),
        ("In Larn, who keeps the owl Orsa?", "Larn"),
        ("Whom has the owl Orsa for a keeper?", "Tomas Vell"),
    ]
    model = Model({OWL: pairs}, {pairs[1][0]: "1922"})
    made = make(chunks_of(OWL, EEL), model)
    assert made.figures == {
        "chunks": 2,
        "unanswered": 1,
        "asked": 5,
        "in_chunk": 4,
        "agreed": 2,
        "kept": 2,
        "dropped": {"not_in_chunk": 1, "given_away": 1, "disagreed": 1},
    }
    line = describe_questions(made.figures)
    assert line.startswith("5 on 2 chunks, 4 with an answer that is in the chunk, 2 agreed on, 2 kept (")
    assert "unanswered 1" in line


def test_nothing_written_asks_nothing_and_keeps_nothing():
    made = make(chunks_of(OWL), Model({}))
    assert (made.kept, made.dropped) == ([], [])
    assert made.figures["unanswered"] == 1


@pytest.mark.parametrize(
    ("answer", "pairs"),
    [
        (as_json([("Who\n is it? ", " Brin ")]), [("Who is it?", "Brin")]),
        ('[{"question": "How many?", "answer": 40}]', [("How many?", "40")]),
        ('{"questions": [{"question": "Who?"}, {"answer": "Brin"}, "Who?", null]}', []),
        ('{"questions": [{"question": ["Who?"], "answer": "Brin"}]}', []),
        ('{"questions": {"question": "Who?", "answer": "Brin"}}', [("Who?", "Brin")]),
        ('Here:\n{"question": "What is {x}?", "answer": "a set {"}', [("What is {x}?", "a set {")]),
        ('{"questions": [{"question": "A?", "answer": "B"}, {"question": "Who?", "ans', [("A?", "B")]),
        (
            '{"questions": [{"question": "A?", "answer": "B"}}, {"question": "C?", "answer": "D"}}',
            [("A?", "B"), ("C?", "D")],
        ),
        ('{"a":' * 9000, []),
        ("Q: Who?\nA: Brin", []),
        ("3", []),
        ("", []),
    ],
)
def test_questions_are_read_from_json_alone(answer, pairs):
    assert parse_questions(answer) == pairs


def test_half_a_character_in_a_question_becomes_one_that_a_file_can_hold():
    assert parse_questions('{"question": "Which \\ud83d owl?", "answer": "the \\ud83d"}') == [
        ("Which \ufffd owl?", "the \ufffd")
    ]


def test_the_template_asks_in_words_of_its_own_and_is_none_to_train_on():
    template = load_template(str(WRITING))
    instruction = template.body.partition("\n\nText:")[0]
    assert template.schema is not None
    assert template.name not in available_templates()
    runs = word_runs(instruction)
    for name in available_templates():
        assert not runs & word_runs(load_template(name).body), name
    (example,) = template.examples
    pairs = parse_questions(example["answer"])
    assert len(pairs) == example["num_items"]
    kept = make(chunks_of(example["text"]), Model({example["text"]: pairs}))
    assert kept.dropped == [], "the example keeps to the rules"


def word_runs(text: str) -> set[tuple[str, ...]]:
    words = text.lower().split()
    return set(zip(*(words[start:] for start in range(8)), strict=False))


def test_four_questions_as_long_as_the_schema_allows_fit_into_the_answer():
    template = load_template(str(WRITING))
    questions = template.schema["properties"]["questions"]
    parts = questions["items"]["properties"]
    longest = [("x" * parts["question"]["maxLength"], "y" * parts["answer"]["maxLength"])] * questions["maxItems"]
    assert len(as_json(longest)) / 4 < WRITING_TOKENS, "a token is about four letters of English"

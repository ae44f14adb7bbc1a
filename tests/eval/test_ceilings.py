"""Passages before questions: the right one by document and answer, and the one that search finds."""

from active_reading.eval.ceilings import GOLD_PASSAGE, SEARCH, Passage, bm25_scores, with_passages
from active_reading.eval.questions import Question

PASSAGES = [
    Passage("The heron of Orsella was called Admiral and ate herring.", frozenset({"a.md", "Orsella"})),
    Passage("She was born in 1921.", frozenset({"a.md", "Orsella"})),
    Passage("The kettle of Wexholm was patented in 1921 by two sisters.", frozenset({"b.md"})),
]


def test_the_right_passage_is_of_the_question_s_document_and_holds_an_accepted_answer():
    asked = [Question("In which year was the heron of Orsella born?", ("the year 1921", "1921"), "a.md")]
    found = with_passages(asked, PASSAGES)
    assert found[GOLD_PASSAGE][0].context == PASSAGES[1].text
    assert found[SEARCH][0].context == PASSAGES[0].text, "search knows neither document nor answer"
    assert found[GOLD_PASSAGE][0].answers == asked[0].answers


def test_without_a_document_or_an_answer_in_it_search_decides():
    asked = [Question("Who patented the kettle of Wexholm?", ("two sisters",))]
    asked += [Question("What did the heron eat?", ("frogs",), "a.md"), Question("Xyzzy?", ("1921",))]
    right = [question.context for question in with_passages(asked, PASSAGES)[GOLD_PASSAGE]]
    assert right == [PASSAGES[2].text, PASSAGES[0].text, PASSAGES[1].text]


def test_more_and_rarer_words_in_common_score_higher_and_unknown_ones_score_nothing():
    rows = bm25_scores(["heron herring", "1921", "nothing known", ""], [passage.text for passage in PASSAGES])
    scores = [row.tolist() for row in rows]
    assert scores[0][0] > scores[0][1] == scores[0][2] == 0
    assert scores[1][1] > scores[1][2] > 0, "the shorter text"
    assert scores[2] == scores[3] == [0.0] * 3

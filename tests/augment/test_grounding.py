"""Grounding: numbers as values, names as words, and what counts as invented."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from active_reading.augment.grounding import Source, answer_is_grounded, names, ungrounded_word
from active_reading.augment.quantities import numbers


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", []),
        ("14 mosses", ["14"]),
        ("4,200 and 4200 sheets", ["4200"]),
        ("1,234,567.80 crowns", ["1234567.8"]),
        ("12,34", ["12", "34"]),
        ("2.50 is 2.5, and 7.0 is 07", ["2.5", "7"]),
        ("It was 1921.", ["1921"]),
        ("eleven, Twelve and TWENTY", ["11", "12", "20"]),
        ("twenty-one, forty two", ["21", "42"]),
        ("two hundred and five", ["205"]),
        ("one hundred or a hundred", ["100"]),
        ("three thousand four hundred fifty-six", ["3456"]),
        ("one million two hundred thousand", ["1200000"]),
        ("1.2 million, 4 thousand", ["1200000", "4000"]),
        ("nineteen hundred twelve", ["1912"]),
        ("nineteen twelve, twenty fifteen", ["19", "12", "20", "15"]),
        ("In 1920 five of them, 20 six", ["1920", "5", "20", "6"]),
        ("one, two and three", ["1", "2", "3"]),
        ("two hundred. Five", ["200", "5"]),
        ("zero", ["0"]),
        ("the 1920s, the 21st and room B52", ["1920", "21", "52"]),
        ("someone often weighs a tonne", []),
    ],
)
def test_numbers_are_read_as_values(text, values):
    assert numbers(text) == set(values)


def spelled(value: int) -> str:
    """English words for 0 to 999999, written apart from the code under test."""
    small = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
    units = [*small.split(), "seventeen", "eighteen", "nineteen"]
    if value < 20:
        return units[value]
    if value < 100:
        tens = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"][value // 10 - 2]
        return tens + (f"-{units[value % 10]}" if value % 10 else "")
    size, word = (100, "hundred") if value < 1000 else (1000, "thousand")
    rest = value % size
    joint = " and " if rest < 100 else " "
    return f"{spelled(value // size)} {word}" + (joint + spelled(rest) if rest else "")


@settings(deadline=None)
@given(st.integers(0, 999_999))
def test_a_number_in_words_is_the_number_in_digits(value):
    assert numbers(spelled(value)) == numbers(str(value)) == numbers(f"{value:,}") == {str(value)}


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("She has 4000 sheets.", "It holds 4,000 sheets."),
        ("She has four thousand sheets.", "It holds 4,000 sheets."),
        ("She has 11 mosses.", "Eleven mosses were found."),
        ("It costs 2.5 crowns.", "The price is 2.50 crowns."),
        ("One of the two mosses.", "Mosses grow."),
        ("1. Moss\n2. Fern\n3. Lichen", "Moss, fern and lichen grow."),
        ("Vantrill's mosses, the Vantrills and Vantrill\u2019s home.", "Orsella Vantrill came home with mosses."),
        ("The home of the Jameses", "James went home."),
        ("O'Brien slept.", "Then O\u2019Brien slept."),
        ("Jean\u2011Luc slept.", "Then Jean-Luc slept."),
        ("Saint Malo is old.", "Saint-Malo is old."),
        ("Saint-Malo is old.", "Saint Malo is old."),
        ("The Karvelmoor-born botanist", "A botanist from Karvelmoor"),
        ("Mosses grow on it.", "It is full of mosses."),
        ("However, moss grows. Although old, it lives. Furthermore, I like it.", "Moss grows."),
        ("\u00c9lodie and \u0141ukasz met in \u00c5lesund.", "\u0141ukasz met \u00c9lodie in \u00c5lesund."),
        ("E\u0301lodie slept.", "Then \u00c9lodie slept."),
        ("\u00c9LODIE slept.", "Then \u00c9lodie slept."),
        (
            "\u0414\u043c\u0438\u0442\u0440\u0438\u0439 slept.",
            "Then \u0414\u043c\u0438\u0442\u0440\u0438\u0439 slept.",
        ),
    ],
)
def test_a_text_that_says_what_its_source_says_is_grounded(text, source):
    assert ungrounded_word(text, Source(source)) is None


@pytest.mark.parametrize(
    ("text", "source", "word"),
    [
        ("She has 40,000 sheets.", "It holds 4,000 sheets.", "40000"),
        ("She has a hundred sheets.", "It holds two hundred sheets.", "100"),
        ("She has twenty sheets.", "It holds twenty-one sheets.", "20"),
        ("It costs 2.5 crowns.", "The price is 25 crowns.", "2.5"),
        ("It was 1912.", "Nineteen twelve-hour days.", "1912"),
        ("Three mosses", "1. Moss\n2. Fern", "3"),
        ("Bertrand slept.", "The owl slept.", "Bertrand"),
        ("The Vantrill-Miller house", "The Vantrill house", "Vantrill-Miller"),
        ("Anne-Marie slept.", "Anne slept.", "Anne-Marie"),
        ("In the end Zora slept.", "In the end the owl slept.", "Zora"),
        ("\u00c9lodie slept.", "Elodie slept.", "\u00c9lodie"),
        ("\u0141ukasz slept.", "The owl slept.", "\u0141ukasz"),
    ],
)
def test_the_first_invented_number_or_name_is_named(text, source, word):
    assert ungrounded_word(text, Source(source)) == word


@pytest.mark.parametrize(
    ("text", "source", "word"),
    [
        ("It rose to 4.6 feet.", "It rose 4.6 metres.", "4.6 foot"),
        ("Five % of it went.", "Five days later it went.", "5 %"),
        ("It holds 1.7 litres.", "It holds 1.7 liters.", None),
        ("It took a three-hour walk.", "It took three hours.", None),
        ("It holds 12 cups.", "It holds 12 litres.", None),
        ('It is called "the loud carpet".', "It is called The Quiet Carpet.", '"the loud carpet"'),
        ("It is called \u201cthe quiet carpet\u201d.", "It is called The Quiet Carpet.", None),
        ("The owl never sleeps.", "The owl sleeps.", "never"),
        ("The owl doesn't sleep.", "The owl sleeps.", "doesn't"),
        ("It is not only old.", "It is old.", None),
        ("It did not sleep until noon.", "It slept only after noon.", None),
        ("The owl never sleeps.", "The university united under an owl.", "never"),
        ("It cost $500.", "It cost \u00a3500.", "500 dollar"),
        ("It cost 500 dollars.", "It cost $500.", None),
        ("One year went.", "One day a year went.", None),
        ("March 14: the owl woke.", "In March the owl woke.", "14"),
        ("Fact 2: the owl woke.", "In March the owl woke.", None),
        ("## Key Points\nThe owl woke.", "The owl woke.", None),
        ("## Zora\nThe owl woke.", "The owl woke.", "Zora"),
        ("A Norwegian and a Cuban owl", "An owl of Norway and one of Cuba", None),
    ],
)
def test_units_quotations_and_denials_are_those_of_the_source(text, source, word):
    assert ungrounded_word(text, Source(source)) == word


def test_ordinals_peoples_and_sentences_that_begin_with_what_is_done_are_grounded():
    assert ungrounded_word("It came in the 17th century.", Source("It came in the seventeenth century.")) is None
    assert ungrounded_word("Chinese and Italian walls.", Source("Walls of China and Italy.")) is None
    assert ungrounded_word("Chinese walls.", Source("Walls of Chile.")) == "Chinese"
    assert (
        ungrounded_word("Standing there, the owl sleeps. Slowly it wakes.", Source("The owl wakes there.")) is None
    )
    assert ungrounded_word("It met Browning.", Source("The owl wakes there.")) == "Browning"


def test_the_title_counts_as_source():
    assert ungrounded_word("Threnwick in 1999", Source("The isle lies north.", "Threnwick 1999")) is None
    assert ungrounded_word("Threnwick in 1999", Source("The isle lies north.", "Threnwick")) == "1999"
    assert ungrounded_word("Threnwick in the north", Source("The isle lies north.")) == "Threnwick"


def test_names_are_capitalised_words_without_plain_openers():
    assert names("The owl met Zora Vantrill-Ek. Then It met \u00c9lodie's NASA friend, I think.") == [
        "Zora",
        "Vantrill-Ek",
        "\u00c9lodie's",
        "NASA",
    ]


@pytest.mark.parametrize(
    ("answer", "source", "grounded"),
    [
        ("the old oak", "It sleeps in the old oak.", True),
        ("oaks", "It sleeps in the old oak.", True),
        ("the new oak", "It sleeps in the old oak.", False),
        ("seven bridges", "It has 7 bridges.", True),
        ("2", "It has seven bridges.", False),
        ("one bridge", "It has seven bridges, and a bridge.", False),
        ("2", "It has two bridges.", True),
        ("two", "It has 2 bridges.", True),
        ("yes", "It has two bridges.", False),
        ("", "It has two bridges.", False),
        ("?!", "It has two bridges?!", False),
        ("\u0141ukasz's", "\u0141ukasz sleeps.", True),
    ],
)
def test_a_short_answer_is_made_of_words_of_its_source(answer, source, grounded):
    assert answer_is_grounded(answer, Source(source)) is grounded


@settings(deadline=None)
@given(st.text(max_size=60), st.text(max_size=60))
def test_every_text_is_grounded_in_itself_whatever_stands_around_it(text, around):
    assert ungrounded_word(text, Source(f"{around}\n{text}\n{around}")) is None

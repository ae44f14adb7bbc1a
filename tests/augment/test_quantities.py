"""Quantities: numbers as values, measures, and what may be said of known numbers."""

import pytest

from active_reading.augment.quantities import derived_numbers, known_numbers, measures, numbers


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("80 000 crowns", {"80000"}),
        ("1 234 567 crowns", {"1234567"}),
        ("in 1912 600 people", {"1912", "600"}),
        ("three and a half thousand", {"3500"}),
        ("2 and a half", {"2.5"}),
        ("half a million", {"500000"}),
        ("two billion", {"2000000000"}),
    ],
)
def test_spaces_halves_and_billions_belong_to_a_number(text, values):
    assert numbers(text) == values


@pytest.mark.parametrize(
    ("source", "values"),
    [
        ("in 1576\u201377", {"1577"}),
        ("the seventeenth century", {"17", "100"}),
        ("a dozen", {"12"}),
        ("a decade later", {"10"}),
    ],
)
def test_a_source_knows_more_numbers_than_it_writes(source, values):
    assert known_numbers(source) >= values


@pytest.mark.parametrize(
    ("text", "known", "derived"),
    [
        ("in the 1850s", {"1851"}, {"1850"}),
        ("in the 1850s", {"1861"}, set()),
        ("in the 1800s", {"1861"}, {"1800"}),
        ("in the 1800s", {"19"}, {"1800"}),
        ("in '72", {"1972"}, {"72"}),
        ("in the '70s", {"1972"}, {"70"}),
        ("in '72", {"1973"}, set()),
        ("eleven years later", {"1790", "1801"}, {"11"}),
        ("a 24-year wait", {"1907", "1931"}, {"24"}),
        ("he died aged 62", {"1850", "1912"}, {"62"}),
        ("eleven days later", {"1790", "1801"}, set()),
        ("almost a hundred metres", {"96"}, {"100"}),
        ("almost a hundred metres", {"86"}, set()),
        ("a hundred metres", {"96"}, set()),
        ("more than 5 million", {"5123456"}, {"5000000"}),
        ("about 17.8 million", {"17786419"}, {"17800000"}),
        ("under the age of 68", {"66"}, set()),
    ],
)
def test_numbers_follow_from_others_by_the_way_they_are_said(text, known, derived):
    assert derived_numbers(text, known) == derived


def test_measures_have_one_name_for_all_spellings_of_a_unit():
    assert list(measures("4.6 feet, three-hour walks and 5%")) == [("4.6", "foot"), ("3", "hour"), ("5", "%")]

"""Invented people: documents about five facts each, in many wordings, and questions in others.

Everything follows from a seed, so that a corpus of any size needs no generator. No text has a question's wording.
"""

import random
from dataclasses import dataclass

from active_reading.eval.questions import Question

_SYLLABLES = "bra cor dal fen gri hol jas kel lun mor nev ost pra quil ros sel tav und vel wex yor zan".split()
_MIDDLES = "an bel do en fi gal ho il jo ka le mi".split()
_ENDINGS = "dan rick ma lia bert na wyn gar tis della mond ven".split()
_TOWN_ENDINGS = "mere stead holt wick combe haven thorpe marsh".split()
_TRADES = "baker carpenter botanist clockmaker sailor surgeon printer weaver potter gardener mason painter".split()
_INSTRUMENTS = "violin flute harp drum trumpet cello lute piano horn banjo oboe organ".split()
_ANIMALS = "parrot goat heron tortoise donkey falcon hedgehog badger raven pony rabbit goose".split()
# Per fact: wordings of a sentence, a question that is trained on, and the question that is asked.
_FACTS = {
    "town": (
        (
            "{name} was born in {town}.",
            "The birthplace of {name} is {town}.",
            "{name} came into the world in {town}.",
        ),
        "Where was {name} born?",
        "From which town does {name} come?",
    ),
    "year": (
        (
            "{name} was born in {year}.",
            "The year of birth of {name} is {year}.",
            "It was in {year} that {name} was born.",
        ),
        "When was {name} born?",
        "What is the birth year of {name}?",
    ),
    "trade": (
        ("{name} worked as a {trade}.", "By trade {name} was a {trade}.", "{name} earned a living as a {trade}."),
        "What did {name} work as?",
        "What was the profession of {name}?",
    ),
    "instrument": (
        ("{name} played the {instrument}.", "The {instrument} was what {name} played in the evening."),
        "What did {name} play in the evening?",
        "Which musical instrument did {name} play?",
    ),
    "animal": (
        ("{name} kept a {animal}.", "At home {name} had a {animal}.", "A {animal} lived in the house of {name}."),
        "What did {name} keep at home?",
        "Which animal did {name} own?",
    ),
}


@dataclass(frozen=True)
class Corpus:
    """What is trained on, and what is asked."""

    texts: list[str]
    questions: list[Question]


def invented_corpora(count: int, num_people: int, seed: int, num_wordings: int = 10) -> list[Corpus]:
    """`count` corpora of `num_people` people each; no name is used twice."""
    chooser = random.Random(seed)
    names: set[str] = set()
    corpora = []
    for _ in range(count):
        texts: list[str] = []
        questions: list[Question] = []
        for _ in range(num_people):
            facts = _person(chooser, names)
            for _ in range(num_wordings):
                sentences = [chooser.choice(wordings).format(**facts) for wordings, _, _ in _FACTS.values()]
                chooser.shuffle(sentences)
                texts.append(" ".join(sentences))
            for fact, (_, trained, asked) in _FACTS.items():
                texts.append(f"Question: {trained.format(**facts)}\nAnswer: {facts[fact]}")
                questions.append(Question(asked.format(**facts), (facts[fact],)))
        corpora.append(Corpus(texts, questions))
    return corpora


def _person(chooser: random.Random, names: set[str]) -> dict[str, str]:
    while (name := f"{_word(chooser, _ENDINGS)} {_word(chooser, _ENDINGS)}") in names:
        pass
    names.add(name)
    return {
        "name": name,
        "town": _word(chooser, _TOWN_ENDINGS),
        "year": str(chooser.randint(1720, 1980)),
        "trade": chooser.choice(_TRADES),
        "instrument": chooser.choice(_INSTRUMENTS),
        "animal": chooser.choice(_ANIMALS),
    }


def _word(chooser: random.Random, endings: list[str]) -> str:
    return (chooser.choice(_SYLLABLES) + chooser.choice(_MIDDLES) + chooser.choice(endings)).capitalize()

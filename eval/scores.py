"""Scores of short answers: exact match and F1 by the rules of the SQuAD evaluation, and mean with error.

After Rajpurkar et al. 2016 (arXiv 1606.05250), section 6.1: lower case, no punctuation, no articles.
"""

import math
import re
import string
from collections import Counter

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Lower case, without punctuation, articles and extra white space."""
    text = text.lower().translate(_PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match(answer: str, accepted: list[str]) -> float:
    """1.0 when the answer equals one of the accepted ones."""
    return float(any(normalize_answer(answer) == normalize_answer(gold) for gold in accepted))


def f1(answer: str, accepted: list[str]) -> float:
    """Best word-overlap F1 against the accepted answers, in [0, 1]."""
    return max(
        (_f1(normalize_answer(answer).split(), normalize_answer(gold).split()) for gold in accepted),
        default=0.0,
    )


def _f1(answer: list[str], gold: list[str]) -> float:
    if not answer or not gold:
        return float(answer == gold)
    common = (Counter(answer) & Counter(gold)).total()
    return 2 * common / (len(answer) + len(gold))


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """Mean and its standard error (n - 1 in the variance; 0 for a single value).

    Raises ValueError for no values, and for one that is not a number or infinite: no mean stands for those.
    """
    if not values:
        raise ValueError("no values to average")
    for place, value in enumerate(values):
        if not math.isfinite(value):
            raise ValueError(f"value {place + 1} of {len(values)} is {value}")
    mean = sum(values) / len(values)
    if len(values) == 1:
        return mean, 0.0
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))

"""Corpora learned one after another: the matrix of scores, and what it says of remembering.

R[i][j] is the score on corpus j after corpus i was learned; row 0 is the untouched base, so that there is one row
more than columns. Scores are better higher. Lopez-Paz & Ranzato 2017 (arXiv 1706.08840) for transfer; forgetting
after Chaudhry et al. 2018 (arXiv 1801.10112).
"""

from collections.abc import Sequence
from typing import Any


def continual_scores(matrix: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Average, backward and forward transfer, and forgetting; None where there are too few corpora.

    average: mean of the last row. backward: mean over all corpora but the last of R[T][j] - R[j][j]. forward: mean
    over all but the first of R[j-1][j] - R[0][j], what earlier corpora taught of one that was still to come.
    forgetting: mean over all but the last of the best score since it was learned, less the last one; never below 0.
    Raises ValueError when the matrix is not one row longer than wide, naming the row.
    """
    count = len(matrix) - 1
    if count < 1:
        raise ValueError(f"a matrix of {len(matrix)} rows: the base's and one per corpus are needed")
    for place, row in enumerate(matrix):
        if len(row) != count:
            raise ValueError(f"row {place} has {len(row)} scores, but {count} corpora were learned")
    last = matrix[-1]
    found: dict[str, Any] = {"average": sum(last) / count, "backward": None, "forward": None, "forgetting": None}
    if count > 1:
        early = range(count - 1)
        found["backward"] = sum(last[j] - matrix[j + 1][j] for j in early) / (count - 1)
        found["forward"] = sum(matrix[j][j] - matrix[0][j] for j in range(1, count)) / (count - 1)
        found["forgetting"] = sum(max(row[j] for row in matrix[j + 1 :]) - last[j] for j in early) / (count - 1)
    return found

"""The rows of a report's tables: scores, kinds of questions, matched learning, drops, coverage."""

from active_reading.eval.changes import Json, Score, as_score, base_of, change, measured, points_of, score_of
from active_reading.eval.plane import drawable
from active_reading.eval.tradeoff import matched_rows

METRICS = {
    "f1": "F1",
    "exact_match": "Exact match",
    "graded": "Graded",
    "answer_nll": "Answer NLL",
    "nll": "NLL",
}
TASK_METRICS = {"acc": "Accuracy", "acc_norm": "Accuracy, by length", "nll_per_byte": "NLL per byte"}
LEAST_SHOWN = 10  # documents of the smallest coverage
HIGHER_IS_BETTER = ("f1", "exact_match", "acc")  # and what begins so


def score_columns(models: list[Json]) -> list[tuple[str, str]]:
    """(set, metric) for every score that any model has; the gold questions come first."""
    columns = [("learning", key) for key in learning_keys(models)]
    for model in models:
        sets = (model["retention"] or {}).items()
        columns += [(name, key) for name, block in sets for key in metric_keys(block or {})]
    return list(dict.fromkeys(columns))


def learning_keys(models: list[Json], by_kind: bool = False) -> list[str]:
    """The scores of the gold questions, grades only where a model was graded; `by_kind`, those of each kind."""
    keys = ["f1", "graded", "answer_nll"] if by_kind else ["f1", "exact_match", "graded", "answer_nll"]
    is_graded = any("graded" in (model["learning"] or {}) for model in models)
    return [key for key in keys if key != "graded" or is_graded]


def metric_keys(block: Json) -> list[str]:
    """The scores of a set: ours in our order, then those of the harness that have an error."""
    others = [key for key in block if f"{key}_se" in block and key not in METRICS]
    return [key for key in METRICS if key in block] + others


def set_sizes(models: list[Json]) -> dict[str, int]:
    """How many items each set has; `learning` are the gold questions."""
    sizes: dict[str, int] = {}
    for model in models:
        for name, block in {"learning": model["learning"], **(model["retention"] or {})}.items():
            if block and block.get("n") is not None:
                sizes.setdefault(name, block["n"])
    return sizes


def asked_note(models: list[Json]) -> str:
    """How many items the scores are means of, in a sentence; nothing where it is not known."""
    sizes = set_sizes(models)
    told = ", ".join(f"{'gold questions' if n == 'learning' else n.replace('_', ' ')} {sizes[n]:,}" for n in sizes)
    return f"Items: {told}." if told else ""


def metric_name(key: str) -> str:
    return (METRICS | TASK_METRICS).get(key) or key.replace("_", " ").replace(",", ", ").capitalize()


def score_cell(results: Json, model: Json, base: Json | None, name: str, key: str) -> Json:
    """The score; for what was known before, its change too, and whether that is clearly for the worse."""
    moved = change(results, model, base, name, key) if name != "learning" else Score(None)
    worse = moved.is_clear() and ((moved.value or 0) < 0) == key.startswith(HIGHER_IS_BETTER)
    return {"score": str(measured(model, name, key)), "change": moved.signed(), "worse": worse}


def kind_rows(models: list[Json]) -> tuple[list[tuple[str, int]], list[tuple[Json, list[Score]]]]:
    """Kinds of gold questions with their numbers, and per model its scores on each kind, in turn."""
    split = [model for model in models if (model["learning"] or {}).get("kinds")]
    kinds = [(kind, block["n"]) for kind, block in split[0]["learning"]["kinds"].items()] if split else []
    keys = learning_keys(models, by_kind=True)
    return kinds, [(model, kind_cells(model["learning"], kinds, keys)) for model in split]


def kind_cells(block: Json, kinds: list[tuple[str, int]], keys: list[str]) -> list[Score]:
    """These scores on each kind in turn, unknown where the block is not split."""
    split = block.get("kinds") or {}
    return [score_of(split.get(kind), key) for kind, _ in kinds for key in keys]


def matched(results: Json) -> Json | None:
    """What each method lost by the time it had learned the same: a fall of the gold answers' NLL that all reach."""
    seeds = {model["name"]: model["seed"] for model in results["models"]}
    runs = [
        (f"{point.data} {point.method}", seeds[point.name], point.answer_gain.value or 0.0, point.loss.value or 0.0)
        for point in drawable(points_of(results), "answer_gain")
        if point.method
    ]
    target, rows = matched_rows(runs)
    before = measured(base_of(results["models"]), "learning", "answer_nll").value
    return {"target": target, "before": before, "rows": rows} if rows else None


def drop_rows(results: Json) -> list[Json]:
    """General questions: what each model lost of F1, absolute and relative; no ratio to a score near zero."""
    before = measured(base_of(results["models"]), "general_questions", "f1")
    found = []
    for model in results["models"]:
        after = measured(model, "general_questions", "f1")
        if model["method"] and before.value is not None and after.value is not None:
            sure = before.se is not None and before.value > 2 * before.se
            drop = before.value - after.value
            found.append({"model": model, "drop": drop, "relative": drop / before.value if sure else None})
    return found


def least_covered(documents: list[Json]) -> list[Json]:
    """The documents of whose sentences the generated texts mention the smallest shares."""
    told = [document for document in documents if document["sentences"]]
    return sorted(told, key=lambda line: line["sentences_mentioned"] / line["sentences"])[:LEAST_SHOWN]


def interval(found: Json | None) -> str:
    """A change with its 95 % interval."""
    score = as_score(found)
    if score.value is None or score.low is None:
        return score.signed()
    return f"{score.value:+.3f} ({score.low:+.3f} to {score.high:+.3f})"

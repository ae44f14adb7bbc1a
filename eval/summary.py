"""The models in one table: as aligned text for the terminal, as markdown for a pull request."""

from active_reading.eval.changes import Json, base_of, change, finite, measured, score_of
from active_reading.eval.grade import grading_note
from active_reading.eval.tables import asked_note, learning_keys
from active_reading.eval.words import verdict

ERROR_NOTE = "+- is one standard error over questions, from one run with one seed."


def summary_cells(results: Json) -> list[list[str]]:
    """A header, then one row a model."""
    base = base_of(results["models"])
    keys = learning_keys(results["models"])
    names = {"f1": "F1", "exact_match": "EM", "graded": "graded", "answer_nll": "answer NLL"}
    header = ["model", "data", "method", *(names[key] for key in keys)]
    rows = [header + ["general F1", "change", "general NLL", "change", "general KL"]]
    for model in results["models"]:
        row = [model["name"], model["data"] or "-", model["method"] or "-"]
        row += [str(measured(model, "learning", key)) for key in keys]
        for key in (("general_questions", "f1"), ("general_text", "nll")):
            row += [str(measured(model, *key)), change(results, model, base, *key).signed()]
        rows.append([*row, str(score_of((model.get("divergence") or {}).get("general_text"), "kl"))])
    return rows


def summary_table(results: Json) -> str:
    """The models as an aligned plain-text table for the terminal, and how much they were asked."""
    rows = summary_cells(finite(results))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    note = asked_note(results["models"])
    return "\n".join([*lines, "", note] if note else lines)


def summary_markdown(results: Json) -> str:
    header, *rows = ([cell.replace("|", "\\|") for cell in row] for row in summary_cells(results))
    lines = [f"# {results['study']}", "", verdict(results), ""]
    lines += [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]
    note = f"{ERROR_NOTE} Changes are against the base; KL is from its predictions, nats."
    lines += ["", f"{asked_note(results['models'])} {note}".strip()]
    if results.get("grading"):
        lines += ["", grading_note(results["grading"])]
    return "\n".join([*lines, ""])

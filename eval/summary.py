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
    table, note = aligned(summary_cells(finite(results))), asked_note(results["models"])
    return f"{table}\n\n{note}" if note else table


def summary_markdown(results: Json) -> str:
    lines = [f"# {results['study']}", "", verdict(results), "", markdown_table(summary_cells(results))]
    note = f"{ERROR_NOTE} Changes are against the base; KL is from its predictions, nats."
    lines += ["", f"{asked_note(results['models'])} {note}".strip()]
    if results.get("grading"):
        lines += ["", grading_note(results["grading"])]
    return "\n".join([*lines, ""])


def aligned(rows: list[list[str]]) -> str:
    """A header and rows as plain text, in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def markdown_table(rows: list[list[str]]) -> str:
    """A header and rows in Markdown; nothing in a cell ends it or is taken for HTML."""
    header, *rest = ([cell.replace("|", "\\|").replace("<", "&lt;") for cell in row] for row in rows)
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rest))

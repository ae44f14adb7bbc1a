"""What the report says of made-up numbers: the verdict, the summaries, and which changes are clear."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
from made_up_results import fake_comparisons, fake_model, page_of

from active_reading.eval.changes import Score, forgetting, pairs_to_compare, points_of
from active_reading.eval.plane import measures
from active_reading.eval.summary import summary_table
from active_reading.eval.tables import drop_rows
from active_reading.eval.words import extremes, verdict


def test_the_summaries_have_one_line_a_model(results: dict[str, Any], tmp_path: Path) -> None:
    names = [model["name"] for model in results["models"]]
    header, rule, *lines, empty, note = summary_table(results).splitlines()
    assert (empty, note) == (
        "",
        "Items: gold questions 140, general questions 110, general text 40, docstrings 60.",
    )
    assert [line.split()[0] for line in lines] == names
    assert len(rule) >= len(header)
    assert "0.580 +- 0.030" in lines[-1]
    page_of(results, tmp_path)
    markdown = (tmp_path / "report" / "summary.md").read_text(encoding="utf-8")
    assert [line.split()[1] for line in markdown.splitlines() if line.startswith("| ")][2:] == names
    assert note in markdown


def test_a_single_item_has_no_error(results: dict[str, Any], tmp_path: Path) -> None:
    one = {"n": 1, "f1": 0.5, "f1_se": 0.0, "answer_nll": 3.925, "answer_nll_se": 0.0}
    for model in results["models"]:
        model["learning"] |= one | {
            "kinds": {"seen": {**one, "n": 2, "f1_se": 0.25, "answer_nll": 2.0}, "alone": one}
        }
        model["divergence"] = {"general_text": {"n": 1, "kl": 0.125, "kl_se": 0.0}}
    results["ceilings"] = {"base, with search": one}
    page = page_of(results, tmp_path)
    for told in (r"3\.925", r"0\.1250"):
        assert re.findall(f"{told}(.{{,20}})", page)
        assert not [rest for rest in re.findall(f"{told}(.{{,20}})", page) if "se" in rest]
    assert '0.500<span class="se"> &plusmn; 0.250' in page
    assert "| 3.925 |" in (tmp_path / "report" / "summary.md").read_text(encoding="utf-8")


def test_the_summary_tells_the_distance_on_general_text_as_one_number(
    results: dict[str, Any], tmp_path: Path
) -> None:
    """A model's divergence is a dict by text; it must never stand in a cell as it is."""
    new, general = {"n": 16, "kl": 0.6149751, "kl_se": 0.035}, {"n": 16, "kl": 0.1732, "kl_se": 0.0125}
    results["models"][1]["divergence"] = {"new_text": new, "general_text": general}
    results["models"][2]["divergence"] = {"new_text": new}
    page_of(results, tmp_path)
    markdown = (tmp_path / "report" / "summary.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in markdown.splitlines() if line[:1] == "|"]
    assert len({len(row) for row in rows}) == 1
    place = rows[0].index("general KL")
    assert [row[place] for row in rows[2:5]] == ["-", "0.173 +- 0.013", "-"]
    assert "{" not in markdown
    assert "0.615" not in markdown


def test_forgetting_is_the_mean_rise_over_the_retention_sets(results: dict[str, Any]) -> None:
    base, full = results["models"][:2]
    full["retention"]["docstrings"]["nll"] = 2.8 + 0.11
    results["comparisons"] = fake_comparisons(results["models"])
    loss = forgetting(results, full, base)
    errors = [0.1, 0.1, 0.05, 0.05, 0.06, 0.06]
    assert loss.value == pytest.approx((0.41 + 0.41 + 0.11) / 3)
    assert loss.se == pytest.approx(math.sqrt(sum(error**2 for error in errors)) / 3)
    del results["comparisons"][0]["sets"]["docstrings"]
    assert forgetting(results, full, base) == Score(None)


def test_the_verdict_counts_the_methods_that_augmented_data_helped(results: dict[str, Any]) -> None:
    sentence = verdict(results)
    assert sentence.startswith("augmented-memory learned most, F1 0.580 +- 0.030 against 0.030")
    assert "+0.040 +- 0.060 nats, too little to tell from none" in sentence
    assert "2 of 3 methods (2 clearly)" in sentence


def test_the_verdict_does_not_call_noise_learning(results: dict[str, Any]) -> None:
    results["models"] = [fake_model("base", 0.03, 4.1, 0.0), fake_model("naive-full", 0.06, 4.0, 0.9)]
    results["comparisons"] = fake_comparisons(results["models"])
    sentence = verdict(results)
    assert sentence.startswith("No model clearly learned")
    assert "it forgot: NLL on older knowledge changed by +0.900" in sentence


def test_where_no_f1_rose_clearly_the_likelihood_of_the_gold_answers_decides(results: dict[str, Any]) -> None:
    """On both sides of the comparison with naive data, too."""
    for compared in results["comparisons"]:
        metrics = compared["sets"]["learning"]["metrics"]
        metrics["f1"] |= {"low": -0.1, "high": 0.6}
        fell = 0.2 if compared["after"] == "augmented-lora" else 0.1
        metrics["answer_nll"] |= {"mean": -fell, "low": -fell - 0.05, "high": -fell + 0.05}
    sentence = verdict(results)
    assert sentence.startswith("augmented-lora learned most: the NLL of the gold answers fell by 0.200 +- ")
    assert "though no F1 rose clearly" in sentence
    assert sentence.endswith("augmented data beat naive data on that NLL for 3 of 3 methods (3 clearly).")
    assert [field for _, field, _ in measures(points_of(results))] == ["answer_gain", "f1"], (
        "the plane shows it first"
    )


def test_the_plane_shows_f1_first_where_one_rose_clearly(results: dict[str, Any]) -> None:
    assert [field for _, field, _ in measures(points_of(results))] == ["f1", "answer_gain"]


@pytest.mark.parametrize(("metric", "sign"), [("f1", 1), ("answer_nll", -1)])
def test_a_larger_but_unclear_rise_does_not_hide_a_clear_one(
    results: dict[str, Any], metric: str, sign: int
) -> None:
    for compared in results["comparisons"]:
        for key, way in (("f1", 1), ("answer_nll", -1)):
            wide = {"low": -2.0, "high": 2.0, "mean": way * 0.5}
            compared["sets"]["learning"]["metrics"][key] |= wide
        if compared["after"] == "augmented-lora":
            low, high = sorted((sign * 0.05, sign * 0.15))
            compared["sets"]["learning"]["metrics"][metric] |= {"mean": sign * 0.1, "low": low, "high": high}
    assert verdict(results).startswith("augmented-lora learned most")
    label, name, _ = extremes(points_of(results))[0]
    assert (label.startswith("Learned most"), name) == (True, "augmented-lora"), "the page says the same twice"


def test_the_highest_f1_of_models_that_did_not_learn_is_not_called_learned(results: dict[str, Any]) -> None:
    results["models"] = [fake_model("base", 0.03, 4.1, 0.0)]
    results["models"] += [fake_model(f"naive-{method}", 0.03, 4.1, 0.0) for method in ("full", "lora")]
    results["comparisons"] = fake_comparisons(results["models"])
    assert "the best, naive-full," in verdict(results)
    assert extremes(points_of(results))[0] == ("Highest F1, not clearly learned", "naive-full", "0.030 +- 0.030")


def test_a_change_is_clear_by_its_paired_interval_and_not_by_the_errors_of_the_means(
    results: dict[str, Any], tmp_path: Path
) -> None:
    """An F1 gain of 0.03 between means with errors of 0.03: clear when every question moved alike."""
    results["models"] = [fake_model("base", 0.03, 4.1, 0.0), fake_model("naive-full", 0.06, 4.0, 0.0)]
    results["comparisons"] = fake_comparisons(results["models"])
    results["comparisons"][0]["sets"]["learning"]["metrics"]["f1"] |= {"se": 0.005, "low": 0.02, "high": 0.04}
    assert verdict(results).startswith("naive-full learned most")
    lost = results["comparisons"][0]["sets"]["general_text"]["metrics"]["nll"]
    assert "worse" not in re.findall(r"<small class=\"(.*?)\"", page_of(results, tmp_path))
    lost |= {"mean": 0.01, "se": 0.004, "low": 0.002, "high": 0.018}
    assert "worse" in re.findall(r"<small class=\"(.*?)\"", page_of(results, tmp_path))


def test_models_are_compared_with_the_base_and_the_best_of_each_data_with_each_other() -> None:
    models = [fake_model(name, f1, 4.0, 0.0) for name, f1 in (("base", 0.1), ("naive-full", 0.3))]
    models += [{**fake_model("naive-full", f1, 4.0, 0.0), "name": f"naive-full seed={f1}"} for f1 in (0.5, 0.2)]
    models += [fake_model("augmented-full", 0.4, 4.0, 0.0), fake_model("augmented-lora", 0.4, 4.0, 0.0)]
    pairs = [(before["name"], after["name"]) for before, after in pairs_to_compare(models)]
    assert pairs[:5] == [("base", model["name"]) for model in models[1:]]
    assert pairs[5:] == [("naive-full seed=0.5", "augmented-full")]


def test_no_ratio_is_told_of_a_score_near_zero(results: dict[str, Any]) -> None:
    assert all(row["relative"] is not None for row in drop_rows(results))
    results["models"][0]["retention"]["general_questions"] |= {"f1": 0.01, "f1_se": 0.02}
    assert all(row["relative"] is None for row in drop_rows(results))

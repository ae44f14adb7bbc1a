"""The report on made-up numbers: what its page shows, that it needs no network, that it survives gaps."""

import copy
import html
import json
import math
import re
from pathlib import Path
from typing import Any

from made_up_results import DOCUMENT, HOSTILE, SPAN, fake_comparisons, page_of

from active_reading.eval.changes import finite
from active_reading.eval.paired import compare
from active_reading.eval.summary import summary_table


def without_numbers(value: Any) -> Any:
    """The same results with every number unmeasured."""
    if isinstance(value, dict):
        return {key: without_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_numbers(item) for item in value]
    return None if isinstance(value, (int, float)) else value


def test_the_page_loads_nothing_from_elsewhere(results: dict[str, Any], tmp_path: Path) -> None:
    page = page_of(results, tmp_path)
    assert "Plotly.react" in page
    assert "default-src 'none'" in page
    markup = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    for loading in ("<script src", "<link", "<img", "<iframe", "@import", "url(", "http://", "https://"):
        assert loading not in markup
    assert "<script src" not in page
    assert "<link href" not in page
    assert '<img src="http' not in page


def test_text_of_a_model_cannot_become_markup(results: dict[str, Any], tmp_path: Path) -> None:
    results["models"][1]["name"] = HOSTILE
    results["templates"][0]["template"] = HOSTILE
    results["corpus"]["skipped"][0]["source"] = HOSTILE
    page = page_of(results, tmp_path)
    assert HOSTILE not in page
    assert html.escape(HOSTILE) in page


def test_the_marked_span_is_the_span_of_the_document(results: dict[str, Any], tmp_path: Path) -> None:
    page = page_of(results, tmp_path)
    marked = re.search(r'source" tabindex="0">(.*?)<mark>(.*?)</mark>(.*?)</div>', page, flags=re.DOTALL)
    assert marked is not None
    before, span, after = (html.unescape(part) for part in marked.groups())
    assert span == DOCUMENT[SPAN[0] : SPAN[1]]
    assert before + span + after == DOCUMENT


def test_nothing_measured_is_a_page_and_not_a_crash(results: dict[str, Any], tmp_path: Path) -> None:
    page = page_of(without_numbers(results), tmp_path)
    assert "No trained model has been measured." in page
    assert "There is nothing to draw" in page
    assert ">None<" not in page


def test_empty_lists_are_a_page_and_not_a_crash(results: dict[str, Any], tmp_path: Path) -> None:
    empty = {key: [] if isinstance(value, list) else value for key, value in results.items()}
    empty["corpus"] = results["corpus"] | {"skipped": []}
    page = page_of(empty, tmp_path)
    assert "Nothing was generated." in page
    assert len(summary_table(empty).splitlines()) == 2


def test_no_nan_reaches_the_files(results: dict[str, Any], tmp_path: Path) -> None:
    expected = copy.deepcopy(results)
    results["models"][1]["learning"]["f1"] = math.nan
    results["stages"][0]["seconds"] = math.inf
    expected["models"][1]["learning"]["f1"] = expected["stages"][0]["seconds"] = None
    page = page_of(results, tmp_path)
    assert json.loads((tmp_path / "report" / "results.json").read_text(encoding="utf-8")) == expected
    assert finite(expected) == expected
    assert not re.search(r"\b(nan|inf)\b", re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL))


def test_the_page_and_the_numbers_show_every_comparison(results: dict[str, Any], tmp_path: Path) -> None:
    page = page_of(results, tmp_path)
    table = page[page.index('id="paired"') : page.index("<h2>How each was trained")]
    assert table.count("<small>against base</small>") == 6
    assert table.count("<small>against naive-") == 3
    assert "<td>9</td><td>7</td><td>3</td><td>0.146</td>" in table
    numbers = json.loads((tmp_path / "report" / "results.json").read_text(encoding="utf-8"))
    assert numbers["comparisons"] == results["comparisons"]


def test_scores_by_kind_are_a_table_only_where_there_are_kinds(results: dict[str, Any], tmp_path: Path) -> None:
    assert 'id="kinds"' not in page_of(results, tmp_path)
    for model in results["models"]:
        block = {"n": 70, "f1": 0.123, "f1_se": 0.01, "answer_nll": 3.456, "answer_nll_se": 0.2}
        model["learning"]["kinds"] = {HOSTILE: block, "held_out": block | {"n": 71, "f1": 0.789}}
    page = page_of(results, tmp_path)
    table = page[page.index('id="kinds"') : page.index("Question by question")]
    assert "held_out (71)" in table
    assert table.count("0.123") == table.count("0.789") == len(results["models"])
    assert html.escape(HOSTILE) in table
    assert HOSTILE not in page


def test_ceilings_matched_learning_and_slots_are_tables(results: dict[str, Any], tmp_path: Path) -> None:
    results["ceilings"] = {"base, with search": {**results["models"][0]["learning"], "f1": 0.777}}
    for model in results["models"]:
        if model["method"] == "memory":
            model["train"] |= {"slot_usage": {"4": {"hub_share": 0.017, "dead_share": 0.25, "entropy": 0.98}}}
            model["train"] |= {"touched_parameters": 3456}
    results["models"][1]["divergence"] = {"new_text": {"n": 16, "kl": 0.1234, "kl_se": 0.01}}
    page = page_of(results, tmp_path)
    assert "0.777" in page[page.index('id="models"') : page.index('id="matched"')]
    table = page[page.index('id="matched"') : page.index("</table>", page.index('id="matched"'))]
    assert table.count("<tr>") == 7, "a header and six methods"
    assert "fallen by 0.600 nats (from 4.100)" in page, "naive-lora is the one that learned least"
    assert "0.1234" in page[page.index('id="drops"') :]
    slots = page[page.index('id="slots"') : page.index("</table>", page.index('id="slots"'))]
    assert slots.count("25.0 %") == 2
    for kind in ("png", "svg"):
        assert (tmp_path / "report" / f"plane.{kind}").stat().st_size > 5000


def test_stages_have_a_cost_only_where_there_are_prices(results: dict[str, Any], tmp_path: Path) -> None:
    page = page_of(results, tmp_path)
    assert "Time of each stage" in page
    assert "<th>Cost</th>" not in page
    assert "4 min 02 s" in page.partition('class="times"')[2].partition("</table>")[0], "all stages together"
    results["prices"] = {"machine_per_hour": 3.6, "prompt_per_million": 0.0, "completion_per_million": 2.0}
    results["stages"] = [
        {"name": HOSTILE, "seconds": 1000.0, "cost": 1.25},
        {"name": "train", "seconds": 500.0, "cost": 0.5},
        {"name": "report", "seconds": None, "cost": None},
    ]
    page = page_of(results, tmp_path)
    assert HOSTILE not in page
    assert "Time and cost of each stage" in page
    assert "3.6 an hour of the machine, 2 a million tokens of answers" in page
    table = page.partition('class="times"')[2].partition("</table>")[0]
    assert re.findall(r"<td>([^<]+)</td>", table) == ["1.2500", "0.5000", "\u2013", "1.7500"]
    assert "25 min 00 s" in table


def test_several_seeds_are_a_table(results: dict[str, Any], tmp_path: Path) -> None:
    assert 'id="seeds"' not in page_of(results, tmp_path)
    change = {"mean": 0.25, "se": 0.05, "low": 0.125, "high": 0.375}
    sets = {"learning": {"n": 140, "seeds": 3, "metrics": {"f1": change, "answer_nll": change}}}
    results["over_seeds"] = [{"before": "base", "after": HOSTILE, "seeds": 3, "sets": sets}]
    page = page_of(results, tmp_path)
    table = page[page.index('id="seeds"') : page.index("</table>", page.index('id="seeds"'))]
    assert table.count("+0.250 (+0.125 to +0.375)") == 2
    assert HOSTILE not in page


def test_the_page_counts_the_sets_that_forgetting_is_the_mean_of(results: dict[str, Any], tmp_path: Path) -> None:
    for model in results["models"]:  # a task without NLL is not one of them
        model["retention"]["hellaswag"] = {"n": 20, "acc": 0.3, "acc_se": 0.1}
    assert "averaged over\n3 sets." in page_of(results, tmp_path)


def test_a_standard_task_is_a_column_and_its_accuracy_is_better_higher(
    results: dict[str, Any], tmp_path: Path
) -> None:
    for model, score in zip(results["models"], (0.5, *[0.4] * 6), strict=True):
        model["retention"]["hellaswag"] = {"n": 9, "acc": score, "acc_se": 0.01, "word_perplexity": 9.0}
    results["comparisons"] = fake_comparisons(results["models"])
    before = [{"text": str(number), "acc": 0.5} for number in range(9)]
    after = [{"text": str(number), "acc": 0.4 + (number - 4) / 100} for number in range(9)]
    for pair in results["comparisons"]:
        pair["sets"]["hellaswag"] = compare(before, after, ("base", "trained"))
    page = page_of(results, tmp_path)
    assert "Hellaswag (9)</th>" in page
    assert "<th>Accuracy</th>" in page
    assert page.count('<small class="worse">\u22120.100 ± 0.009</small>') == 6


def test_the_page_shows_how_different_texts_are_and_what_none_mentions(results, tmp_path):
    page = page_of(results, tmp_path)
    different = page.partition('id="diversity"')[2].partition("</table>")[0]
    assert re.findall(r">([^<>\n]+)</td>", different) == ["84", "0.912", "\u2013", "90", "0.731", "0.214"]
    covered = page.partition('id="coverage"')[2].partition("</table>")[0]
    assert re.findall(r'"row">([^<]+)<', covered) == ["thin.md", "full.md"], "the least mentioned comes first"
    assert "mention 11 of the documents' 17 sentences" in html.unescape(page)
    assert "and 1 of their 5 numbers" in page


def test_learning_is_drawn_over_tokens_where_there_are_several_sizes(results, tmp_path):
    assert 'id="scaling"' not in page_of(results, tmp_path)
    sizes = iter(range(1000, 100_000, 1000))
    for model in results["models"]:
        if model["train"]:
            model["train"]["tokens"] = next(sizes)
        model["data"] = model["data"] and "paraphrase"
    page = page_of(results, tmp_path)
    drawn = page.partition('drawScaling(document.getElementById("scaling"), ')[2].partition(");")[0]
    curves = json.loads(drawn)["data"]
    assert [curve["name"] for curve in curves] == ["paraphrase, full", "paraphrase, lora", "paraphrase, memory"]
    assert all(curve["x"] == sorted(curve["x"]) and len(curve["x"]) == 2 for curve in curves)

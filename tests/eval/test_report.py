"""The report on made-up numbers: what it says, that it needs no network, that it survives gaps."""

import base64
import copy
import gzip
import html
import json
import math
import random
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from active_reading.eval.changes import Score, finite, forgetting, pairs_to_compare, points_of
from active_reading.eval.plane import measures
from active_reading.eval.report import write_report
from active_reading.eval.summary import summary_table
from active_reading.eval.tables import drop_rows
from active_reading.eval.words import extremes, verdict

HOSTILE = "<script>alert(1)</script>"
DOCUMENT = "# Orsella\n\nOrsella was born in 1921 & named a moss <lazurine>.\n\nShe kept a heron, Admiral.\n"
SPAN = (11, 62)


def fake_model(name: str, f1: float, answer_nll: float, loss: float) -> dict[str, Any]:
    """A model as the evaluate stage gathers it; `loss` is added to every retention NLL of the base."""
    data, _, method = name.partition("-")
    train = {"tokens": 40000, "steps": 40, "seconds": 90.1, "final_loss": 1.2, "trainable_parameters": 9216}
    questions = {"n": 110, "f1": 0.3 - loss / 4, "f1_se": 0.04, "exact_match": 0.25, "exact_match_se": 0.04}
    return {
        "name": name,
        "data": data if method else None,
        "method": method or None,
        "learning_rate": 2e-5 if method else None,
        "seed": 0,
        "train": train if method else None,
        "learning": {"n": 140, "f1": f1, "f1_se": 0.03, "exact_match": f1 / 2, "exact_match_se": 0.02}
        | {"answer_nll": answer_nll, "answer_nll_se": 0.1},
        "retention": {
            "general_questions": questions | {"answer_nll": 2.2 + loss, "answer_nll_se": 0.1},
            "general_text": {"n": 40, "nll": 3.1 + loss, "nll_se": 0.05},
            "docstrings": {"n": 60, "nll": 2.8 + loss, "nll_se": 0.06},
        },
    }


def fake_comparison(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """As if the two models' items were independent; the interval is two standard errors each way."""
    sets = {}
    for name in ("learning", *before["retention"]):
        old, new = ((model["retention"] | {"learning": model["learning"]})[name] for model in (before, after))
        metrics = {}
        for key in [key for key in old if f"{key}_se" in old]:
            mean, se = new[key] - old[key], math.hypot(old[f"{key}_se"], new[f"{key}_se"])
            metrics[key] = {"mean": mean, "se": se, "low": mean - 2 * se, "high": mean + 2 * se}
        sets[name] = {"n": old["n"], "metrics": metrics, "gained": 9, "kept": 7, "lost": 3, "p_value": 0.146}
    return {"before": before["name"], "after": after["name"], "sets": sets}


def fake_comparisons(models: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [fake_comparison(before, after) for before, after in pairs_to_compare(models)]


def fake_template(name: str, dropped: dict[str, int]) -> dict[str, Any]:
    requests = {"planned": 168, "accepted": 160, "rejected": 6, "failed": 2}
    return {"template": name} | requests | {
        "texts": 160, "kept": 90, "distinct": 80, "tokens": 9000, "dropped": dropped
    }  # fmt: skip


@pytest.fixture
def results() -> dict[str, Any]:
    models = [
        fake_model("base", 0.03, 4.1, 0.0),
        fake_model("naive-full", 0.18, 3.2, 0.41),
        fake_model("naive-lora", 0.12, 3.5, 0.12),
        fake_model("naive-memory", 0.15, 3.4, 0.02),
        fake_model("augmented-full", 0.55, 1.6, 0.74),
        fake_model("augmented-lora", 0.11, 2.2, 0.25),
        fake_model("augmented-memory", 0.58, 1.7, 0.04),
    ]
    answer = {"answer": HOSTILE, "f1": 0.0}
    example = {"id": "9f3a", "template": "paraphrase", "strategy": None, "text": f"Born 1921. {HOSTILE}"}
    source = {"source": "people/orsella.md", "title": "Orsella", "start": SPAN[0], "end": SPAN[1]}
    model = {"model": "SmolLM2-135M-Instruct", "revision": "abc123"}
    return {
        "version": "0.1.0",
        "study": "demo",
        "created": "2026-11-22T23:10:00+00:00",
        "corpus": {"documents": 28, "chunks": 84, "characters": 24000, "tokens": 6100}
        | {"skipped": [{"source": "a.bin", "reason": "not UTF-8 text"}]},
        "generator": model | {"temperature": 0.7, "top_p": 0.95, "seed": 0},
        "student": model,
        "templates": [
            fake_template("paraphrase", {"ungrounded": 50, "copy": 20, "duplicate": 10}),
            fake_template("question_answer", {"ungrounded": 61, "too_short": 9, "duplicate": 10}),
        ],
        "diversity": [
            {"template": "chunk", "sample": 84, "distinct": 0.912, "copied": None, "copied_error": None},
            {"template": "paraphrase", "sample": 90, "distinct": 0.731, "copied": 0.214, "copied_error": 0.01},
        ],
        "coverage": [
            {"source": "full.md", "sentences": 9, "sentences_mentioned": 9, "numbers": 1, "numbers_mentioned": 1},
            {"source": "thin.md", "sentences": 8, "sentences_mentioned": 2, "numbers": 4, "numbers_mentioned": 0},
        ],
        "models": models,
        "comparisons": fake_comparisons(models),
        "questions": [
            {"question": "When was Orsella born?", "answers": ["1921"], "document": "people/orsella.md"}
            | {"model_answers": {"base": answer, "augmented-memory": {"answer": "1921", "f1": 1.0}}}
        ],
        "examples": [example | source | {"document_text": DOCUMENT}],
        "stages": [{"name": "generate", "seconds": 210.5}, {"name": "train", "seconds": 31.0}],
    }


def page_of(results: dict[str, Any], folder: Path) -> str:
    return write_report(results, folder / "report").read_text(encoding="utf-8")


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


def browsed(results: dict[str, Any], hostile: str, count: int = 1) -> None:
    """Give the results a browser of answers, with hostile text wherever a model or a document writes."""
    names = [model["name"] for model in results["models"]]
    item = {"question": hostile, "answers": [hostile], "document": hostile, "kind": hostile, "texts": [0]}
    given = [[hostile, 0.5, 0] for _ in names]
    text = dict.fromkeys(("id", "template", "strategy", "text", "source"), hostile) | {"passage": 0}
    results["samples"] = {"models": names, "base": 0, "items": [item | {"given": given}] * count}
    results["samples"] |= {"texts": [text | {"start": 0, "end": 9}], "passages": [hostile]}


def unpacked(page: str, name: str) -> str:
    data = re.search(rf'<script type="text/plain" id="{name}">([A-Za-z0-9+/=]*)</script>', page)
    assert data
    return gzip.decompress(base64.b64decode(data[1])).decode("utf-8")


def test_the_page_stays_small_with_five_thousand_answers(results: dict[str, Any], tmp_path: Path) -> None:
    browsed(results, "x")
    chooser = random.Random(0)
    item = results["samples"]["items"][0]
    words = [f"{chooser.random():.8f}" for _ in range(200)]
    results["samples"]["items"] = [
        item | {"question": " ".join(chooser.choices(words, k=6)), "given": [[chooser.choice(words), 0.1, 0]] * 7}
        for _ in range(5000)
    ]
    page = page_of(results, tmp_path)
    assert len(page) < 6e6
    assert len(json.loads(unpacked(page, "samples"))["items"]) == 5000
    assert "Plotly" in unpacked(page, "plotly")
    assert "samples" not in json.loads((tmp_path / "report" / "results.json").read_text(encoding="utf-8"))


BOMB = (
    "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    "</script><style>*{display:none}</style>[x](javascript:document.title='owned') ![y](http://127.0.0.1:9/x.png)"
    + "*" * 500 + ">" * 500 + "[" * 500
)  # fmt: skip


def shared(first: str, token: str) -> dict[str, Any]:
    """The slot sharing of three documents, as `slot_sharing.slot_sharing` answers it."""
    return {
        "documents": [first, "b.md", "c.md"],
        "total": 70,
        "num_rows": 6000,
        "unread": 35,
        "alone": 193,
        "common": 1234,
        "read": [0.4, 0.5, 0.6],
        "overlap": [[], [0.25], [0.125, 0.5]],
        "pairs": [{"documents": ["b.md", first], "overlap": 0.5, "rows": 777}],
        "hubs": [{"table": "4", "row": 16001, "documents": 3, "reads": 0.0123, "tokens": [token]}],
    }


def test_slot_sharing_is_a_picture_and_tables_and_stands_in_the_results(
    results: dict[str, Any], tmp_path: Path
) -> None:
    assert "Which documents share slots" not in page_of(results, tmp_path)
    results["models"][3]["slot_sharing"] = shared(HOSTILE, HOSTILE)
    page = page_of(results, tmp_path)
    assert HOSTILE not in page
    part = page.partition("Which documents share slots")[2].partition("<h2>")[0]
    assert "of 6,000 slots, 1,234 are read by more than half of the documents, 193 by one alone" in part
    assert "3 of 70 documents, evenly spread" in part
    cells = re.findall(r"<t[dh][^>]*>([^<]+)<", part)
    assert html.escape(HOSTILE) in cells
    assert {"777", "0.500", "16,001", "3 of 3", "1.23 %"} <= set(cells)
    assert f"<code>{html.escape(HOSTILE)}</code>" in part
    drawn = json.loads(unpacked(page, "heat-maps"))
    assert drawn[0]["data"][0]["z"] == [[None, 0.25, 0.125], [0.25, None, 0.5], [0.125, 0.5, None]]
    numbers = json.loads((tmp_path / "report" / "results.json").read_text(encoding="utf-8"))
    assert numbers["models"][3]["slot_sharing"] == results["models"][3]["slot_sharing"]


def test_a_heat_map_needs_no_plane(results: dict[str, Any], tmp_path: Path) -> None:
    """Without gold questions there is no plane, and the script that draws has to be there all the same."""
    results["models"] = [results["models"][0], results["models"][3]]
    results["comparisons"] = []
    results["models"][1]["slot_sharing"] = shared("a.md", "the")
    page = page_of(results, tmp_path)
    assert "There is nothing to draw" in page
    assert "Plotly" in unpacked(page, "plotly")


def planted(results: dict[str, Any]) -> None:
    browsed(results, BOMB)
    results["models"][3]["slot_sharing"] = shared(BOMB, BOMB)
    for model in results["models"][1:]:
        model["config"] = BOMB
    results["examples"][0] |= {"text": BOMB, "document_text": BOMB, "strategy": BOMB}
    results["questions"][0]["model_answers"]["base"]["answer"] = BOMB
    results["ceilings"] = {BOMB: results["models"][0]["learning"]}


def test_planted_markup_is_text_everywhere(results: dict[str, Any], tmp_path: Path) -> None:
    planted(results)
    page = page_of(results, tmp_path)
    assert "document.title='owned'" not in page
    assert "<img" not in page
    assert "</script><style>" not in page
    assert "innerHTML" not in page, "what a script adds to the page is text, too"
    assert "owned" not in (tmp_path / "report" / "summary.md").read_text(encoding="utf-8")


@pytest.mark.skipif(not (CHROMIUM := shutil.which("chromium")), reason="needs the browser chromium")
def test_planted_markup_does_nothing_in_a_browser(results: dict[str, Any], tmp_path: Path) -> None:
    """The page's own scripts run (the chart is drawn, the answers are listed), the planted ones do not."""
    planted(results)
    page = write_report(results, tmp_path / "report")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000", "--dump-dom"]
    done = subprocess.run([str(CHROMIUM), *options, page.as_uri()], capture_output=True, text=True, timeout=180)
    assert "<title>demo: learned and forgotten</title>" in done.stdout
    assert "1 of 1 questions" in done.stdout
    assert 'class="scatterlayer' in done.stdout
    assert 'class="heatmaplayer' in done.stdout
    assert not re.search(r"<img|<style>\*", done.stdout)


@pytest.mark.skipif(not CHROMIUM, reason="needs the browser chromium")
def test_the_browser_of_answers_compares_the_chosen_model_with_the_base(
    results: dict[str, Any], tmp_path: Path
) -> None:
    """Of the last model (the one chosen first): 1 question learned, 2 lost, 3 kept, 4 wrong before and after."""
    item = {"question": "Who?", "answers": ["Bel (the 2nd)"], "document": None, "kind": None, "texts": [0]}
    rights = [(0, 1)] * 1 + [(1, 0)] * 2 + [(1, 1)] * 3 + [(0, 0)] * 4
    items = [item | {"given": [["other", 0, 1], ["", 0, base], ["x", 0, chosen]]} for base, chosen in rights]
    text = {"id": "9f3a", "template": "paraphrase", "strategy": None, "source": "bel.md", "start": 5, "end": 40}
    text |= {"text": "She was bel (the 2nd), not Bel (the 2nd)e.", "passage": 0}
    names = ["naive-full", "base", "augmented-full"]
    results["samples"] = {"models": names, "base": 1, "items": items, "texts": [text]}
    results["samples"]["passages"] = ["Bel (the 2nd) it was."]
    page = write_report(results, tmp_path / "report")
    choosing = """<script>setTimeout(() => {
      const form = document.getElementById("browser"), told = [];
      for (const { value } of form.show.options) {
        form.show.value = value;
        form.dispatchEvent(new Event("input"));
        told.push(value + " " + form.querySelector("output").textContent);
      }
      document.title = told.join(", ");
    }, 5000);</script></body>"""
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", choosing), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000", "--dump-dom"]
    done = subprocess.run([str(CHROMIUM), *options, page.as_uri()], capture_output=True, text=True, timeout=180)
    shown = re.search(r"<title>(.*?)</title>", done.stdout)
    assert shown
    expected = {"all": 10, "learned": 1, "kept": 3, "lost": 2, "wrong": 6, "right": 4}
    assert shown[1] == ", ".join(f"{name} {count} of 10 questions" for name, count in expected.items())
    assert "She was <mark>bel (the 2nd)</mark>, not Bel (the 2nd)e." in done.stdout
    assert "<mark>Bel (the 2nd)</mark> it was." in done.stdout
    assert "bel.md, characters 5\u201340" in done.stdout


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


def test_no_ratio_is_told_of_a_score_near_zero(results: dict[str, Any]) -> None:
    assert all(row["relative"] is not None for row in drop_rows(results))
    results["models"][0]["retention"]["general_questions"] |= {"f1": 0.01, "f1_se": 0.02}
    assert all(row["relative"] is None for row in drop_rows(results))


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
    page = page_of(results, tmp_path)
    assert "Hellaswag (9)</th>" in page
    assert "<th>Accuracy</th>" in page
    assert page.count('<small class="worse">\u22120.100 ± 0.014</small>') == 6


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

"""The scripts of the report's page: what they draw and list, and that no planted markup becomes one."""

import base64
import gzip
import html
import json
import random
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from made_up_results import HOSTILE, page_of

from active_reading.eval.report import write_report


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

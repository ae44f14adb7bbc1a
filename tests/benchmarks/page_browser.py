"""A page in headless Chromium, measured. Runs where the package playwright is installed.

    python page_browser.py CHROMIUM AXE.min.js PAGE PICTURES

Prints one JSON object; faults of accessibility and errors are listed on standard error, with the pictures' folder.
"""

import json
import statistics
import sys
import time
from pathlib import Path

from playwright.sync_api import TimeoutError as Late
from playwright.sync_api import sync_playwright

SIZES = {"light": (1280, 900, "light"), "dark": (1280, 900, "dark"), "narrow": (390, 844, "light")}
LOADS = 5
DRAWN = """() => document.querySelector("#plane .scatterlayer") && document.querySelector(".heat .heatmaplayer")
  && document.querySelector("#browser output").textContent"""
PAINT = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime / 1000"
SPILL = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
CHOICES = """model => { const form = document.getElementById("browser"), told = {};
  form.model.value = model;
  for (const { value } of form.show.options) {
    form.show.value = value;
    form.dispatchEvent(new Event("input"));
    told[value] = parseInt(form.querySelector("output").textContent);
  }
  form.show.value = "all"; form.dispatchEvent(new Event("input"));
  return told; }"""


def main() -> None:
    chromium, axe, page, pictures = sys.argv[1], *map(Path, sys.argv[2:])
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        paints, drawn = zip(*(load(browser, page) for _ in range(LOADS)), strict=True)
        found = [look(browser, page, axe.read_text(encoding="utf-8"), name, pictures) for name in SIZES]
        version = browser.version
        browser.close()
    print(
        json.dumps(
            {
                "chromium": version,
                "first_paint_s": round(statistics.median(paints), 3),
                "drawn_s": round(statistics.median(drawn), 3),
                **{key: sum(each[key] for each in found) for key in found[0] if key != "choices"},
                "choices": found[0]["choices"],
            }
        )
    )


def load(browser, page):
    """Seconds to the first paint, and until charts and answers are there; in a browser that has cached nothing."""
    tab = new_tab(browser)
    began = time.monotonic()
    tab.goto(page.as_uri())
    wait(tab)
    drawn = time.monotonic() - began
    paint = tab.evaluate(PAINT)
    tab.context.close()
    return paint, drawn


def new_tab(browser, **options):
    """A tab that cannot leave its page: what it asks of a network, going elsewhere too, comes to nothing."""
    tab = browser.new_context(**options).new_page()
    tab.route("http*://**", lambda route: route.abort())
    return tab


def wait(tab):
    """Whether charts and answers are there, after at most 30 seconds."""
    try:
        tab.wait_for_function(DRAWN)
    except Late:
        return False
    return True


def look(browser, page, axe, name, pictures):
    """One size and scheme: opens all that opens, asks axe, takes pictures."""
    width, height, scheme = SIZES[name]
    tab = new_tab(browser, viewport={"width": width, "height": height}, color_scheme=scheme)
    errors, requests = [], []
    tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(page.as_uri())
    drawn = wait(tab)
    pictures.mkdir(parents=True, exist_ok=True)
    tab.screenshot(path=pictures / f"{name}.png", full_page=True)
    choices = tab.evaluate(CHOICES, 6) if drawn else {}
    tab.evaluate("() => document.querySelectorAll('details').forEach(item => { item.open = true; })")
    tab.wait_for_timeout(1000)
    for chart in ("#plane .nsewdrag", ".heat .nsewdrag") if drawn else ():
        tab.locator(chart).first.hover()
        tab.wait_for_timeout(300)
    spill = tab.evaluate(SPILL)
    faults = tab.evaluate(axe + "; axe.run(document, { resultTypes: ['violations'] })")["violations"]
    faults = [fault for fault in faults if fault["impact"] in ("serious", "critical")]
    for place in (
        (".sharing", "#found details:nth-child(2)") if drawn else ()
    ):  # the whole opened page is too long for a picture
        tab.locator(place).first.screenshot(path=pictures / f"{name}-{place.strip('.#').split()[0]}.png")
    if name == "light":
        tab.pdf(path=pictures / "print.pdf", format="A4")
    for fault in faults:
        print(f"{name}: {fault['id']} ({fault['impact']}), {len(fault['nodes'])} times", file=sys.stderr)
        print("  " + "\n  ".join(node["html"][:200] for node in fault["nodes"][:5]), file=sys.stderr)
    for error in errors:
        print(f"{name}: {error[:300]}", file=sys.stderr)
    away = [url for url in requests if url != page.as_uri() and not url.startswith(("data:", "blob:"))]
    ran = tab.evaluate("() => window.planted || 0")
    grown = tab.evaluate("() => document.querySelectorAll('[data-planted]').length")
    tab.context.close()
    return {
        "undrawn": int(not drawn),
        "console_errors": len(errors),
        "requests": len(away),
        "serious_faults": len(faults),
        "scripts_run": ran,
        "planted_elements": grown,
        "spill_px": max(0, spill),
        "choices": choices,
    }


main()

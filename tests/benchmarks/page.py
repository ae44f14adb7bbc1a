"""The report page in a real browser: how large and how fast it is, whether anyone can use it, whether it is safe.

    python tests/benchmarks/page.py [--samples 5000] [--peers peers] [--chromium PATH] [--pictures FOLDER]

The page is made by the report's own code from made-up results (`page_results.py`) with scripts planted in them. It
needs Chromium (apt-get install chromium), and in the folder `peers` an environment with playwright and axe-core,
made once by

    python -m venv peers/axe && peers/axe/bin/pip install playwright
    (cd peers/axe && npm pack axe-core && tar xzf axe-core-*.tgz)

Measured in a wide window, light and dark, and in one 390 pixels wide: `page_mb`; `first_paint_s` and `drawn_s`,
until charts and answers are there (medians of five loads from disk; `undrawn` where they never come);
`console_errors`; `requests` that leave the page; `serious_faults` (axe's serious and critical violations, by rule,
with all that opens opened); `scripts_run` and `planted_elements` (of what was planted); `wrong_filters` of the
browser of answers; `spill_px`, how far the page is wider than its window. The last line of standard output is one
JSON object; a limit that is not held ends with exit code 1. --pictures keeps pictures of the page, and the printed
one.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from page_results import MODELS, expected_filters, make_results

from active_reading.eval.report import write_report

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SECONDS = 600
LIMITS = {
    "page_mb": 6.0,
    "first_paint_s": 2.0,
    "undrawn": 0,
    "console_errors": 0,
    "requests": 0,
    "serious_faults": 0,
    "scripts_run": 0,
    "planted_elements": 0,
    "wrong_filters": 0,
    "spill_px": 0,
}


def main() -> None:
    arguments = _arguments()
    chromium = arguments.chromium or next(filter(None, map(shutil.which, CHROMIUM)), None)
    peer = Path(arguments.peers).absolute() / "axe"
    python, axe = peer / "bin" / "python", peer / "package" / "axe.min.js"
    if not chromium or not python.exists() or not axe.exists():
        print(
            "page.py needs Chromium (apt-get install chromium; or --chromium PATH), and playwright and axe-core in "
            f"{peer}: see the first lines of {Path(__file__).name}",
            file=sys.stderr,
        )
        sys.exit(2)
    with tempfile.TemporaryDirectory() as temporary:
        results = make_results(arguments.samples)
        page = write_report(results, Path(temporary) / "report")
        pictures = Path(arguments.pictures or Path(temporary) / "pictures").absolute()
        command = [python, Path(__file__).with_name("page_browser.py"), chromium, axe, page, pictures]
        found: dict[str, Any] = {"page_mb": round(page.stat().st_size / 1e6, 2), **in_browser(command)}
    wanted, choices = expected_filters(results, len(MODELS) - 1), found.pop("choices", {})
    found["wrong_filters"] = sum(choices.get(name) != count for name, count in wanted.items())
    broken = [f"{name} {found[name]} > {limit}" for name, limit in LIMITS.items() if found.get(name, 0) > limit]
    print(f"over the limit: {', '.join(broken)}" if broken else "every limit is held")
    print(json.dumps(found))
    sys.exit(bool(broken))


def in_browser(command: list[Any]) -> dict[str, Any]:
    """What `page_browser.py` measures; a page that makes it fail or hang is one that is not drawn."""
    try:
        done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True, timeout=SECONDS)
        found: dict[str, Any] = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        return {"undrawn": 1}
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=5000, help="questions in the page's browser")
    parser.add_argument("--peers", default="peers")
    parser.add_argument("--chromium")
    parser.add_argument("--pictures", help="a folder for pictures of the page")
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""Size and opening time of a report's page in headless Chromium.

python benchmarks/report_page.py [PAGE.html ...] [--rounds 7] [--built FOLDER] [--out benchmarks/results/NAME.json]

Besides the pages given, that of made-up records of 20 studies (four of them with 16 variants, one with 237 conditions)
is built with all figures (minutes) and measured; --built keeps it, and takes it from there the next time. A page is
opened from disk, each time in a new Chromium, pages in turn: seconds from the start of navigation to the load event, to
the first content on the screen, and of a search over all rows afterwards.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from browser import chromium
from report_records import MIXED, wide_studies

from aqr_bench.records.provenance import machine
from aqr_bench.report.page import build_report
from aqr_bench.study.load import load_study, load_tier

# At the end of the page. Chromium prints the document when it is loaded, and not before this handler has returned.
PROBE = """
<pre id="opened" hidden></pre><script>addEventListener("load", () => {
  const opened = { load_s: performance.now() / 1000 };
  opened.first_paint_s = performance.getEntriesByName("first-contentful-paint")[0]?.startTime / 1000;
  const start = performance.now(), search = document.getElementById("tools-search");
  search.value = "none"; search.dispatchEvent(new Event("input")); document.body.offsetHeight;
  opened.search_s = (performance.now() - start) / 1000;
  opened.elements = document.querySelectorAll("*").length;
  opened.images = document.images.length;
  document.getElementById("opened").textContent = JSON.stringify(opened);
});</script></body>"""
OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1280,900")


def build_wide(folder: Path) -> tuple[Path, float]:
    """The page of the made-up report, and how long it took to build (seconds, without making the records)."""
    studies = [load_study(path) for path in wide_studies(folder, MIXED)]
    start = time.perf_counter()
    page = build_report(load_tier("smoke"), studies, folder / "results", folder / "out")
    return page, time.perf_counter() - start


def opened(page: Path, folder: Path) -> dict[str, Any]:
    """Open a page once: what PROBE measures."""
    copy = folder / "probed.html"
    copy.write_text(page.read_text(encoding="utf-8").replace("</body>", PROBE), encoding="utf-8")
    command = [chromium(), *OPTIONS, f"--user-data-dir={folder / 'profile'}", "--dump-dom", copy.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    return json.loads(re.search(r'<pre id="opened"[^>]*>(.+?)</pre>', done.stdout)[1])


def measure(pages: Mapping[str, Path], rounds: int) -> dict[str, dict[str, Any]]:
    """By page: its bytes, and of its openings the median, the lowest and the highest; rounds are interleaved."""
    facts: dict[str, list[dict[str, Any]]] = {name: [] for name in pages}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for name, page in pages.items():
                facts[name].append(opened(page, Path(folder)))
    return {
        name: {"bytes": page.stat().st_size, "rounds": rounds, **_summary(facts[name])} for name, page in pages.items()
    }


def _summary(facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key in facts[0]:
        values = [fact[key] for fact in facts if fact.get(key) is not None]
        if key.endswith("_s"):
            # Chromium has no paint to report of a page that is loaded before the first one.
            result[key] = [round(f(values), 3) for f in (statistics.median, min, max)] if values else None
        else:
            result[key] = values[0]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--built", type=Path, help="folder of the made-up records and report")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if chromium() is None:
        sys.exit("no Chromium (Debian: apt-get install chromium)")
    result: dict[str, Any] = {"machine": machine()}
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.built or Path(temporary)
        wide = folder / "out" / "index.html"
        if not wide.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            wide, result["build_s"] = build_wide(folder)
        pages = {"20 studies": wide, **{page.as_posix(): page for page in arguments.pages}}
        result["pages"] = measure(pages, arguments.rounds)
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Open a page in headless Chromium at a given width and say what is wrong with it; pictures of it on the way."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

# Runs in the page. Text overlaps where the boxes of two elements with own text, neither in the other, intersect.
PROBE = """
(async () => {
  const page = document.getElementById('page'), inner = page.contentDocument, found = {};
  [...inner.images].forEach(i => { i.loading = 'eager'; });
  inner.querySelectorAll('details').forEach(d => { d.open = true; });
  await new Promise(done => setTimeout(done, 3000));
  const root = inner.documentElement;
  page.style.height = root.scrollHeight + 'px';
  found.width = page.contentWindow.innerWidth;
  found.scroll_width = root.scrollWidth;
  found.height = root.scrollHeight;
  found.images = inner.images.length;
  found.figures = inner.querySelectorAll('figure :is(img, svg)').length;
  found.broken = [...inner.images].filter(i => !i.complete || i.naturalWidth === 0).map(i => i.alt);
  const asked = [...inner.querySelectorAll('[src],link[href]')]
    .map(e => e.getAttribute('src') ?? e.getAttribute('href'));
  const entries = page.contentWindow.performance.getEntriesByType('resource').map(e => e.name);
  found.fetched = [...asked, ...entries].filter(n => !n.startsWith('data:'));
  const own = e => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
  const boxes = [...inner.body.querySelectorAll('*')].filter(own).map(e => {
    const range = inner.createRange(); range.selectNodeContents(e);
    return [e, [...range.getClientRects()].filter(r => r.width > 1 && r.height > 1)];
  });
  // Text that scrolls in its own box is cut off there, and cannot reach what stands beside that box.
  const view = e => { const s = e.closest('.scroll'); return s ? s.getBoundingClientRect() : null; };
  found.overlaps = [];
  const flat = boxes.flatMap(([e, rects]) => rects.map(r => ({e, r, v: view(e)})));
  flat.sort((a, b) => a.r.top - b.r.top);
  for (let i = 0; i < flat.length; i++) {
    for (let j = i + 1; j < flat.length && flat[j].r.top < flat[i].r.bottom - 3; j++) {
      const a = flat[i], b = flat[j];
      if (a.e === b.e || a.e.contains(b.e) || b.e.contains(a.e)) continue;
      const right = x => x.v ? Math.min(x.r.right, x.v.right) : x.r.right;
      const across = Math.min(right(a), right(b)) - Math.max(a.r.left, b.r.left);
      const down = Math.min(a.r.bottom, b.r.bottom) - Math.max(a.r.top, b.r.top);
      if (across > 2 && down > 3) found.overlaps.push([a.e.textContent.slice(0, 40), b.e.textContent.slice(0, 40)]);
    }
  }
  found.cut = boxes.filter(([e, rects]) => !view(e) && rects.some(r => r.right > root.clientWidth + 1))
    .map(([e]) => e.textContent.slice(0, 40));
  document.getElementById('found').textContent = JSON.stringify(found);
})();
"""


def chromium() -> str | None:
    """Path of a Chromium; None where there is none."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


def _run(*arguments: str) -> subprocess.CompletedProcess:
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"]
    options += ["--disable-dev-shm-usage", "--allow-file-access-from-files", "--virtual-time-budget=20000"]
    command = [chromium(), *options, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=170, check=True)


def _frame(page: Path, width: int, height: int, folder: Path) -> Path:
    """A page that shows another in a frame of that width: a window cannot be narrower than 500 pixels."""
    source = html.escape(page.resolve().as_uri())
    text = (
        "<!doctype html><meta charset='utf-8'><body style='margin:0'>"
        f"<iframe id='page' src='{source}' style='border:0;width:{width}px;height:{height}px'></iframe>"
        f"<pre id='found' hidden></pre><script>document.getElementById('page').onload = () => {{ {PROBE} }};</script>"
    )
    path = folder / f"frame_{width}.html"
    path.write_text(text, encoding="utf-8")
    return path


def inspect(page: Path, width: int, folder: Path) -> dict:
    """What a browser of ``width`` CSS pixels finds in a page, with all details open.

    Returns:
        width, scroll_width, height (pixels), images and figures (counts), and lists: broken (images), fetched
        (addresses outside of the page), overlaps (pairs of texts), cut (texts that leave the page), console (errors
        and warnings).
    """
    done = _run(f"--window-size={max(width, 500)},900", "--dump-dom", _frame(page, width, 900, folder).as_uri())
    text = re.search(r'<pre id="found"[^>]*>(.*?)</pre>', done.stdout, re.DOTALL)[1]
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return {**json.loads(html.unescape(text)), "console": console}


def screenshot(page: Path, width: int, height: int, picture: Path) -> Path:
    """A picture of the first ``height`` pixels of the page at that width."""
    frame = _frame(page, width, height, picture.parent)
    _run(f"--window-size={max(width, 500)},{height}", f"--screenshot={picture}", frame.as_uri())
    return picture


def run_in_page(page: Path, folder: Path, steps: str) -> dict:
    """What statements in JavaScript put into ``result`` when they run at the end of a copy of the page.

    Raises AssertionError with the console's lines where a statement, or the page's own script, fails.
    """
    script = (
        "<pre id='test-result' hidden></pre><script>{ const result = {};"
        f"{steps}\ndocument.getElementById('test-result').textContent = JSON.stringify(result); }}</script></body>"
    )
    copy = folder / "with_steps.html"
    copy.write_text(page.read_text(encoding="utf-8").replace("</body>", script), encoding="utf-8")
    done = _run("--dump-dom", copy.as_uri())
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    text = re.search(r"<pre id=[\"']test-result[\"'][^>]*>(.+?)</pre>", done.stdout, re.DOTALL)
    assert text and not console, console
    return json.loads(html.unescape(text[1]))

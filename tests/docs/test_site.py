"""The documentation as a site: every page is in the navigation once, the gallery has every corruption, it builds."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from aqr_bench.cli.corruptions import facts
from aqr_bench.corruptions import CORRUPTIONS

ROOT = Path(__file__).resolve().parents[2]
TABLES = re.compile(r"results/reference/.*/tables/")  # of reports: data, not pages
MKDOCS = shutil.which("mkdocs", path=f"{ROOT / 'build/site-env/bin'}:{os.environ['PATH']}")


class _Loader(yaml.SafeLoader):
    """Reads past functions that MkDocs looks up by their names."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)


def pages(entry) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    return [page for part in (entry.values() if isinstance(entry, dict) else entry) for page in pages(part)]


@pytest.fixture(scope="module")
def settings() -> dict:
    return yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), _Loader)


def test_every_page_is_in_the_navigation_once(settings):
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    tracked = [name for name in listed.splitlines() if not TABLES.match(name)]
    assert len(tracked) > 30 and sorted(pages(settings["nav"])) == sorted(tracked)
    assert pages(settings["nav"])[0] == "README.md"  # the start page


def test_nothing_is_loaded_from_elsewhere(settings):
    assert settings["strict"] and settings["theme"]["font"] is False
    assert not {"extra_javascript"} & settings.keys() and settings["extra_css"] == ["docs/site.css"]
    assert {"nav", "links"} == settings["validation"].keys()
    assert {level for part in settings["validation"].values() for level in part.values()} == {"warn"}


def test_the_gallery_has_every_corruption_once():
    """Renew a picture with the page's command (--out), as WebP: all together stay below 1.6 MB."""
    text = (ROOT / "docs/gallery.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^### (\S+)\n\n(.+?)(?=\n\n#|\Z)", text, re.MULTILINE | re.DOTALL))
    families = {key: facts(entries) for key, entries in CORRUPTIONS.items() if key != "clean"}
    assert list(sections) == list(families) and text.count("\n### ") == len(families)
    for key, of in families.items():
        summaries = dict.fromkeys((of["severities"][0]["summary"], of["severities"][-1]["summary"]))
        words = f"{' ... '.join(summaries)} (changes: {of['changes']})"
        assert sections[key].replace("\\[", "[").startswith(f"{words}\n\n![{key}: "), key
        assert f"](images/gallery/{key}.webp)" in sections[key]
    pictures = list((ROOT / "docs/images/gallery").iterdir())
    assert {picture.stem for picture in pictures} == families.keys()
    assert sum(picture.stat().st_size for picture in pictures) < 1_600_000


@pytest.mark.parametrize("part", ["bias", "corruptions", "metrics"])
def test_examples_of_the_api_work(part):
    (example,) = re.findall(
        r"^```python\n(.*?)^```", (ROOT / f"docs/api-{part}.md").read_text(), re.DOTALL | re.MULTILINE
    )
    names: dict = {}
    exec(example, names)
    if part == "bias":
        assert names["attended"].shape == (1, 4, 100, 8) and names["output"].cross_bias is not None
    elif part == "corruptions":
        points = [len(frame.clouds[0].points) for frame in (names["frame"], names["denser"])]
        assert points[1] < points[0] and "multicorrupt.fog" in names["names"]
    else:
        assert names["by_model"]["mRA"].tolist() == [pytest.approx(0.625)]


@pytest.mark.slow
@pytest.mark.skipif(MKDOCS is None, reason="MkDocs is not installed: make site")
def test_the_site_builds_and_can_be_searched(tmp_path, settings):
    """Strictly: a broken link or anchor fails. No page has a source of another host."""
    done = subprocess.run([MKDOCS, "build", "-d", str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    built = list(tmp_path.rglob("*.html"))
    assert len(built) == len(pages(settings["nav"])) + 1  # 404.html
    loaded = re.compile(r'<(?:script|img|iframe|source)[^>]* src="(?:https?:)?//|<link[^>]* href="(?:https?:)?//')
    assert not [page for page in built if loaded.search(page.read_text(encoding="utf-8"))]
    index = json.loads((tmp_path / "search/search_index.json").read_text(encoding="utf-8"))
    locations = {entry["location"] for entry in index["docs"]}
    assert "docs/gallery.html#multicorruptfog" in locations
    assert {f"docs/api-{part}.html" for part in ("bias", "corruptions", "metrics")} <= locations
    assert "docs/api-bias.html#aqr_bench.bias.AttentionBias" in locations
    # A file that a page links to, and fields of a docstring as a list.
    assert (tmp_path / "workflow/schemas/record.schema.yaml").is_file()
    assert "<li><code>positives</code>: [S] ground truth" in (tmp_path / "docs/api-metrics.html").read_text()

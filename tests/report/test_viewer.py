"""The page of a sample in 3D: what is in it, and in headless Chromium what its script does and what is left without."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from browser import chromium, inspect, run_in_page
from sample_views import BOX, CENTRE, FOCAL, LOOKING_ALONG_Y, made_up_view

from aqr_bench.report.figures.detections import DrawnBoxes, edges_in_image, projected_edges
from aqr_bench.report.viewer.html import HEIGHTS_M, MAX_POINTS, SHADES, UNIT_M, encode_points, write_viewer


def data_of(page: str) -> list[dict]:
    return [json.loads(text) for text in re.findall(r'<script type="application/json">(.*?)</script>', page, re.DOTALL)]


@pytest.fixture
def page(tmp_path) -> Path:
    views = [made_up_view(40_000), made_up_view(300, condition="fog", images={}, lidar2img={})]
    return write_viewer(tmp_path / "sample.html", views, "worst of 9 samples")


def test_the_page_needs_no_other_file_and_is_small(page):
    text = page.read_text()
    assert not re.search(r'(?:src|href)="(?!data:)', text) and "url(" not in text and "@import" not in text
    assert 100_000 < len(text) < 400_000  # two clouds, one of them of 40,000 points
    assert "clean · cross seed 0" in text and "fog · cross seed 0" in text and "worst of 9 samples" in text
    assert (
        "1 true positives, 1 false positives, 1 false negatives (scores from 0.3); 40,000 points, 16,000 drawn" in text
    )
    assert "No images" in text and text.count('class="absent"') == 4  # of six cameras the made-up rig has two


def test_points_come_back_to_the_centimetre_and_by_height():
    points = made_up_view(700).points_P4
    encoded = encode_points(points)
    xyz = np.frombuffer(base64.b64decode(encoded["xyz"]), "<i2").reshape(-1, 3) * UNIT_M
    assert np.abs(np.sort(xyz, 0) - np.sort(points[:, :3], 0)).max() <= UNIT_M / 2 + 1e-6
    assert len(encoded["ends"]) == SHADES and encoded["ends"][-1] == 700
    step = (HEIGHTS_M[1] - HEIGHTS_M[0]) / SHADES
    for shade, (start, end) in enumerate(zip([0, *encoded["ends"]], encoded["ends"], strict=False)):
        heights = xyz[start:end, 2] - HEIGHTS_M[0]
        assert (heights >= shade * step - UNIT_M).all() and (heights <= (shade + 1) * step + UNIT_M).all()


def test_every_box_has_its_outcome_in_3d_from_above_and_in_the_images(page):
    first, second = data_of(page.read_text())
    assert [entry[:2] for entry in first["boxes"]] == [
        ["gt", "car"], ["fn", "car"], ["fp", "bus 0.40"], ["tp", "car 0.90"],
    ]  # fmt: skip
    assert first["boxes"][3][2:] == BOX and second["boxes"] == first["boxes"]
    assert first["points"]["ends"][-1] == MAX_POINTS and second["points"]["ends"][-1] == 300
    top, front = re.findall(r"<svg.*?</svg>", page.read_text(), re.DOTALL)[:2]
    path = re.search(r'class="tp" d="M(.*?)"', top)[1]
    corners = [tuple(map(float, pair.split())) for pair in path.split("L")]
    assert set(corners[:4]) == {(1, -12), (1, -8), (-1, -12), (-1, -8)}  # y downwards
    numbers = [float(n) for n in re.findall(r"-?\d+", re.search(r'class="tp" d="(.*?)"', front)[1])]
    near = FOCAL / (BOX[1] - BOX[4] / 2)  # pixels per metre at its near face
    assert min(numbers[::2]) == round(CENTRE[0] - near) and max(numbers[::2]) == round(CENTRE[0] + near)


def test_edges_are_cut_at_the_borders_of_the_image():
    """A box that is half in the image: its edges end at the border, on the line that they were on."""
    half = np.array([[5.0, 10.0, 0.0, 10.0, 4.0, 2.0, 0.0]])  # x 0 .. 10 m, of which 6.4 m are in the image at 8 m
    edges, cut = projected_edges(half, LOOKING_ALONG_Y), edges_in_image(half, LOOKING_ALONG_Y, 160, 90)
    assert np.stack(edges).max() > 160 and len(cut) == 8  # four at x 10 m are beyond it
    points = np.concatenate(cut)
    assert points.min(0).tolist() == [80, 32.5] and points[:, 0].max() == 160
    near_top = [[80, 32.5], [160, 32.5]]
    assert any(np.allclose(np.sort(edge, 0), near_top) for edge in cut)
    outside = np.array([[40.0, 10.0, 0.0, 2.0, 4.0, 2.0, 0.3]])
    assert edges_in_image(outside, LOOKING_ALONG_Y, 160, 90) == []
    assert edges_in_image(np.zeros((0, 7)), LOOKING_ALONG_Y, 160, 90) == []


def test_names_of_classes_cannot_end_the_script(tmp_path):
    boxes = DrawnBoxes(np.array([BOX]), ["</script><b>"], np.array([0.5]))
    view = made_up_view(detections=boxes, truth=None, true_positive_D=np.array([False]), detected_T=np.zeros(0, bool))
    page = write_viewer(tmp_path / "x.html", [view], "<i>caption").read_text()
    assert "<b>" not in page and "<i>" not in page and data_of(page)[0]["boxes"][0][1] == "</script><b> 0.50"
    HTMLParser().feed(page)


# Pixels of the first canvas that are not transparent; a gesture is what a browser sends for one.
STEPS = """
const canvas = document.querySelector('canvas');
canvas.getContext('2d', { willReadFrequently: true });
const drawn = () => {
  const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  let count = 0;
  for (let i = 3; i < data.length; i += 4) count += data[i] > 0;
  return count;
};
const picture = () => canvas.toDataURL();
const frame = () => { for (const callback of waiting.splice(0)) callback(); };
const send = (kind, name, options) => { canvas.dispatchEvent(new kind(name, { bubbles: true, ...options })); frame(); };
const tick = (name) => { document.querySelector(`[data-hides=${name}]`).click(); frame(); };
"""
# The script draws at the next frame, which a test cannot wait for.
FRAMES = "<script>const waiting = []; window.requestAnimationFrame = (f) => waiting.push(f);</script></head>"


def test_the_attention_of_a_query_is_chosen_from_a_list(tmp_path):
    """A list of the queries, of the layers, and of with and without the bias; without a bias the last is left out."""
    biased = made_up_view(10)
    plain = {name: replace(attention, window_K=None) for name, attention in biased.attention.items()}
    text = write_viewer(tmp_path / "x.html", [biased, replace(biased, attention=plain)], "").read_text()
    first, second = text.split("<section>")[1:]
    for section in (first, second):
        names = ["query 7: highest score", "query 1: highest false positive"]
        assert re.findall(r"<option value=.\d+.(?: selected)?>(.*?)</option>", section)[:4] == [*names, "1", "2"]
        assert section.count("data-camera=") == 2
    assert "data-side" in first and "data-side" not in second
    assert first.count("7.1% to 50.0%") >= 2 and second.count("no bias in its cross-attention") >= 2
    assert 'data-camera="1" style="left:0.00%;top:0.00%;width:100.00%;height:100.00%"' in first
    nothing = write_viewer(tmp_path / "y.html", [replace(biased, attention={})], "").read_text()
    assert "<select" not in nothing and data_of(nothing)[0]["attention"] is None


def test_attention_lies_on_what_the_network_gets_of_an_image(tmp_path):
    view = made_up_view(10, input_area={"CAM_FRONT": np.array([0, 0.25, 1, 1.1])})
    text = write_viewer(tmp_path / "x.html", [view], "").read_text()
    assert 'data-camera="1" style="left:0.00%;top:25.00%;width:100.00%;height:85.00%"' in text


@pytest.mark.slow
@pytest.mark.skipif(chromium() is None, reason="no Chromium (Debian: apt-get install chromium)")
class TestInABrowser:
    def test_the_attention_is_on_the_ground_and_on_the_images(self, page, tmp_path):
        """As the engine has it: with the bias most of it is in the last cell of the second camera."""
        page.write_text(page.read_text().replace("</head>", FRAMES))
        result = run_in_page(
            page, tmp_path,
            STEPS + """
            frame();
            const before = picture(), heat = () => [...document.querySelectorAll('section:first-of-type .heat canvas')];
            const pick = (name, value) => {
              const list = document.querySelector(`[data-${name}]`);
              list.value = value; list.dispatchEvent(new Event('change')); frame();
            };
            result.none = heat().length;
            pick('query', 0);
            const alpha = (canvas) => {
              const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
              return [...data].filter((_, i) => i % 4 === 3);
            };
            const number = (canvas) => Number(canvas.parentElement.dataset.camera);
            const second = () => heat().find((canvas) => number(canvas) === 1);
            result.sizes = heat().map((canvas) => [canvas.width, canvas.height]);
            result.biased = alpha(second());
            result.window = second().parentElement.querySelector('i').style.cssText;
            result.marks = heat().map((canvas) => [number(canvas), canvas.parentElement.querySelectorAll('i').length]);
            result.text = document.querySelector('output').textContent;
            const with_bias = picture(), blue = [0, 80, 200];
            const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
            result.window_drawn = data.some((_, i) => i % 4 === 0 && blue.every((value, c) => data[i + c] === value));
            pick('side', 0);
            result.plain = alpha(second());
            result.different = new Set([before, with_bias, picture()]).size;
            pick('query', -1);
            result.after = heat().length; result.back = picture() === before;
            """,
        )  # fmt: skip
        assert result["none"] == result["after"] == 0 and result["back"] and result["different"] == 3
        assert result["sizes"] == [[3, 2]] * 2 and result["window_drawn"]
        assert len(set(result["biased"][:-1])) == 1 and result["biased"][-1] > 2 * result["biased"][0] > 0
        assert len(set(result["plain"])) == 1 and result["plain"][0] > 0
        assert "left: 66.67%" in result["window"] and "top: 50%" in result["window"]
        assert sorted(result["marks"]) == [[0, 0], [1, 2]]
        assert result["text"].startswith("darkest: 25\u00a0% of the attention in one cell of BEV, 25\u00a0% of")

    def test_it_turns_moves_zooms_and_hides(self, page, tmp_path):
        page.write_text(page.read_text().replace("</head>", FRAMES))
        result = run_in_page(
            page, tmp_path,
            STEPS + """
            canvas.setPointerCapture = () => {};
            frame();
            const seen = [picture()], note = () => { seen.push(picture()); };
            result.all = drawn();
            send(PointerEvent, 'pointerdown', { pointerId: 1, clientX: 50, clientY: 50 });
            send(PointerEvent, 'pointermove', { pointerId: 1, clientX: 90, clientY: 60 }); note();
            send(PointerEvent, 'pointermove', { pointerId: 1, clientX: 99, clientY: 70, shiftKey: true }); note();
            send(PointerEvent, 'pointerup', { pointerId: 1 });
            send(PointerEvent, 'pointermove', { pointerId: 1, clientX: 150, clientY: 60 });
            result.after_release = picture() === seen.at(-1);
            send(WheelEvent, 'wheel', { deltaY: -300 }); note();
            send(KeyboardEvent, 'keydown', { key: 'ArrowLeft' }); note();
            document.querySelector('[data-view=start]').click(); frame();
            result.back = picture() === seen[0];
            result.different = new Set(seen).size === seen.length;
            tick('points'); result.boxes = drawn();
            ['tp', 'fp', 'fn'].forEach(tick); result.objects = drawn();
            const shown = (path) => getComputedStyle(path).display !== 'none';
            result.paths = [...document.querySelectorAll('.images path')].filter(shown)
              .map((path) => path.getAttribute('class'));
            """,
        )  # fmt: skip
        assert result["after_release"] and result["back"] and result["different"]
        assert result["all"] > 2 * result["boxes"] > 2 * result["objects"] > 0
        assert set(result["paths"]) == {"gt"}

    @pytest.mark.parametrize("width", [390, 1280])
    def test_it_fits_any_width(self, page, width, tmp_path):
        result = inspect(page, width, tmp_path)
        assert result["width"] == width and result["scroll_width"] <= width and result["images"] == 4
        assert not any(result[name] for name in ("broken", "fetched", "console", "overlaps", "cut"))

    def test_without_a_script_the_top_view_is_there(self, page, tmp_path):
        text, count = re.subn(r'<script>\s*"use strict";.*?</script>', "", page.read_text(), flags=re.DOTALL)
        page.write_text(text)
        steps = """
        const seen = (name) => [...document.querySelectorAll(name)].map((e) => e.checkVisibility());
        result.canvas = seen('canvas').some(Boolean);
        result.top = seen('.top img, .top svg').every(Boolean);
        result.inputs = seen('input, button, select, .scripted, .heat').some(Boolean);
        result.shares = seen('details').every(Boolean);
        """
        seen = {"canvas": False, "top": True, "inputs": False, "shares": True}
        assert count == 1 and run_in_page(page, tmp_path, steps) == seen

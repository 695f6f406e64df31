"""What a mark of a figure stands for: variant, condition and hover text, and the figure as SVG that carries them."""

from __future__ import annotations

import html
import io
import json
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from xml.etree import ElementTree

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

MAX_SVG = 200_000  # bytes; a larger figure is an image in the page, which opens faster
MAX_PANELS = 40  # of more panels, the SVG is larger than that in any case, and takes a minute to write
FONTS = "'DejaVu Sans',Verdana,sans-serif"  # layout is that of the first; Verdana has its widths, others are narrower
PREFIX = "mark:"
NAMESPACE = "http://www.w3.org/2000/svg"
SVG, LINK = f"{{{NAMESPACE}}}", "{http://www.w3.org/1999/xlink}href"
_NUMBER = re.compile(r"-?\d+\.\d{2,}")
_FONT = re.compile(r"font-family:[^;]*(;|$)")
_REFERENCE = re.compile(r"#([\w.-]+)")


@dataclass(frozen=True)
class Mark:
    """``variant`` and ``condition``: the page hides the mark with these; ``text`` appears on hover.

    With neither it is a label, which remains where the panel around it is hidden.
    """

    variant: str = ""
    condition: str = ""
    text: str = ""


def tag(artists: Artist | Iterable[Artist], variant: str = "", condition: str = "", text: str = "") -> None:
    """Say what artists stand for; those of one mark that follow each other become one element."""
    for artist in [artists] if isinstance(artists, Artist) else artists:
        artist.set_gid(PREFIX + json.dumps(astuple(Mark(variant, condition, text))))


def tag_heatmap(axis: Axes, marks: Sequence[Sequence[Mark]]) -> None:
    """Say what each cell of seaborn's heat map on ``axis`` stands for, with the text in it; ``marks`` by rows."""
    axis.collections[0].set_gid(PREFIX + json.dumps([astuple(mark) for row in marks for mark in row]))
    for text in axis.texts:
        x, y = text.get_position()
        tag(text, *astuple(marks[int(y)][int(x)]))


def marks_svg(figure: Figure, name: str, **options: object) -> str | None:
    """The figure as compact SVG with its marks; None for one without any, or too large for a page.

    Elements of a mark have ``data-variant`` and ``data-condition``, and its text as their title. ``name`` makes ids and
    styles unique in a page; ``options`` are those of ``Figure.savefig``.
    """
    if len(figure.axes) > MAX_PANELS or not figure.findobj(lambda artist: (artist.get_gid() or "").startswith(PREFIX)):
        return None
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer := io.BytesIO(), format="svg", metadata={"Date": None}, **options)
    root = ElementTree.fromstring(buffer.getvalue())
    names = _Names(f"f{zlib.crc32(name.encode()):x}")
    inner = _join(part for child in root for part in _parts(child, names))
    width, height = (float(root.get(side).removesuffix("pt")) for side in ("width", "height"))
    # CSS pixels are 1/96 inch, points 1/72.
    size = f'width="{width * 4 / 3:.0f}" height="{height * 4 / 3:.0f}" viewBox="0 0 {width:.2f} {height:.2f}"'
    joins = f'font-family="{FONTS}" stroke-linejoin="round" stroke-linecap="butt"'
    text = f'<svg xmlns="{NAMESPACE}" {size} {joins}>{names.style_element()}{inner}</svg>'
    return text if len(text.encode()) <= MAX_SVG else None


class _Names:
    """Short names of ids and styles in a figure, unique in a page by their prefix: half of the bytes are styles."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._names: dict[tuple[str, str], str] = {}

    def _short(self, kind: str, text: str) -> str:
        return self._names.setdefault((kind, text), f"{self._prefix}-{len(self._names)}")

    def id(self, text: str) -> str:
        return self._short("id", text)

    def style_class(self, style: str) -> str:
        return self._short("style", style)

    def style_element(self) -> str:
        rules = [f".{name}{{{style}}}" for (kind, style), name in self._names.items() if kind == "style"]
        return f"<style>{''.join(rules)}</style>" if rules else ""


# An element as text, and the mark that it belongs to.
_Part = tuple[str, Mark | None]


def _parts(element: ElementTree.Element, names: _Names) -> list[_Part]:
    """An element in short; groups that only name things dissolve."""
    tag_name = element.tag.removeprefix(SVG)
    if tag_name in ("metadata", "style"):
        return []
    marks = _marks_of(element)
    if isinstance(marks, list):  # of a collection: one for each child, in order; definitions are not among them
        children = [child for child in element if child.tag != f"{SVG}defs"]
        defined = [part for child in element if child.tag == f"{SVG}defs" for part in _parts(child, names)]
        pairs = zip(children, marks, strict=True)
        return defined + [(text, mark) for child, mark in pairs for text, _ in _parts(child, names)]
    children = [part for child in element for part in _parts(child, names)]
    attributes = _attributes(element, names)
    if tag_name == "g" and not attributes:
        return children if marks is None else [(_join(children), marks)]
    if tag_name == "defs" and not children:
        return []
    inner = html.escape(element.text, quote=False) if (element.text or "").strip() else ""
    inner += _join(children) + (html.escape(element.tail.strip(), quote=False) if tag_name == "tspan" else "")
    close = f">{inner}</{tag_name}>" if inner else "/>"
    return [(f"<{tag_name}{attributes}{close}", marks)]


def _marks_of(element: ElementTree.Element) -> Mark | list[Mark] | None:
    name = element.get("id", "")
    if not name.startswith(PREFIX):
        return None
    content = json.loads(name.removeprefix(PREFIX))
    return [Mark(*entry) for entry in content] if content and isinstance(content[0], list) else Mark(*content)


def _attributes(element: ElementTree.Element, names: _Names) -> str:
    attributes = ""
    for key, value in element.attrib.items():
        if key == "id":
            if element.tag == f"{SVG}g":
                continue
            value = names.id(value)
        elif key in (LINK, "clip-path"):
            value = value if value.startswith("data:") else _REFERENCE.sub(lambda m: "#" + names.id(m[1]), value)
        elif key == "transform" and value.startswith("rotate(-0 "):
            continue
        if key not in (LINK, "id"):
            value = " ".join(_NUMBER.sub(lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."), value).split())
        if key == "d":
            value = re.sub(r" ?([A-Za-z]) ?", r"\1", value)
        elif key == "style":
            style = re.sub(r"\s*([:;])\s*", r"\1", _FONT.sub("", value)).strip(";")
            key, value = "class", names.style_class(style)
        attributes += f' {"href" if key == LINK else key}="{html.escape(value)}"'
    return attributes


def _join(parts: Iterable[_Part]) -> str:
    """Parts in order; neighbours of one mark in one group, with its title."""
    text, open_mark = "", None
    for part, mark in parts:
        if mark != open_mark:
            text += ("" if open_mark is None else "</g>") + ("" if mark is None else _group(mark))
            open_mark = mark
        text += part
    return text + ("" if open_mark is None else "</g>")


def _group(mark: Mark) -> str:
    pairs: Sequence[tuple[str, str]] = (("variant", mark.variant), ("condition", mark.condition))
    attributes = "".join(f' data-{key}="{html.escape(value)}"' for key, value in pairs if value) or " data-label"
    return f"<g{attributes}>" + (f"<title>{html.escape(mark.text, quote=False)}</title>" if mark.text else "")

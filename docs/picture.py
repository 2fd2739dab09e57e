"""The picture at the top of the README: heat map over frontier, from the figures that `scantling report` wrote.

    python docs/picture.py        # writes docs/overview.svg

Knows nothing about plans: it takes both drawings as they are.
"""

import re
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

DOCS: Final = Path(__file__).parent
FIGURES: Final = DOCS / "report" / "figures"
SVG: Final = "http://www.w3.org/2000/svg"
GAP: Final = 8
FRONTIER_SCALE: Final = 0.85


def drawing(name: str) -> ElementTree.Element:
    """One figure without the tooltips, which a picture in a README cannot show."""
    root = ElementTree.fromstring((FIGURES / name).read_text(encoding="utf-8"))  # noqa: S314 (our own file)
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag == f"{{{SVG}}}title" and parent is not root]:
            parent.remove(child)
        for attribute in [a for a in parent.attrib if a.startswith(("data-", "aria-")) or a in {"tabindex", "role"}]:
            del parent.attrib[attribute]
    return root


def size(root: ElementTree.Element) -> tuple[float, float]:
    """Width and height of a figure in its own units."""
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    return width, height


def overview() -> str:
    """Both figures as one SVG, the frontier centred below the heat map."""
    heat_map, frontier = drawing("allocation.svg"), drawing("frontier-bytes.svg")
    (width, top), (own_width, own_height) = size(heat_map), size(frontier)
    shown_width, shown_height = own_width * FRONTIER_SCALE, own_height * FRONTIER_SCALE
    height = top + GAP + shown_height
    frontier.attrib |= {
        "x": f"{(width - shown_width) / 2:g}",
        "y": f"{top + GAP:g}",
        "width": f"{shown_width:g}",
        "height": f"{shown_height:g}",
    }
    whole = ElementTree.Element(f"{{{SVG}}}svg", {"viewBox": f"0 0 {width:g} {height:g}"})
    ElementTree.SubElement(whole, f"{{{SVG}}}title").text = "Bits of every layer, and predicted loss against size"
    ElementTree.SubElement(whole, f"{{{SVG}}}rect", {"width": "100%", "height": "100%", "fill": "#ffffff"})
    whole.extend([heat_map, frontier])
    ElementTree.register_namespace("", SVG)
    return re.sub(r">\s+<", "><", ElementTree.tostring(whole, encoding="unicode")) + "\n"


if __name__ == "__main__":
    (DOCS / "overview.svg").write_text(overview(), encoding="utf-8")

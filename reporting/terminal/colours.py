"""The colours of widths: viridis, dark for wide; readable by colour-blind people, and every cell has its digit too.

Knows nothing about terminals or pages.
"""

_COLOURS = {
    2: ("#000000", "#fde725"),
    3: ("#000000", "#8fd744"),
    4: ("#000000", "#35b779"),
    5: ("#ffffff", "#21918c"),
    6: ("#ffffff", "#31688e"),
    8: ("#ffffff", "#443983"),
    16: ("#ffffff", "#440154"),
}


def bits_colours(bits: float) -> tuple[str, str]:
    """Ink and ground of a width, or of an average of widths: those of the nearest width that has colours.

    Returns:
        Two hexadecimal colours.

    >>> bits_colours(3)
    ('#000000', '#8fd744')
    """
    return _COLOURS[min(_COLOURS, key=lambda known: (abs(known - bits), known))]

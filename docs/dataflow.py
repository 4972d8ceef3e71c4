"""Draws docs/dataflow.svg: python docs/dataflow.py."""

from pathlib import Path

WIDTH, HEIGHT = 840, 330
BOX = (130, 58)
STORED, RECOVERED, COMPUTED, HOST = "#dbeafe", "#dcfce7", "#fef3c7", "#f1f5f9"

BOXES = {
    "sequencer": (20, 22, HOST, "sequencer", "program, addresses"),
    "memory": (20, 136, STORED, "coefficient memory", "packed B, U, V"),
    "decoder": (190, 136, RECOVERED, "decoder", "1 to 8 bits"),
    "generator": (360, 136, RECOVERED, "weight generator", "W1 = U · B"),
    "array": (530, 136, COMPUTED, "MAC array", "lanes × width"),
    "requantiser": (700, 136, COMPUTED, "requantiser", "round, clamp"),
    "tile": (615, 22, RECOVERED, "weight tile", "W = V · W1"),
    "basis": (275, 250, RECOVERED, "basis buffer", "B of these lanes"),
    "activations": (615, 250, STORED, "activation buffer", "feature maps"),
    "host": (20, 250, HOST, "host port", "Wishbone, UART"),
}
"""Left, top, colour, name and what is in it."""

ARROWS = (
    # Points, label, where the label begins.
    ([(85, 250), (85, 194)], "image", (91, 226)),
    ([(150, 165), (190, 165)], "", (0, 0)),
    ([(320, 165), (360, 165)], "U", (334, 159)),
    ([(255, 194), (255, 279), (275, 279)], "B", (240, 240)),
    ([(405, 279), (425, 279), (425, 194)], "", (0, 0)),
    ([(255, 136), (255, 108), (560, 108), (560, 136)], "V, or stored W", (360, 102)),
    ([(490, 165), (530, 165)], "W1", (500, 159)),
    ([(660, 165), (700, 165)], "sums", (665, 159)),
    ([(765, 136), (765, 51), (745, 51)], "cross level", (755, 40)),
    ([(635, 80), (635, 136)], "W", (641, 112)),
    ([(765, 194), (765, 279), (745, 279)], "next map", (771, 240)),
    ([(615, 279), (595, 279), (595, 194)], "activations", (528, 240)),
)

LEGEND = (
    (STORED, "stored"),
    (RECOVERED, "weights, recovered on chip"),
    (COMPUTED, "arithmetic"),
)


STYLE = """\
<style>
.name { font-size: 12px; font-weight: 600; text-anchor: middle; fill: #0f172a }
.inside { font-size: 11.5px; text-anchor: middle; fill: #334155 }
.flow { font-size: 12px; fill: #334155 }
polyline { fill: none; stroke: #475569; stroke-width: 1.5 }
</style>"""

HEAD = """\
<defs>
<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8"
orient="auto">
<path d="M0,0 L8,4 L0,8 z" fill="#475569"/>
</marker>
</defs>"""
"""Of an arrow."""


def box(left: int, top: int, colour: str, name: str, inside: str) -> str:
    """A block."""
    width, height = BOX
    middle = left + width // 2
    return (
        f'<rect x="{left}" y="{top}" width="{width}" height="{height}" rx="6" fill="{colour}" '
        f'stroke="#475569"/>'
        f'<text x="{middle}" y="{top + 25}" class="name">{name}</text>'
        f'<text x="{middle}" y="{top + 44}" class="inside">{inside}</text>'
    )


def arrow(points: list[tuple[int, int]], label: str, at: tuple[int, int]) -> str:
    """A path of what flows."""
    path = " ".join(f"{x},{y}" for x, y in points)
    line = f'<polyline points="{path}" marker-end="url(#head)"/>'
    return line + (f'<text x="{at[0]}" y="{at[1]}" class="flow">{label}</text>' if label else "")


def drawing() -> str:
    """The whole picture."""
    legend, left = [], 200
    for colour, text in LEGEND:
        legend.append(
            f'<rect x="{left}" y="44" width="14" height="14" rx="3" fill="{colour}" '
            f'stroke="#475569"/><text x="{left + 20}" y="55" class="flow">{text}</text>'
        )
        left += 40 + 6 * len(text)
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">',
        STYLE,
        HEAD,
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        *legend,
        *(arrow(*values) for values in ARROWS),
        *(box(*values) for values in BOXES.values()),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(drawing(), encoding="utf-8")

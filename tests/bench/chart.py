"""A line chart as SVG: labelled places along both axes, and one curve for each name."""

from collections.abc import Mapping, Sequence

WIDTH, HEIGHT, MARGIN = 640, 400, 60
COLOURS = ("#1f77b4", "#d62728")


def chart(
    columns: Mapping[str, float],
    rows: Mapping[str, float],
    curves: Mapping[str, Sequence[tuple[float, float]]],
    caption: str,
) -> str:
    """Draw at most two ``curves``; places are shares of the axes, from the left and from the bottom."""

    def x(share: float) -> float:
        return MARGIN + share * (WIDTH - 2 * MARGIN)

    def y(share: float) -> float:
        return HEIGHT - MARGIN - share * (HEIGHT - 2 * MARGIN)

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif">']
    for label, share in columns.items():
        parts.append(f'<text x="{x(share):.0f}" y="{HEIGHT - MARGIN + 20}" text-anchor="middle">{label}</text>')
    for label, share in rows.items():
        at = f"{y(share):.0f}"
        parts.append(f'<text x="{MARGIN - 8}" y="{at}" text-anchor="end">{label}</text>')
        parts.append(f'<line x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{at}" y2="{at}" stroke="#ddd"/>')
    for (name, places), colour in zip(curves.items(), COLOURS, strict=False):
        points = " ".join(f"{x(across):.1f},{y(up):.1f}" for across, up in places)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{WIDTH - MARGIN + 6}" y="{y(places[-1][1]):.0f}" fill="{colour}">{name}</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 10}" text-anchor="middle">{caption}</text></svg>')
    return "\n".join(parts) + "\n"

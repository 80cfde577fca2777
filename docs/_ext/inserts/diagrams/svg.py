"""The few shapes that diagrams are made of. Lengths are pixels; y grows downwards."""

from __future__ import annotations

from html import escape


def text(x: float, y: float, words: str, anchor: str = "middle", kind: str = "words") -> str:
    """One line of text, whose middle height is y."""
    name = f' class="{kind}"' if kind else ""
    return (
        f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" dominant-baseline="middle"{name}>{escape(words)}</text>'
    )


def box(x: float, y: float, width: float, height: float, lines: list[str], href: str, hint: str) -> str:
    """A box with lines of text that leads somewhere; hint: what a pointer over it shows."""
    step = height / (len(lines) + 1)
    words = "".join(text(x + width / 2, y + step * (n + 1), line) for n, line in enumerate(lines))
    frame = f'<rect class="box" x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{height:.0f}" rx="4"/>'
    return f'<a href="{escape(href)}"><title>{escape(hint)}</title>{frame}{words}</a>'


def arrow(points: str, end: tuple[float, float], way: tuple[int, int], width: float = 1) -> str:
    """A path (SVG's own letters) with a head at `end` that points along `way`, a unit step."""
    (x, y), (dx, dy) = end, way
    back_x, back_y = x - 8 * dx, y - 8 * dy
    corners = f"{x:.0f},{y:.0f} {back_x - 4 * dy:.0f},{back_y - 4 * dx:.0f} {back_x + 4 * dy:.0f},{back_y + 4 * dx:.0f}"
    return f'<path class="edge" d="{points}" stroke-width="{width:.1f}"/><polygon class="head" points="{corners}"/>'


def document(width: float, height: float, title: str, parts: list[str]) -> str:
    """The whole drawing. title: what it shows, for who cannot see it."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img"'
    return "\n".join([f'{head} width="{width:.0f}" aria-label="{escape(title)}">', *parts, "</svg>"])

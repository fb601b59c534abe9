"""Charts of a report as SVG, by matplotlib: text to be put into a page, which loads nothing."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError

if TYPE_CHECKING:
    from .summary import Course

#: Told apart in print and by most who see colours differently.
BLUE, ORANGE, GREY, INK = "#2f6db5", "#d1711f", "#8a8f98", "#2b2f36"
WIDTH, HEIGHT = 6.4, 2.7
#: Courses in a chart that have a name each; of more the names would hide the lines.
FEW = 6

Bucket = tuple[int, int, int]


def require() -> None:
    """Raises ConfigError where matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"infer report draws with matplotlib, which cannot be imported ({error}); pip install 'infer-jsonl[report]'"
        ) from None


def lengths(buckets: Sequence[Bucket], color: str) -> str:
    """Bars of numbers in classes that double: 1, 2-3, 4-7 and so on."""
    figure, axes = _axes()
    names = [f"{low:,}" if low == high else f"{low:,}-{high:,}" for low, high, _ in buckets]
    bars = axes.bar(range(len(buckets)), [count for *_, count in buckets], color=color, width=0.86)
    axes.bar_label(bars, [f"{count:,}" if count else "" for *_, count in buckets], fontsize=7, color=INK, padding=1)
    axes.set_xticks(range(len(buckets)), names, rotation=0 if len(buckets) < 8 else 35, ha="center" if len(buckets) < 8 else "right")
    axes.set_xlabel("tokens")
    axes.set_ylabel("records")
    axes.margins(y=0.12)
    return _svg(figure)


def shares(counts: Sequence[tuple[str, int]], color: str) -> str:
    """A bar for each name, the largest on top."""
    figure, axes = _axes(height=0.7 + 0.32 * len(counts))
    total = sum(count for _, count in counts)
    bars = axes.barh(range(len(counts)), [count for _, count in counts], color=color, height=0.66)
    axes.bar_label(bars, [f"{count:,} ({count / total:.1%})" for _, count in counts], fontsize=8, color=INK, padding=3)
    axes.set_yticks(range(len(counts)), [_short(name) for name, _ in counts])
    axes.invert_yaxis()
    axes.margins(x=0.22)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.grid(visible=False)
    return _svg(figure)


def course(courses: Sequence[Course], fields: Sequence[tuple[str, str, str]], unit: str, *, share: bool = False) -> str:
    """Lines over the time of a run.

    Args:
        fields: (field of the trace, what it is, colour) of each line. Of more than FEW courses no line is named.
        share: the values are shares of 1.
    """
    figure, axes = _axes()
    lines = [(one, *field) for one in courses for field in fields if field[0] in one.values]
    many = len(courses) > FEW
    named: set[str] = set()
    for i, (one, field, what, color) in enumerate(lines):
        values = one.values[field]
        style: dict[str, Any] = {"color": color, "label": what}
        if many:  # too many to be told apart: what counts is where all of them are, and which one is elsewhere
            style = {"color": color, "label": None if what in named else f"{what}, a line for each of {len(courses):,} runs", "alpha": 0.3}
            named.add(what)
        elif len(courses) > 1:
            style = {"label": f"{one.name}: {what}", "alpha": 0.85, "linestyle": ("-", "--", ":")[i % len(fields) % 3]}
        axes.plot(one.seconds, values, linewidth=0.8 if many else 1.4, marker="o" if len(values) < 3 else None, markersize=3, **style)
    axes.set_xlabel("seconds since the first line of the trace")
    axes.set_ylabel(unit)
    axes.set_ylim(bottom=0)
    if share:
        most = max((value for one, field, *_ in lines for value in one.values[field]), default=0.0)
        axes.set_ylim(0, min(1.02, max(0.05, 1.2 * most)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    if len(lines) > 1:
        rows = -(-len(axes.get_legend_handles_labels()[1]) // (1 if many else 3))
        figure.set_figheight(HEIGHT + 0.16 * max(0, rows - 2))
        place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1.0), "borderaxespad": 0.2}
        legend = axes.legend(fontsize=7, frameon=False, ncols=1 if many else min(len(lines), 3), **place)
        for handle in legend.get_lines():
            handle.set_alpha(1)
    return _svg(figure)


def _axes(*, height: float = HEIGHT) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GREY)
    axes.tick_params(labelsize=8, colors=INK, length=3)
    axes.xaxis.label.set(fontsize=8, color=INK)
    axes.yaxis.label.set(fontsize=8, color=INK)
    axes.grid(axis="y", color="#e4e6ea", linewidth=0.7)
    axes.set_axisbelow(True)
    return figure, axes


def _svg(figure: Any) -> str:
    """The element alone, the same for the same figure. Letters are the page's own, not paths."""
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "infer", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)


def _short(name: str) -> str:
    return name if len(name) <= 40 else name[:39] + "…"

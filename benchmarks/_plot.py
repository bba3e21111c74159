"""Bars of what a benchmark measured."""

from typing import Any

from _rows import OURS, Rows


def draw(path: str, tables: dict[str, Rows], title: str, base: str = OURS) -> None:
    """One panel a table: horizontal bars of milliseconds, and how many times ours each is."""
    from matplotlib.figure import Figure

    shown = {
        name: sorted(
            (
                (row["median_ms"], label)
                for label, row in rows.items()
                if "median_ms" in row and "gflop_per_s" not in row
            ),
            reverse=True,
        )
        for name, rows in tables.items()
    }
    shown = {name: bars for name, bars in shown.items() if bars}
    if not shown:
        print(f"\nNothing was timed, so there is nothing to draw in {path}")
        return
    counts = [len(bars) for bars in shown.values()]
    figure = Figure(figsize=(9.5, 1.0 + sum(0.32 * n + 0.9 for n in counts)), layout="constrained")
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    panels: Any = figure.subplots(
        len(shown), 1, squeeze=False, gridspec_kw={"height_ratios": [n + 1 for n in counts]}
    )
    for axes, (name, bars) in zip(panels[:, 0], shown.items()):
        times, labels = [bar[0] for bar in bars], [bar[1] for bar in bars]
        first = next((label for label in tables[name] if label in labels), None)
        ours = times[labels.index(first)] if first and first.startswith(base) else None
        colours = [_colour(label, base) for label in labels]
        axes.barh(labels, times, color=colours, height=0.72, log=True)
        for i, ms in enumerate(times):
            ratio = f"{ms / ours:.2f}x   " if ours else ""
            axes.annotate(
                ratio + (f"{ms:,.0f} ms" if ms >= 100 else f"{ms:.3g} ms"),
                (ms, i),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
        axes.set_xlim(min(times) / 2, max(times) * 6)
        axes.set_title(name, fontsize=9, loc="left")
        than = f"; ratios to {first}" if ours else ""
        axes.set_xlabel(f"median milliseconds of later calls, log scale{than}")
        axes.tick_params(labelsize=8)
        axes.xaxis.label.set_size(8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=160)


def draw_curves(path: str, curves: dict[str, dict[str, Any]], title: str) -> None:
    """What `_scaling.measure` found: a panel each, time over size in log-log axes."""
    from matplotlib.figure import Figure

    width = 3.4 * len(curves)
    figure = Figure(figsize=(width, 3.2), layout="constrained")
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    panels: Any = figure.subplots(1, len(curves), squeeze=False)
    for axes, (name, curve) in zip(panels[0], curves.items()):
        timed = [(n, row["median_ms"]) for n, row in curve["rows"].items() if "median_ms" in row]
        if timed:
            axes.loglog(*zip(*timed), "o-", color="#c8451b", markersize=4)
            axes.set_xticks([n for n, _ in timed], [f"{n:,}" for n, _ in timed], rotation=45)
            axes.margins(y=0.15)
        for size, ms in timed:
            axes.annotate(
                f"{ms:.3g}",
                (size, ms),
                xytext=(0, 5),
                textcoords="offset points",
                ha="right",
                fontsize=7,
            )
        axes.minorticks_off()
        axes.set_title(name, fontsize=9, loc="left")
        slope = f"; slope {curve['slope']:.2f} at the end" if "slope" in curve else ""
        axes.set_ylabel(f"median milliseconds{slope}", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=160)


def _colour(label: str, base: str) -> str:
    if label.startswith(base):
        return "#c8451b"
    return "#e3a184" if "dynlm" in label or "CounterBrownianPath" in label else "#8796a5"

"""Errors of parameters over the size of the data, in log-log axes."""

from typing import Any

import numpy as np

COLOURS = ("#c8451b", "#2f6690", "#5b8c5a", "#7d5ba6")


def draw(path: str, tables: dict[str, dict[str, Any]]) -> None:
    """A line for each process, with a dotted one that falls as the root of the size."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4.6), layout="constrained")
    axes: Any = figure.subplots()
    for colour, (name, table) in zip(COLOURS, tables.items()):
        sizes, rows = np.asarray(table["sizes"], float), table["errors"]
        middle = np.asarray([row["overall"] for row in rows])
        low, high = np.asarray([row["middle_half"] for row in rows]).T
        label = f"{name} ({table['sets']} data sets): slope {table['slope']['value']:.2f}"
        axes.loglog(sizes, middle, "o-", color=colour, label=label, markersize=4)
        axes.fill_between(sizes, low, high, color=colour, alpha=0.15, linewidth=0)
        # Through the middle of the line, so that neither end is favoured.
        height = np.exp(np.mean(np.log(middle) + 0.5 * np.log(sizes)))
        axes.loglog(sizes, height / np.sqrt(sizes), ":", color=colour, linewidth=1)
    axes.set_xlabel("transitions", fontsize=9)
    axes.set_ylabel("relative error of the parameters", fontsize=9)
    title = "root mean square over data sets; shaded: the middle half; dotted: slope -1/2"
    axes.set_title(title, fontsize=9, loc="left")
    axes.legend(fontsize=8, frameon=False)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=160)

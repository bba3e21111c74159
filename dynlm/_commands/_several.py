"""Several stores side by side, as numbers and as a table."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .._io import readable
from ..store._inspect import summary
from ..store._reader import Store
from ..store._revisions import folder_name


def overview(folder: Path, names: list[str], stores: Mapping[str, Store]) -> dict[str, Any]:
    """The summary of each, None for those that are not there, and whether their rows agree."""
    return {
        "folder": str(folder),
        "complete": all(name in stores and stores[name].complete for name in names),
        "equal_lengths": equal_lengths(stores),
        "revisions": {name: summary(stores[name]) if name in stores else None for name in names},
    }


def equal_lengths(stores: Mapping[str, Store]) -> bool:
    """Whether row i has as many states in each of them."""
    first, *rest = stores.values()
    return all(
        np.array_equal(first.rows, one.rows) and np.array_equal(first.lengths, one.lengths)
        for one in rest
    )


def several_table(found: dict[str, Any]) -> str:
    """An `overview` as a person reads it."""
    names = list(found["revisions"])
    wide = min(max(map(len, [*names, "revision"])), 40)
    lines = [f"{found['folder']}: {len(names)} revisions", ""]
    heads = f"{'rows':>9}{'tokens':>12}{'log-prob.':>11}{'perplexity':>12}{'size':>10}"
    lines.append(f"  {'revision':<{wide}}{heads}")
    for name, one in found["revisions"].items():
        short = name if len(name) <= wide else name[: wide - 3] + "..."
        lines.append(f"  {short:<{wide}}" + (_row(one) if one else "  not there yet"))
    alike = "as many" if found["equal_lengths"] else "NOT as many"
    example = Path(found["folder"]) / folder_name(names[0])
    lines += ["", f"  A row has {alike} states in each of them."]
    if not found["complete"]:
        lines.append("  Run the command that makes them again: it makes the rest.")
    lines.append(f"  One in full: dynlm inspect {example}")
    lines.append(f"  In Python: dynlm.store.open_revisions({found['folder']!r})")
    return "\n".join(lines)


def _row(one: dict[str, Any]) -> str:
    shards = one["shards"]
    state = "" if one["complete"] else f"  incomplete, {shards['there']} of {shards['planned']}"
    mean, perplexity = (None,) * 2 if one["logprob"] is None else _scores(one["logprob"])
    tokens = "-" if one["tokens"] is None else f"{one['tokens']:,}"
    return (
        f"{one['rows']['there']:>9,}{tokens:>12}{mean or '-':>11}{perplexity or '-':>12}"
        f"{readable(one['bytes']):>10}{state}"
    )


def _scores(logprob: dict[str, Any]) -> tuple[str | None, ...]:
    found = (logprob["mean"], logprob["perplexity"])
    return tuple(None if x is None else f"{x:.4g}" for x in found)

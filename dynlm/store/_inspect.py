"""What a store holds, as numbers and as a table."""

import math
from typing import Any

import numpy as np
from jaxtyping import Float64

from .._fields import brief
from .._io import BadArgument, counted, readable
from ._format import Name, Record
from ._reader import Store
from ._shard import Shard
from ._split import split_docs

SAMPLE = 2000  # states of a layer whose sizes are looked at
MARKS = {"min": 0.0, "5 %": 0.05, "median": 0.5, "mean": None, "95 %": 0.95, "max": 1.0}
WIDE = 96  # columns of a table


def summary(store: Store) -> dict[str, Any]:
    """What a store holds, ready for JSON.

    The sizes of states are those of up to 2000 that are spread evenly over the store. The mean
    log-probability is over the tokens that follow the prompts, where any do, the first of each row
    left out if nothing stands before it.
    """
    manifest = store.manifest
    config = manifest.config
    lengths = store.lengths
    states = int(lengths.sum())
    item = store.dtype.itemsize
    sizes = _sizes(store)
    return {
        "folder": str(store.folder),
        "complete": store.complete,
        "shards": {"there": len(manifest.shards) - len(store.damaged), "planned": manifest.count},
        "damaged": dict(store.damaged),
        "model": config.get("model"),
        "sampling": config.get("sampling"),
        "import": config.get("import"),
        "documents": {"there": len(np.unique(store.docs)), "planned": manifest.documents},
        "rows": {"there": len(store), "planned": manifest.rows},
        "tokens": _tokens(store),
        "states": states,
        "bytes": sum(path.stat().st_size for path in store.folder.rglob("*") if path.is_file()),
        "dtype": manifest.dtype,
        "stride": manifest.stride,
        "top": manifest.top,
        "lengths": _spread(lengths),
        "layers": [
            {"name": name, "dim": dim, "bytes": states * dim * item} | sizes[name]
            for name, dim in store.dims.items()
        ],
        "columns": {name: _extent(store.column(name)) for name in store.columns},
        "split": manifest.split,
        "splits": _splits(store),
        "logprob": _logprob(store),
    }


def table(found: dict[str, Any]) -> str:
    """A `summary` as a person reads it."""
    lines = [*_state(found), ""]
    for label, text in _facts(found):
        lines.append(f"  {label:<12}{brief(text, WIDE - 14)}")
    lines += ["", *_grid(["layer", "dim", "size", "mean norm", "RMS"], _layer_rows(found))]
    if found["columns"]:
        rows = [
            [name, *(_short(one[k]) for k in ("min", "mean", "max"))]
            for name, one in found["columns"].items()
        ]
        lines += ["", *_grid(["of each row", "min", "mean", "max"], rows)]
    if found["splits"]:
        rows = [
            [name, *(f"{one[k]:,}" for k in ("documents", "rows", "states"))]
            for name, one in found["splits"].items()
        ]
        lines += ["", *_grid(["split", "documents", "rows", "states"], rows)]
    else:
        there = counted(found["documents"]["planned"], "document")
        needed = sum(share > 0 for share in found["split"]["shares"].values())
        lines += ["", f"  {there}; {needed} are needed to split them as the store says."]
    return "\n".join(lines)


# The numbers


def _tokens(store: Store) -> int | None:
    if "tokens" not in store.manifest.fields:
        return None
    return sum(one.steps for one in _there(store))


def _there(store: Store) -> list[Record]:
    """The shards that can be read."""
    return [one for one in store.manifest.shards if one.file not in store.damaged]


def _spread(lengths: np.ndarray) -> dict[str, float] | None:
    """Quantiles and mean of how many states rows have."""
    if not lengths.size:
        return None
    return {
        name: float(lengths.mean()) if q is None else float(np.quantile(lengths, q))
        for name, q in MARKS.items()
    }


def _extent(values: np.ndarray) -> dict[str, float | None]:
    if not values.size:
        return dict.fromkeys(("min", "mean", "max"))
    found = {"min": values.min(), "mean": values.mean(), "max": values.max()}
    return {name: _number(x) for name, x in found.items()}


def _sizes(store: Store) -> dict[Name, dict[str, float | None]]:
    """By layer the mean norm of the sampled states, and the root mean square of their entries."""
    ends = np.cumsum(store.lengths)
    total = int(ends[-1]) if ends.size else 0
    if not total:
        return {name: {"mean_norm": None, "rms": None} for name in store.layers}
    picked = np.unique(np.linspace(0, total - 1, min(SAMPLE, total)).astype(np.int64))
    rows = np.searchsorted(ends, picked, side="right")
    places = (picked - (ends - store.lengths)[rows]).tolist()
    at = list(zip(rows.tolist(), places))
    out: dict[Name, dict[str, float | None]] = {}
    for name in store.layers:
        x = np.stack([store.states(row, name)[place] for row, place in at]).astype(np.float64)
        # Large ones are divided before they are squared: float64 series may come near its limit.
        scale = float(np.abs(x).max()) or 1.0
        squares: Float64[np.ndarray, " state"] = np.square(x / scale).sum(axis=1)
        out[name] = {
            "mean_norm": _number(scale * np.sqrt(squares).mean()),
            "rms": _number(scale * math.sqrt(squares.mean() / x.shape[1])),
        }
    return out


def _splits(store: Store) -> dict[str, dict[str, int]] | None:
    """How much of the store is in each split; None where there are fewer documents than splits."""
    split, docs, lengths = store.manifest.split, store.docs, store.lengths
    try:
        parts = split_docs(np.arange(store.manifest.documents), split["shares"], split["seed"])
    except BadArgument:
        return None
    out = {}
    for name, of in parts.items():
        mine = np.isin(docs, of)
        out[name] = {
            "documents": len(np.unique(docs[mine])),
            "rows": int(mine.sum()),
            "states": int(lengths[mine].sum()),
        }
    return out


def _logprob(store: Store) -> dict[str, float | int | None] | None:
    """Mean log-probability of the tokens after the prompts, and its perplexity."""
    total, count, after = 0.0, 0, False
    for record in _there(store):
        shard = Shard(store.folder / record.file)
        if "logprobs" not in shard:
            return None
        x, offsets = shard["logprobs"], shard.offsets
        place = np.arange(len(x)) - np.repeat(offsets[:-1], np.diff(offsets))
        kept = (place >= np.repeat(shard["prompts"], np.diff(offsets))) & ~np.isnan(x)
        total += float(x[kept].sum(dtype=np.float64))
        count += int(kept.sum())
        after |= bool(np.any(shard["prompts"] > 0))
    if not count:
        return None
    mean = total / count
    perplexity = math.exp(-mean) if -mean < 700 else math.inf
    found = {"mean": _number(mean), "perplexity": _number(perplexity)}
    return found | {"tokens": count, "after_prompts": after}


def _number(x: Any) -> float | None:
    """What JSON can hold."""
    return float(x) if math.isfinite(x) else None


# The table


def _state(found: dict[str, Any]) -> list[str]:
    shards, size = found["shards"], readable(found["bytes"])
    if found["complete"]:
        return [f"{found['folder']}: {counted(shards['planned'], 'shard')}, {size}, complete"]
    lines = [
        f"{found['folder']}: INCOMPLETE, {shards['there']} of "
        f"{counted(shards['planned'], 'shard')}, {size}",
        *(f"  {why}" for why in found["damaged"].values()),
        "  What is there can be read, and is what follows. Run the command that made it again: it",
        "  makes the rest.",
    ]
    return lines


def _facts(found: dict[str, Any]) -> list[tuple[str, str]]:
    """One line each."""
    facts: list[tuple[str, str]] = []
    if found["model"]:
        revision = found["model"].get("revision")
        at = f" at {revision}" if revision else ""
        sha = found["model"].get("sha256")
        short = f", weights {sha[:12]}" if sha else ""
        facts.append(("model", f"{found['model'].get('name')}{at}{short}"))
    if found["import"]:
        facts.append(("imported", f"contents {found['import']['sha256'][:12]}"))
    if found["sampling"]:
        facts.append(("sampled", _sampled(found["sampling"])))
    for name in ("documents", "rows"):
        there, planned = found[name]["there"], found[name]["planned"]
        facts.append((name, f"{there:,}" + (f" of {planned:,}" if there != planned else "")))
    if found["tokens"] is not None:
        top = f", the {found['top']} likeliest beside each" if found["top"] else ""
        facts.append(("tokens", f"{found['tokens']:,}{top}"))
    every = "" if found["stride"] == 1 else f", one of {found['stride']} tokens"
    facts.append(("states", f"{found['states']:,} a layer, {found['dtype']}{every}"))
    if found["lengths"]:
        marks = "  ".join(f"{name} {_amount(x)}" for name, x in found["lengths"].items())
        facts.append(("states/row", marks))
    if (one := found["logprob"]) is not None:
        after = " after the prompts" if one["after_prompts"] else ""
        facts.append(
            (
                "log-prob.",
                f"{_short(one['mean'])} a token, perplexity {_short(one['perplexity'])}, over "
                f"{counted(one['tokens'], 'token')}{after}",
            )
        )
    return facts


def _sampled(sampling: dict[str, Any]) -> str:
    """The settings that were used, as they are called."""
    names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
    grid = sampling.get("grid", {})
    used = [f"{k} {_listed(grid[k])}" for k in names if grid.get(k) is not None]
    many = counted(sampling["samples"], "sample")
    return f"{many} of at most {counted(sampling['budget'], 'token')}; {', '.join(used)}"


def _listed(value: Any) -> str:
    return " ".join(f"{x:g}" for x in (value if isinstance(value, list) else [value]))


def _layer_rows(found: dict[str, Any]) -> list[list[str]]:
    return [
        [
            str(one["name"]),
            f"{one['dim']:,}",
            readable(one["bytes"]),
            _short(one["mean_norm"]),
            _short(one["rms"]),
        ]
        for one in found["layers"]
    ]


def _grid(head: list[str], rows: list[list[str]]) -> list[str]:
    """Rows under their heads, the first column to the left and the others to the right."""
    rows = [[brief(cell, 40) for cell in row] for row in rows]
    widths = [max(map(len, cells)) for cells in zip(head, *rows)]
    widths[0] = max(widths[0], 12)
    return [
        "  " + row[0].ljust(widths[0]) + "".join(f"  {x:>{n}}" for x, n in zip(row[1:], widths[1:]))
        for row in [head, *rows]
    ]


def _amount(x: float) -> str:
    """Four digits, or all before the point where there are more."""
    return f"{x:,.4g}" if x < 1000 else f"{x:,.0f}"


def _short(x: float | None) -> str:
    return "-" if x is None else f"{x:.4g}"

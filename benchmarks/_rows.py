"""Rows of a benchmark: timed in turns, shown as a table, held against targets."""

import fnmatch
import importlib
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

OURS = "dynlm.rollout"
BURST = 0.01  # seconds; a shorter call is timed as the mean of several
ACCURATE = 5.0  # standard errors that a row may be off and still reach a target
REST = 0.03  # seconds before a call, in which the threads of the row before stop spinning
Rows = dict[str, dict[str, Any]]


class Run(NamedTuple):
    """Something to time. `call()` blocks and returns what it computed."""

    call: Callable[[], Any]
    memory: Callable[[], int | None] = lambda: None
    where: str = "cpu"


Build = Callable[[], Run] | str  # makes a row's `Run`; or says why there is none


class Target(NamedTuple):
    """That `ours` is so many times as fast as `peer`, or reaches a share of the roofline.

    Several peers: the fastest of them counts.
    """

    table: str
    peer: str | tuple[str, ...]
    at_least: float
    ours: str = OURS


def jitted(f: Callable, *args: Any) -> Build:
    """A row that compiles `f(*args)` in its first call."""

    def build() -> Run:
        compiled = jax.jit(f).lower(*args).compile()
        call = lambda: jax.block_until_ready(compiled(*args))  # noqa: E731
        return Run(call, lambda: bytes_of(compiled), jax.default_backend())

    return build


def direct(f: Callable, *args: Any) -> Build:
    """A row that is called as a user calls it, with no `jit` around it."""
    return lambda: Run(
        lambda: jax.block_until_ready(f(*args)),
        lambda: bytes_of(jax.jit(f).lower(*args).compile()),
        jax.default_backend(),
    )


def missing(*modules: str) -> str | None:
    """Which of `modules` is not installed, as a sentence."""
    for name in modules:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            return f"not installed: {name}"
    return None


def selected(builds: dict[str, Build], patterns: list[str]) -> dict[str, Build]:
    """The rows whose name fits one of the patterns."""
    return {
        name: build
        for name, build in builds.items()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    }


def compare(
    builds: dict[str, Build],
    check: Callable[[str, Any], dict[str, Any]],
    *,
    repeat: int,
    limit: float,
) -> Rows:
    """First call and later calls of each row, in turns; a failure is a row like any other.

    Args:
        check: `(name, result) -> dict`, what to remember of a row's first result.
        limit: seconds of later calls after which a row is called no more.
    """
    rows: Rows = {}
    live: dict[str, tuple[Run, int]] = {}
    for name, build in builds.items():
        if isinstance(build, str):
            rows[name] = {"not_run": build}
            continue
        try:
            start = time.perf_counter()
            run = build()
            out = run.call()
            first = time.perf_counter() - start
            live[name] = run, max(1, math.ceil(BURST / max(_seconds(run, 1), 1e-6)))
        except Exception as error:
            rows[name] = {"failed": _sentence(error)}
            continue
        rows[name] = {"where": run.where, "first_ms": 1e3 * first, "later_ms": []}
        if (peak := _device_peak()) is not None:
            rows[name]["device_peak_bytes_so_far"] = peak
        rows[name] |= check(name, out)
        del out
    for turn in range(repeat):
        names = list(live)
        names = names[turn % max(1, len(names)) :] + names[: turn % max(1, len(names))]
        for name in names:
            row, (run, number) = rows[name], live[name]
            if row["later_ms"] and sum(row["later_ms"]) * number > 1e3 * limit:
                continue
            time.sleep(REST)
            try:
                row["later_ms"].append(1e3 * _seconds(run, number))
            except Exception as error:
                rows[name] = {"failed": f"in a later call: {_sentence(error)}"}
                del live[name]
    for name, (run, _) in live.items():
        row = rows[name]
        row["median_ms"] = float(np.median(row["later_ms"]))
        row["min_ms"] = float(np.min(row["later_ms"]))
        row["memory_bytes"] = run.memory()
    return rows


def _seconds(run: Run, number: int) -> float:
    start = time.perf_counter()
    for _ in range(number):
        run.call()
    return (time.perf_counter() - start) / number


def _sentence(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:160]}"


def bytes_of(compiled: Any) -> int | None:
    """Bytes of temporaries and results of a compiled program."""
    stats = compiled.memory_analysis()
    if stats is None:
        return None
    return int(stats.temp_size_in_bytes + stats.output_size_in_bytes)


def _device_peak() -> int | None:
    stats = jax.local_devices()[0].memory_stats()
    return None if stats is None else stats.get("peak_bytes_in_use")


def show(title: str, rows: Rows, ours: str = OURS) -> None:
    """The table of `rows`, each beside `ours`."""
    base = rows.get(ours, {}).get("median_ms")
    print(f"\n{title}")
    print(f"  {'':48s} {'first':>9s} {'later':>11s} {'ratio':>9s} {'memory':>10s}  on")
    for name, row in rows.items():
        why = row.get("not_run") or (f"failed: {row['failed']}" if "failed" in row else None)
        if why:
            print(f"  {name:48s} {why}")
            continue
        ratio = f"{row['median_ms'] / base:8.2f}x" if base else ""
        memory = row["memory_bytes"]
        memory = "n/a" if memory is None else f"{memory / 2**20:.1f} MiB"
        times = f"{row['first_ms']:6.0f} ms {row['median_ms']:8.2f} ms"
        print(
            f"  {name:48s} {times} {ratio:>9s} {memory:>10s}  {row['where']}  {row.get('note', '')}"
        )


def judge(targets: tuple[Target, ...], tables: dict[str, Rows], comparable: bool) -> list[dict]:
    """Says of each target that was measured whether it is reached.

    Args:
        comparable: whether the sizes are those that the targets are for.
    """
    print("\nTargets" + ("" if comparable else " (for other sizes than these)"))
    found = []
    for target in targets:
        rows = tables.get(target.table)
        if rows is None:
            continue
        ours = rows.get(target.ours, {})
        measured, low, high, peer = None, None, None, target.peer
        if peer == "roofline":
            measured = ours.get("roofline_share")
            wanted, form = f"{100 * target.at_least:.0f} % of the roofline", "{:.0%}"
        else:
            peers = [peer] if isinstance(peer, str) else peer
            timed = [name for name in peers if "median_ms" in rows.get(name, {})]
            peer = min(timed, key=lambda name: rows[name]["median_ms"], default=peers[0])
            wanted, form = f"{target.at_least:g}x {peer}", "{:.2f}x"
            if timed and "median_ms" in ours:
                measured = rows[peer]["median_ms"] / ours["median_ms"]
                turns = [a / b for a, b in zip(rows[peer]["later_ms"], ours["later_ms"])]
                low, high = min(turns), max(turns)
        worst = max((abs(v) for k, v in ours.items() if k.endswith("standard_errors")), default=0)
        wrong = worst > ACCURATE
        reached = None if measured is None else bool(measured >= target.at_least and not wrong)
        verdict = "not measured"
        if measured is not None:
            spread = "" if low is None else f" (in single turns {low:.2f} to {high:.2f})"
            said = "yes" if reached else "no, it is inaccurate" if wrong else "no"
            verdict = f"measured {form.format(measured)}{spread} - {said}"
        print(f"  {target.table}: {target.ours} at least {wanted}: {verdict}")
        found.append(
            {
                "table": target.table,
                "ours": target.ours,
                "peer": peer,
                "at_least": target.at_least,
                "measured": measured,
                "lowest_turn": low,
                "highest_turn": high,
                "reached": reached,
                "comparable": comparable,
            }
        )
    return found

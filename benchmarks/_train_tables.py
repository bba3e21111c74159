"""The tables of `train.py`: what its rows are, and what is remembered of each."""

import functools
import importlib
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from _common import dtype_of
from _rows import Build, Rows, compare, missing, selected
from _scaling import measure
from _train_cases import (
    GRADIENT,
    LOSS,
    OURS,
    Case,
    chunk_of_fit,
    parts_of_a_step,
    through_paths,
    transitions,
)
from _train_peers import (
    OWN_PRODUCTS,
    SAME_NOISE,
    likelihood_in_numpy,
    path_peers,
    products,
    transition_peers,
)

from dynlm import losses, rollout

TORCH = ("torch", "torch, batches in parts", "torch, loss and gradient")
BACKPROP = ("torchsde.sdeint backprop", "torchsde.sdeint backprop, BrownianInterval(dt)")
ADJOINT = "torchsde.sdeint_adjoint"
TORCH_PATHS = ("torch loop", *BACKPROP, ADJOINT)
CLOSE = 2e-3  # relative difference of losses and norms that is taken for rounding


def step_by_step(first_loss: float | None = None, noisy: Any = None) -> Any:
    """What is remembered of a row: losses and norms beside ours, which is the first row.

    Args:
        first_loss: what the first loss must be.
        noisy: of rows with noise of their own: the mean and the deviation of the first loss.
    """
    ours: list[np.ndarray] = []

    def check(name: str, out: Any) -> dict[str, Any]:
        if name.startswith("matmul"):
            return {}
        values = [np.asarray(x, np.float64) for x in out[: 1 if name == LOSS else 2]]
        found: dict[str, Any] = {"first_loss": float(values[0][0])}
        if len(values) == 2:
            found["first_gradient_norm"] = float(values[1][0])
        if not ours and name == OURS:
            ours.extend(values)
        if noisy is not None:
            mean, deviation = noisy
            z = (found["first_loss"] - mean) / deviation
            found["loss_error_in_standard_errors"] = float(z)
            found["note"] = f"loss {found['first_loss']:.4f} ({z:+.1f} s.e.)"
            if ours and "first_gradient_norm" in found:
                found["gradient_norm_over_ours"] = values[1][0] / ours[1][0]
                found["note"] += f", gradient {found['gradient_norm_over_ours']:.3f} of ours"
        if ours and (noisy is None or name == SAME_NOISE or name.startswith("dynlm")):
            # A row that trains nothing has another model from its second step on.
            steps = len(values[0]) if _trains(name) else 1
            gaps = [np.max(np.abs(a / b - 1)[:steps]) for a, b in zip(values, ours)]
            found["largest_difference_from_ours"] = float(max(gaps))
            note = f"differs by {max(gaps):.0e}"
            found["note"] = f"{found['note']}; {note}" if "note" in found else note
        if first_loss is not None:
            found["difference_from_numpy"] = abs(found["first_loss"] / first_loss - 1)
        return found

    return check


def refused(rows: Rows) -> Rows:
    """With a failure for every row that computes something else."""
    for name, row in rows.items():
        kinds = ("largest_difference_from_ours", "difference_from_numpy")
        gaps = [row.get(kind, 0.0) for kind in kinds]
        if not max(gaps) < CLOSE:
            rows[name] = {**row, "failed": f"its losses or gradients are off by {max(gaps):.1e}"}
            rows[name].pop("median_ms", None)
    return rows


def _trains(name: str) -> bool:
    return not name.endswith("loss and gradient") and name != LOSS


def likelihood(case: Case, args: Any) -> tuple[Rows, dict[str, Any]]:
    """The table of the transition likelihood."""
    builds = parts_of_a_step(case) | transition_peers(case)
    if (why := missing("torch")) is not None:
        builds |= dict.fromkeys(TORCH, why)
    else:
        builds |= importlib.import_module("_torch_train").likelihood_rows(case, args.all)
    builds = selected(builds, args.rows)
    if not builds:
        return {}, {}
    matmuls, flops = products(case)
    check = step_by_step(first_loss=likelihood_in_numpy(case))
    rows = compare(builds | matmuls, check, repeat=args.repeat, limit=args.limit)
    roofs = rates(rows, case, flops)
    extra = {"flop_of_a_step": case.flops(), "gflop_per_s": roofs}
    return refused(rows), extra | {"time_goes": parts(rows)}


def rates(rows: Rows, case: Case, flops: dict[str, float]) -> dict[str, float]:
    """Adds transitions a second, and shares of the best matrix product; the rates, best first."""
    found = {}
    for name, number in flops.items():
        if "median_ms" in rows.get(name, {}):
            found[name] = rate = number / rows[name]["median_ms"] / 1e6
            rows[name] |= {"gflop_per_s": rate, "note": f"{rate:.0f} GFLOP/s"}
    found = dict(sorted(found.items(), key=lambda item: -item[1]))
    for name, row in rows.items():
        if "median_ms" not in row or name in flops:
            continue
        seconds = row["median_ms"] / 1e3 / case.steps
        row["transitions_per_s"] = case.transitions / seconds
        notes = [f"{row['transitions_per_s'] / 1e3:.4g} k transitions/s"]
        if found and name != LOSS:
            rate = case.flops() / seconds / 1e9
            row["roofline_share"] = rate / next(iter(found.values()))
            row["share_of_own_products"] = rate / found[OWN_PRODUCTS]
            notes.append(f"{row['roofline_share']:.0%} of roofline")
        row["note"] = "; ".join([*notes, *filter(None, [row.get("note")])])
    return found


def parts(rows: Rows) -> dict[str, float]:
    """Shares of a step of ours: forward, back, and what comes after the gradient."""
    names = (LOSS, GRADIENT, OURS)
    if not all("median_ms" in rows.get(name, {}) for name in names):
        return {}
    loss, gradient, whole = (rows[name]["median_ms"] for name in names)
    return {"loss": loss / whole, "back": (gradient - loss) / whole, "rest": 1 - gradient / whole}


def path_loss(case: Case, args: Any) -> tuple[Rows, dict[str, Any]]:
    """The table of the path loss at one depth."""
    builds = parts_of_a_step(case) | path_peers(case)
    if (why := missing("torch")) is not None:
        builds |= dict.fromkeys(TORCH_PATHS, why)
    else:
        builds |= importlib.import_module("_torch_train").path_rows(case, TORCH_PATHS)
    builds = selected(builds, args.rows)
    if not builds:
        return {}, {}
    check = step_by_step(noisy=spread(case, 8 if args.quick else 32))
    rows = compare(builds, check, repeat=args.repeat, limit=args.limit)
    per_second(rows, case)
    return refused(rows), {"time_goes": parts(rows)}


def spread(case: Case, number: int) -> tuple[float, float]:
    """Mean of the first loss over so many draws of noise, and the deviation of one from that."""
    batch = jax.tree.map(lambda x: jnp.take(x, case.batches()[0], axis=0), case.items)
    loss = jax.jit(lambda key: case.loss(case.problem.sde, batch, key))
    found = np.asarray([loss(key) for key in jr.split(jr.key(999), number)], np.float64)
    return float(found.mean()), float(found.std(ddof=1) * np.sqrt(1 + 1 / number))


def per_second(rows: Rows, case: Case) -> None:
    for row in rows.values():
        if "median_ms" in row:
            row["steps_per_s"] = 1e3 * case.steps / row["median_ms"]
            notes = [f"{row['steps_per_s']:.4g} steps/s", row.get("note")]
            row["note"] = "; ".join(filter(None, notes))


def scores(case: Case, args: Any) -> Rows:
    """Steps with scores of `dynlm.losses`: as many simulated paths in all, in draws of four."""
    few = case._replace(rows=case.rows // 4)
    with_scales = functools.partial(losses.mmd, scales=(0.5, 1.0))
    four = {
        f"{name}, 4 draws": losses.simulated(getattr(losses, name), simulate=rollout, draws=4)
        for name in ("energy_score", "step_energy_score", "crps", "forecast_error")
    }
    builds: dict[str, Build] = {
        "mean square, 1 draw": chunk_of_fit(case),
        **{name: chunk_of_fit(few._replace(loss=loss)) for name, loss in four.items()},
        "mmd, 1 draw": chunk_of_fit(
            case._replace(loss=losses.set_simulated(with_scales, simulate=rollout))
        ),
    }
    rows = compare(
        selected(builds, args.rows),
        lambda name, out: {"first_loss": float(out[0][0]), "finite": _finite(out)},
        repeat=args.repeat,
        limit=args.limit,
    )
    per_second(rows, case)
    return rows


def _finite(out: Any) -> bool:
    return all(bool(np.isfinite(np.asarray(x)).all()) for x in out)


def scaling(sizes: dict[str, Any], args: Any) -> dict[str, Any]:
    """Milliseconds of a step over the batch, the dimension and the length of paths."""
    dtype, plain = dtype_of(args), sizes["transitions"]
    paths = sizes["paths"] | {"depth": 1, "steps": sizes["steps"], "dtype": dtype}
    some = plain | {"dtype": dtype, "steps": sizes["steps"]}
    middle = plain["number"] // 4

    def of_batch(n: int) -> Build:
        return chunk_of_fit(transitions(**{**some, "number": n}))

    def of_dim(n: int) -> Build:
        return chunk_of_fit(transitions(**{**some, "number": middle, "dim": n}))

    def of_points(n: int) -> Build:
        return chunk_of_fit(through_paths(**{**paths, "points": n}))

    dim, width = plain["dim"], plain["width"]
    curves: Any = {
        "transitions": (sizes["batch"], of_batch, f"{dim} components, width {width}"),
        "dims of an MLP": (sizes["dims"], of_dim, f"{middle} transitions, width {width}"),
        "steps of a path": (
            sizes["points"],
            of_points,
            f"{paths['paths']} paths, {paths['dim']} components, width {paths['width']}, depth 1",
        ),
    }
    options = dict(repeat=min(args.repeat, 5), limit=args.limit, per=sizes["steps"])
    return measure(f"a step of {OURS}", curves, **options)

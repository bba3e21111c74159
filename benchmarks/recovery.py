"""Parameters found again from data: how their errors shrink as data grow.

    OU, 2 dimensions:  a full drift matrix, bias and noise, by local linearisation; steps of .25
    double well:       two rates and the noise, by `LocalSkew`; steps of .1
    stochastic Lorenz: three rates, three strengths of diagonal noise, by local linearisation;
                       steps of .001, from states where no component is near zero
    OU, 64 dimensions: a full drift matrix and centre, noise of a diagonal and four directions, by
                       local linearisation; steps of .25

Each is fitted by `dynlm.fit` from wrong parameters, with the same steps, batches and rate at every
size. Several data sets of a size are fitted side by side. Data come from solvers of high order on
steps 8 to 16 times as fine. The error of a block (a number, a vector, or a matrix) is the norm
of the difference over the norm of the truth; over blocks and data sets root mean squares are taken.
The slope of its logarithm against that of the size is -1/2 where errors are statistical.

    python benchmarks/recovery.py --json --out benchmarks/results/recovery.json --plot recovery.png
"""

import fnmatch
import time
from typing import Any

import jax.random as jr
import numpy as np
from _common import finish, machine, parser, watch
from _recovery_cases import CASES
from _recovery_fit import made, overall, recovered, slope

WANTED, MARGIN = -0.5, 0.15
SIZES = [1024, 4096, 16384, 65536]
HOW = {  # data sets of each size, and steps of training
    "OU, 2 dimensions": (16, 600),
    "double well": (16, 600),
    "stochastic Lorenz": (8, 600),
    "OU, 64 dimensions, noise of rank 4": (3, 1000),
}
Options = dict[str, Any]


def plan(name: str, quick: bool, steps: int | None) -> tuple[list[int], int, Options]:
    """Transitions of the data sets of a case, how many there are, and how they are fitted."""
    if quick:
        return [256, 1024], 2, dict(steps=steps or 100, batch=256)
    sets, usual = HOW[name]
    return SIZES, sets, dict(steps=steps or usual, batch=2048)


def measured(name: str, quick: bool, steps: int | None) -> dict[str, Any]:
    """Errors at every size, and their slopes; and prints them."""
    sizes, sets, options = plan(name, quick, steps)
    case = CASES[name]()
    print(f"\n{name}: {sets} data sets of each size, {options['steps']} steps")
    errors, rows = [], []
    for size in sizes:
        start = time.perf_counter()
        data_key, fit_key = jr.split(jr.key(size))
        data = made(case, size, sets, key=data_key)
        found = recovered(case, data, key=fit_key, **options)
        errors.append(found)
        root = {k: float(np.sqrt(np.mean(v**2))) for k, v in found.items()}
        whole = overall(found)
        rows.append(
            {
                "transitions": size,
                "overall": float(np.sqrt(np.mean(whole**2))),
                "middle_half": np.quantile(whole, [0.25, 0.75]).tolist(),
                "blocks": root,
                "sets": whole.tolist(),
                "seconds": time.perf_counter() - start,
            }
        )
        said = ", ".join(f"{k} {v:.4f}" for k, v in root.items())
        print(f"  {size:>6d}: {rows[-1]['overall']:.4f} ({said}) {rows[-1]['seconds']:.0f} s")
    falls = {
        name: slope(sizes, [found[name] for found in errors], seed=0)["value"] for name in errors[0]
    }
    fall = slope(sizes, [overall(found) for found in errors], seed=0)
    print(f"  slope {fall['value']:.3f} [{fall['low']:.3f}, {fall['high']:.3f}]")
    of_case: Options = {"gap": case.gap, "rate": case.rate, "sizes": sizes, "sets": sets} | options
    return of_case | {"errors": rows, "slope": fall, "slopes_of_blocks": falls}


def verdicts(tables: dict[str, dict[str, Any]], comparable: bool) -> list[dict[str, Any]]:
    """Whether errors shrink at the statistical rate; and prints it."""
    print("\nTargets" + ("" if comparable else " (for other sizes than these)"))
    judged = []
    for name, table in tables.items():
        value = table["slope"]["value"]
        reached = bool(abs(value - WANTED) <= MARGIN)
        said = "yes" if reached else "no"
        print(f"  {name}: slope {WANTED} within {MARGIN}: measured {value:.3f} - {said}")
        one = {"table": name, "wanted": WANTED, "within": MARGIN, "measured": value}
        judged.append(one | {"reached": reached, "comparable": comparable})
    return judged


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    options = parser(__doc__)
    options.add_argument("--plot", help="draw the errors to this file")
    args = options.parse_args(arguments)
    if args.dtype != "float32" or args.precision is not None:
        raise SystemExit("recovery.py fits in float32. It takes no `--dtype` or `--precision`.")
    others = watch()
    chosen = [name for name in CASES if any(fnmatch.fnmatchcase(name, p) for p in args.rows)]
    tables = {name: measured(name, args.quick, args.steps) for name in chosen}
    if args.plot and tables:
        from _recovery_plot import draw

        draw(args.plot, tables)
    judged = verdicts(tables, comparable=not args.quick and args.steps is None)
    results = {"benchmark": "recovery", **machine(), "tables": tables, "targets": judged}
    return finish(results, args, others)


if __name__ == "__main__":
    main()

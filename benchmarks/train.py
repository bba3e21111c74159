"""Steps of training: of the transition likelihood, and of a loss of simulated paths.

    transitions   Euler's likelihood of 16,384 transitions of 64 components in windows of 33 states,
                  drift and diagonal diffusion networks of width 256 and depth 2
    paths         256 paths of 16 components and 128 steps, networks of width 64; the mean square
                  of simulated less observed states, differentiated through the solver
    scores        the same size with the energy score and other scores of `dynlm.losses`
    fit           a small model, so that what `train.fit` adds to its steps is seen

Every row takes the same steps on the same batches: it gathers a batch, takes loss and gradient,
the norm of the gradient and a step of Adam; steps of one row follow each other within a call,
compiled together where the library can. Losses and norms are compared with ours step by step where
there is no noise, or the noise is the same, and with float64 in numpy at the first one; elsewhere
with the spread of ours, in standard errors.

    python benchmarks/train.py --json --out benchmarks/results/train.json
    python benchmarks/train.py --scaling --rows none --plot train.png
"""

from pathlib import Path
from typing import Any

import jax
from _common import configure, dtype_of, finish, machine, parser, watch
from _plot import draw, draw_curves
from _rows import Rows, Target, judge, show
from _train_cases import OURS, through_paths, transitions
from _train_loop import FIT, measure_loop
from _train_tables import ADJOINT, BACKPROP, likelihood, path_loss, scaling, scores

LIKELIHOOD, TABLES = "transitions", ("transitions", "paths", "scores", "fit")
DEPTHS = (1, 2)
TARGETS = (
    Target(LIKELIHOOD, "roofline", 0.6, OURS),
    *(
        Target(f"paths, depth {depth}", peer, wanted, OURS)
        for depth in DEPTHS
        for peer, wanted in ((BACKPROP, 2), (ADJOINT, 8))
    ),
)
FULL: dict[str, Any] = dict(
    steps=4,
    transitions=dict(number=16_384, dim=64, width=256),
    paths=dict(paths=256, points=128, dim=16, width=64),
    small=dict(number=256, dim=2, width=16, depth=1, window=9),
    fit=(5000, 100),
    batch=[1024, 4096, 16_384, 65_536],
    dims=[8, 16, 32, 64, 128, 256],
    points=[32, 64, 128, 256, 512],
)
QUICK: dict[str, Any] = dict(
    steps=2,
    transitions=dict(number=64, dim=8, width=16, window=9),
    paths=dict(paths=16, points=16, dim=4, width=8),
    small=dict(number=64, dim=2, width=8, depth=1, window=9),
    fit=(60, 10),
    batch=[64, 128],
    dims=[4, 8],
    points=[8, 16],
)


def tables_of(sizes: dict[str, Any], args: Any) -> tuple[dict[str, Rows], dict[str, Any]]:
    """Runs and prints the tables that are asked for; and what else is to be kept of each."""
    dtype, steps = dtype_of(args), sizes["steps"]
    asked = args.only or TABLES
    tables: dict[str, Rows] = {}
    extras: dict[str, Any] = {}

    def keep(name: str, rows: Rows, extra: dict[str, Any], title: str, base: str = OURS) -> None:
        if rows:
            tables[name], extras[name] = rows, extra
            show(f"{name}: {title}, {args.dtype}", rows, base)
            if extra.get("time_goes"):
                said = ", ".join(f"{part} {x:.0%}" for part, x in extra["time_goes"].items())
                print(f"  of a step of ours: {said}")

    if LIKELIHOOD in asked:
        case = transitions(**sizes["transitions"], dtype=dtype, steps=steps)
        title = f"{steps} steps a call, {case.transitions} transitions of {case.problem.dim}"
        keep(LIKELIHOOD, *likelihood(case, args), title)
    size = sizes["paths"] | ({"points": args.steps} if args.steps else {})
    title = "{} steps a call, {paths} paths x {dim} components x {points} steps"
    for depth in DEPTHS[: 1 if args.quick else None] if "paths" in asked else ():
        case = through_paths(**size, depth=depth, dtype=dtype, steps=steps)
        keep(f"paths, depth {depth}", *path_loss(case, args), title.format(steps, **size))
    if "scores" in asked:
        case = through_paths(**size, depth=1, dtype=dtype, steps=steps)
        rows = scores(case, args)
        keep("scores", rows, {}, title.format(steps, **size), next(iter(rows), OURS))
    if "fit" in asked:
        number, chunk = sizes["fit"]
        case = transitions(**sizes["small"], dtype=dtype, steps=number)
        rows, extra = measure_loop(case, chunk, args)
        keep("fit", rows, extra, f"{number} steps in chunks of {chunk}", FIT)
    return tables, extras


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Runs what the options ask for."""
    options = parser(__doc__)
    options.add_argument("--only", choices=TABLES, nargs="+", help="some of the tables")
    options.add_argument("--all", action="store_true", help="also: torch.compile")
    options.add_argument("--scaling", action="store_true", help="also: time over sizes")
    options.add_argument("--plot", help="write bars of all tables to this file, curves beside it")
    args = options.parse_args(argv)
    configure(args)
    others = watch()
    results: dict[str, Any] = machine()
    if args.quick:
        args.repeat = min(args.repeat, 3)
    sizes = QUICK if args.quick else FULL
    tables, extras = tables_of(sizes, args)
    results |= {"dtype": args.dtype, "repeat": args.repeat, "sizes": sizes}
    results |= {"extras": extras, "tables": tables}
    comparable = not args.quick and args.steps is None and args.dtype == "float32"
    if any(OURS in rows for rows in tables.values()):
        results["targets"] = judge(TARGETS, tables, comparable)
    if args.scaling:
        results["scaling"] = scaling(sizes, args)
    if args.plot:
        where = jax.devices()[0].device_kind
        draw(args.plot, tables, f"Steps of training, {where}", "dynlm")
        if args.scaling:
            plot = Path(args.plot)
            plot = plot.with_name(f"{plot.stem}-scaling{plot.suffix}")
            draw_curves(str(plot), results["scaling"], f"A step of training, {where}")
    return finish(results, args, others)


if __name__ == "__main__":
    main()

"""`dynlm demo`: the whole way from text to a report, with the model that is in the package."""

import sys
from dataclasses import dataclass
from pathlib import Path

from .._io import BadArgument, interruptible
from ._common import Stopped, print_json


@dataclass(frozen=True)
class Demo:
    """Go the whole way from text to a report, with the language model in this package.

    Samples texts at several temperatures, keeps the states of its layers, fits neural SDEs and
    baselines to them, decodes what was fitted, writes its predictions into the running model,
    analyses the dynamics, and writes one page. No network; minutes on two cores.

    Such as:

      dynlm demo
      dynlm demo --quick --out first
      dynlm demo --json --quiet

    Args:
        out: Folder for the report, its figures and numbers, and the states.
        quick: Fewer texts and steps, and only the main analyses: about half the time.
        seed: Seed of everything random.
        json: Print the figures that matter as one line of JSON, last.
        quiet: No progress and no summary.
    """

    out: Path = Path("dynlm-demo")
    quick: bool = False
    seed: int = 0
    json: bool = False
    quiet: bool = False


def run(config: Demo) -> None:
    """Sample, fit, analyse, report."""
    if not 0 <= config.seed < 2**31:
        raise BadArgument(f"`seed` is {config.seed}. Use 0 to {2**31 - 1}.")
    config.out.mkdir(parents=True, exist_ok=True)  # an unwritable one is better known now
    from ..studies import demo
    from ..train import Interrupted

    try:
        with interruptible():
            done = demo(config.out, quick=config.quick, seed=config.seed, quiet=config.quiet)
    except (KeyboardInterrupt, Interrupted):
        raise Stopped(
            f"stopped. What was finished in {config.out} stays; the same command goes on from it."
        ) from None
    if not config.quiet:
        print(done.text(), file=sys.stderr if config.json else sys.stdout, flush=True)
    if config.json:
        print_json({"report": str(done.page), "cards": done.results["cards"]})

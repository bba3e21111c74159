"""`dynlm inspect`: what a store holds, and whether every byte is as it was written."""

import sys
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from ..store._format import MANIFEST, PLAN, PROJECTIONS, REVISIONS
from ..store._inspect import summary, table
from ..store._reader import Store, open_store
from ..store._revisions import open_revisions, read_revisions
from ._common import print_json
from ._several import overview, several_table

ADVICE = """\
  Delete those of the files that are still there, and run the command that made the store again:
  it makes only these."""
REST = "  The other shards can be read."
REFIT = """\
  Delete the projections that are named, fit them again, and keep them by `save_projection`: the
  states do not depend on them."""


@dataclass(frozen=True)
class Inspect:
    """Show what a store holds, complete or not.

    With --verify every byte is read; what is damaged is named, and the exit code is 1.

    Such as:

      dynlm inspect store
      dynlm inspect store --verify
      dynlm inspect checkpoints --json

    Args:
        store: Folder of a store, or of the stores that `dynlm export --revisions` wrote.
        verify: Read every byte, and compare it with the checksums.
        json: Print it as one line of JSON instead.
    """

    store: Positional[Path]
    verify: bool = False
    json: bool = False


def run(config: Inspect) -> None:
    """Print what there is; exits with 1 if something is damaged."""
    folder = config.store
    if (folder / REVISIONS).exists() and not (folder / MANIFEST).exists():
        names, stores = read_revisions(folder), open_revisions(folder)
        found = overview(folder, names, stores)
        text = several_table(found)
    else:
        stores = {"": open_store(folder)}
        found = summary(stores[""])
        text = table(found)
    if not config.json:
        print(text, flush=True)
    wrong = _verified(stores, config) if config.verify else []
    if config.json:
        print_json(found | ({"wrong": wrong} if config.verify else {}))
    if wrong:
        sys.exit(1)


def _verified(stores: dict[str, Store], config: Inspect) -> list[str]:
    """What is wrong with any of the stores, one sentence each."""
    wrong, bare = [], []
    for name, store in stores.items():
        prefix = f"{name}: " if name else ""
        found = store.verify(quiet=config.json)
        bare += found
        wrong += [prefix + why for why in found]
    if config.json:
        return wrong
    if wrong:
        lines = [f"  {why}" for why in wrong]
        head = f"DAMAGED, {len(wrong)} of the files:"
        print("\n".join(["", head, *lines, *_advice(bare)]))
    else:
        print("\n  Every byte is as it was written.")
    return wrong


def _advice(wrong: list[str]) -> list[str]:
    """What to do about the files that sentences begin with."""
    fitted = [why for why in wrong if why.startswith(f"{PROJECTIONS}/")]
    plans = [why for why in wrong if why.startswith(PLAN)]
    made = len(wrong) > len(fitted)
    rest = made and not fitted and not plans
    return [*([ADVICE] if made else []), *([REST] if rest else []), *([REFIT] if fitted else [])]

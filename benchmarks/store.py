"""The store: random reads beside a raw memmap, exports beside the model alone, and memory.

    reads:  400 of 1,090 rows of 50 to 400 states, width 256, bfloat16 (125 MB a layer, 3 layers,
            11 shards), in a fixed random order, each copied into one buffer; files in the cache
    export: the embedded model on token ids, all layers, bfloat16, and the same with 48 sampled
            tokens after each prompt; against its own compiled function on the same batches,
            whose results are waited for and dropped
    memory: the peak of a fresh process that exports 1, 4 and 16 times as many documents

Every reader's rows are compared with what was written. Exports go to fresh folders, which are
removed between the turns.

    python benchmarks/store.py --json --out benchmarks/results/store.json
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import _store_export as exports
import _store_memory as memory
import _store_reads as reads
from _common import finish, machine, parser, watch
from _rows import Rows, Target, compare, judge, selected, show

from dynlm import lm
from dynlm.lm._grid import Sampling
from dynlm.store import Store

TEXT, SAMPLED = "export of text", "export of samples"
TARGETS = (
    Target("reads", reads.MEMMAP, 0.8, reads.OURS),
    Target(TEXT, exports.ALONE, 0.85, exports.OURS),
    Target(SAMPLED, exports.ALONE, 0.85, exports.OURS),
)
READ_TURNS, READ_LIMIT = 5, 10.0  # turns for each that is asked for; seconds of a row
GROWTH = 1.1  # of the peak, with 16 times as many documents
FULL: dict[str, Any] = dict(
    reads=reads.Size(1090, 400),
    text=(1600, 32, 256),
    prompts=(768, 8, 8),
    budget=48,
    shard_bytes=2**26,
    memory=(1000, (1, 4, 16)),
    many=reads.Size(100_000, 0, width=8, shortest=2, longest=6, shard_rows=5000),
)
QUICK: dict[str, Any] = dict(
    reads=reads.Size(60, 20, width=64, shard_rows=25),
    text=(40, 33, 64),
    prompts=(16, 8, 8),
    budget=8,
    shard_bytes=2**20,
    memory=(100, (1, 4)),
    many=reads.Size(2000, 0, width=8, shortest=2, longest=6, shard_rows=500),
)
Tables = dict[str, Rows]


def reading(folder: Path, sizes: dict[str, Any], args: Any) -> Tables:
    """Random rows, and random windows."""
    size = sizes["reads"]
    store = reads.rows_store(folder / "reads", size)
    builds, total = reads.peers(store, folder, size)
    often = READ_TURNS * args.repeat  # they are short
    chosen = selected(builds, args.rows)
    rows = compare(chosen, lambda *_: {}, repeat=often, limit=min(args.limit, READ_LIMIT))
    reads.with_rates(rows, total / 1e9, "GB/s")
    show(f"reads: {size.reads} rows, {total / 1e6:.0f} MB", rows, reads.OURS)
    build, count = reads.windows(store, size)
    gather = {"dynlm Windows.gather": build}
    chosen = selected(gather, args.rows)
    found = compare(chosen, lambda *_: {}, repeat=args.repeat, limit=args.limit)
    reads.with_rates(found, count, "windows/s")
    show("windows: 64 states each, in batches of 32, to float32 in JAX", found, "")
    return {"reads": rows, "windows": found}


def exporting(model: lm.LanguageModel, folder: Path, sizes: dict[str, Any], args: Any) -> Tables:
    """Texts, and samples."""
    tables: Tables = {}
    for title, kind in ((TEXT, "text"), (SAMPLED, "prompts")):
        here = folder / kind
        here.mkdir()
        texts = exports.documents(sizes[kind], model.config.vocab)
        # Without stop tokens, or it would depend on what is drawn how much is sampled.
        sampling = None if kind == "text" else Sampling(budget=sizes["budget"], stop=())
        builds, store = exports.rows(model, texts, here, sampling, sizes["shard_bytes"])
        chosen = selected(builds, args.rows)
        rows = exports.in_turns(chosen, here, repeat=args.repeat, limit=args.limit)
        tokens, size = amounts(store, sampling)
        computing = (exports.OURS, exports.ALONE, exports.FORWARD)
        reads.with_rates({k: rows[k] for k in computing if k in rows}, tokens, "tokens/s")
        reads.with_rates({k: rows[k] for k in (exports.DISK,) if k in rows}, size / 1e6, "MB/s")
        if "median_ms" in (ours := rows.get(exports.OURS, {})):
            ours["megabytes_per_second"] = size / 1e3 / ours["median_ms"]
            ours["note"] += f", {ours['megabytes_per_second']:.0f} MB/s"
        what = f"{len(store)} rows, {tokens} tokens, {size / 1e6:.0f} MB"
        show(f"{title}: {what} in {store.manifest.count} shards", rows, exports.OURS)
        tables[title] = rows
        shutil.rmtree(here)
    return tables


def amounts(store: Store, sampling: Sampling | None) -> tuple[int, int]:
    """Tokens that were read, or sampled; and bytes of the shards."""
    given = 0 if sampling is None else int(store.prompts.sum())
    size = sum(one.bytes for one in store.manifest.shards)
    return int(store.lengths.sum()) - given, size


def remembering(folder: Path, sizes: dict[str, Any]) -> tuple[dict[str, Any], list[dict]]:
    """Peaks of exports, what a row of an open store takes, and the verdict."""
    count, factors = sizes["memory"]
    print(f"\nmemory: exports of {count} documents and more, each in a fresh process")
    peaks = {}
    for factor in factors:
        here = folder / f"memory-{factor}"
        found = peaks[f"{factor}x"] = memory.measured("export", here, factor * count)
        shutil.rmtree(here, ignore_errors=True)
        if "failed" in found:
            print(f"  {factor:>2}x  failed: {found['failed']}")
            continue
        peak = "n/a" if found["peak_bytes"] is None else f"{found['peak_bytes'] / 2**20:.1f} MiB"
        print(f"  {factor:>2}x  peak {peak}, {found['shards']} shards, {found['seconds']:.1f} s")
    first, last = (peaks[f"{k}x"] for k in (factors[0], factors[-1]))
    growth = each = None
    if first.get("peak_bytes") and last.get("peak_bytes"):
        growth = last["peak_bytes"] / first["peak_bytes"]
        more = last["documents"] - first["documents"]
        each = (last["peak_bytes"] - first["peak_bytes"]) / more
        print(f"  {growth:.3f} times the peak, {each:.0f} bytes a document more")
    reads.rows_store(folder / "many", sizes["many"], (0,))
    opened = memory.measured("open", folder / "many")
    print(f"\nan open store of {sizes['many'].rows} rows: {opened}")
    verdict = {
        "table": "memory",
        "ours": f"peak at {factors[-1]}x the documents",
        "peer": f"peak at {factors[0]}x",
        "at_most": GROWTH,
        "measured": growth,
        "reached": None if growth is None else growth <= GROWTH,
        "comparable": sizes is FULL,
    }
    return {"exports": peaks, "bytes_per_document": each, "open_store": opened}, [verdict]


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    args = parser(__doc__).parse_args(arguments)
    if args.dtype != "float32" or args.steps is not None or args.precision is not None:
        raise SystemExit(
            "store.py measures bfloat16 states of a float32 model, as an export makes them. It "
            "takes no `--dtype`, `--steps` or `--precision`."
        )
    others = watch()
    sizes = QUICK if args.quick else FULL
    with tempfile.TemporaryDirectory(prefix="dynlm-store-") as name:
        folder = Path(name)
        tables = reading(folder, sizes, args)
        tables |= exporting(lm.load("demo", tokenizer=False), folder, sizes, args)
        peaks, verdicts = remembering(folder, sizes)
    judged = judge(TARGETS, tables, comparable=not args.quick)
    for one in verdicts:
        said = {None: "not measured", True: "yes", False: "no"}[one["reached"]]
        shown = "" if one["measured"] is None else f"measured {one['measured']:.3f} - "
        print(f"  memory: {one['ours']} at most {GROWTH} of the {one['peer']}: {shown}{said}")
    results = {
        "benchmark": "store",
        "sizes": {k: v._asdict() if isinstance(v, reads.Size) else v for k, v in sizes.items()},
        **machine(),
        "tables": tables,
        "memory": peaks,
        "targets": judged + verdicts,
    }
    return finish(results, args, others)


if __name__ == "__main__":
    main()

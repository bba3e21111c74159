"""`Store`: ragged trajectories on disk, as views of mapped files."""

import itertools
import warnings
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
from jaxtyping import Float, Int

from .._fields import brief, shown
from .._io import BadArgument, progress
from ..trajectory import Trajectory
from ._format import (
    COLUMN,
    FLOATS,
    PLAN,
    PROJECTIONS,
    Manifest,
    Name,
    digest,
    file_digest,
    read_manifest,
    tensor_name,
)
from ._sealed import unsealed
from ._shard import Shard, fault
from ._split import split_docs

STEPS = 8192  # states that are read at a time
OPEN = 256  # shards that are mapped at a time, since a mapped file counts as an open one


@final
class Row(NamedTuple):
    """One row: what the model read, what it made of it, and the numbers that belong to it.

    Row `t` of `states` is the state after reading token `t * stride`. Of its `tokens`, the first
    `prompt` were given; the others are the text proper, or were sampled. A series that came from
    arrays has no tokens.
    """

    number: int
    doc: int
    prompt: int
    tokens: Int[np.ndarray, " time"] | None
    logprobs: Float[np.ndarray, " time"] | None
    entropies: Float[np.ndarray, " time"] | None
    top_ids: Int[np.ndarray, "time top"] | None
    top_logprobs: Float[np.ndarray, "time top"] | None
    times: Float[np.ndarray, " kept"]
    states: dict[Name, Float[np.ndarray, "kept _"]]
    columns: dict[str, float]


def open_store(folder: str | Path) -> "Store":
    """Opens a store, complete or not; nothing but its manifest and the shards' headers is read.

    A shard that is missing or damaged is named in a warning, and the rest stays readable. What
    headers do not show, `store.verify()` finds.

    Raises:
        BadArgument: There is no store, or its manifest is damaged.
    """
    folder = Path(folder)
    return Store(folder, read_manifest(folder))


@final
class Store:
    """Rows of states, in the order of the texts that they came from.

        store = dynlm.open_store("store")
        store.states(5, 3)                # of row 5 and layer 3, a view of the file
        store.path(5, 3)                  # the same as a Trajectory along tokens
        store.depth(5, 10)                # along the layers, at token 10
        store.split("train")[:100]        # a Store over the first 100 rows of training documents

    Indexing by a slice, an array of numbers or of booleans gives a Store over those rows.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.damaged: dict[str, str] = {}
        sound = []
        for record in manifest.shards:
            if (why := fault(folder, record, whole=False)) is None:
                sound.append(record)
            else:
                self.damaged[record.file] = why
        if self.damaged:
            warnings.warn(
                f"{folder}: {'; '.join(self.damaged.values())}. The other rows can be read; the "
                "command that made the store makes these again.",
                stacklevel=3,
            )
        files = [folder / record.file for record in sound]
        self._shard = lru_cache(OPEN)(lambda s: Shard(files[s]))
        self._starts = [0, *itertools.accumulate(record.rows for record in sound)]
        numbers = self._gathered("rows", np.int64)
        self._at = np.argsort(numbers, kind="stable")
        self._digest = digest("\n".join(one.data_sha256 for one in sound).encode())
        self._names = {name: tensor_name(name) for name in manifest.layers}

    def __len__(self) -> int:
        return len(self._at)

    def __repr__(self) -> str:
        state = "" if self.complete else ", incomplete"
        return f"<Store {self.folder}: {len(self)} rows, layers {list(self.layers)}{state}>"

    @property
    def complete(self) -> bool:
        """Whether all is there that was to be made."""
        return self.manifest.complete and not self.damaged

    @property
    def whole(self) -> bool:
        """Whether these are all rows that can be read, and not a part such as a split."""
        return len(self) == self._starts[-1]

    @property
    def layers(self) -> tuple[Name, ...]:
        """Names of the layers."""
        return tuple(self.manifest.layers)

    @property
    def dims(self) -> dict[Name, int]:
        """Dimension of each layer's states."""
        return dict(self.manifest.layers)

    @property
    def dtype(self) -> np.dtype:
        """Of the states."""
        return FLOATS[self.manifest.dtype]

    @property
    def stride(self) -> int:
        """Of each row, one state in so many was kept."""
        return self.manifest.stride

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the numbers that every row has; see `column`."""
        return self.manifest.columns

    @property
    def digest(self) -> str:
        """Digest of what the shards hold that can be read."""
        return self._digest

    @cached_property
    def rows(self) -> Int[np.ndarray, " row"]:
        """The number of each row in the whole store."""
        return self._gathered("rows", np.int64)[self._at]

    @cached_property
    def docs(self) -> Int[np.ndarray, " row"]:
        """The document of each row."""
        return self._gathered("docs", np.int64)[self._at]

    @cached_property
    def prompts(self) -> Int[np.ndarray, " row"]:
        """How many tokens of each row were given."""
        return self._gathered("prompts", np.int32)[self._at]

    @cached_property
    def lengths(self) -> Int[np.ndarray, " row"]:
        """How many states each row has."""
        sizes = [np.diff(shard.state_offsets) for shard in self._each()]
        return np.concatenate([np.empty(0, np.int64), *sizes])[self._at]

    def column(self, name: str) -> np.ndarray:
        """The number of this name of every row."""
        if name not in self.columns:
            raise BadArgument(
                f"`name` is {shown(name)}. This store has the columns {list(self.columns)}."
            )
        return self._gathered(COLUMN + name, np.float64)[self._at]

    def states(self, row: int, layer: Name) -> Float[np.ndarray, "kept dim"]:
        """The states of a row at a layer: a view of the mapped file, not a copy."""
        at = int(self._at[row])
        s = bisect_right(self._starts, at) - 1
        shard, local = self._shard(s), at - self._starts[s]
        try:
            whole = shard.arrays[self._names[layer]]
        except (KeyError, TypeError):
            raise self._no_layer("layer", layer) from None
        return whole[shard.state_offsets[local] : shard.state_offsets[local + 1]]

    def times(self, row: int) -> Float[np.ndarray, " kept"]:
        """When the states of a row are: at tokens 0, 1, 2, ..., or at times that came with it."""
        shard, local = self._place(row)
        span = slice(*shard.state_offsets[local : local + 2])
        if "times" in shard:
            return shard["times"][span]
        return np.arange(span.stop - span.start, dtype=np.float64) * self.stride

    def __getitem__(self, which: Any) -> Any:
        if isinstance(which, int | np.integer):
            return self._row(int(which))
        picked = np.asarray(which if not isinstance(which, slice) else range(len(self))[which])
        if picked.dtype == bool and picked.shape == (len(self),):
            picked = np.flatnonzero(picked)
        if picked.ndim != 1 or (picked.size and picked.dtype.kind not in "iu"):
            raise BadArgument(
                f"`store[{shown(which)}]`: index it by a number, a slice, or an array of "
                f"numbers or of {len(self)} booleans."
            )
        if picked.size and not (-len(self) <= picked.min() and picked.max() < len(self)):
            raise IndexError(f"A row of `which` is out of range. There are {len(self)} rows.")
        return self._over(self._at[picked.astype(np.int64)])

    def __iter__(self) -> Iterator[Row]:
        return (self._row(i) for i in range(len(self)))

    def path(self, row: int, layer: Name, *, dtype: Any = np.float32) -> Trajectory:
        """One row at one layer, along its tokens (or times)."""
        ys = self.states(row, layer).astype(dtype)
        return Trajectory.from_arrays(ys, self.times(row))

    def depth(
        self, row: int, token: int, layers: Sequence[Name] | None = None, *, dtype: Any = np.float32
    ) -> Trajectory:
        """One token of one row, along the layers.

        Args:
            row: Which row.
            token: Which of its states; -1 is the last.
            layers: Numbered layers in rising order; by default all that the store has.
                `"final"` is none of them: it is the last layer once more, after a norm.
        """
        names: list[Any] = (
            [k for k in self.layers if isinstance(k, int)] if layers is None else list(layers)
        )
        if not names or any(isinstance(k, str) for k in names) or np.any(np.diff(names) <= 0):
            raise BadArgument(
                f"`layers` is {shown(layers)} and the store has {list(self.layers)}. A path along "
                "depth goes through numbered layers, in rising order."
            )
        chosen = [int(k) for k in names]
        count = self.lengths[row]
        if not -count <= token < count:
            raise BadArgument(
                f"`token` is {token}. Row {row} has {count} states: use 0 to {count - 1}."
            )
        ys = np.stack([self.states(row, k)[token].astype(dtype) for k in chosen])
        return Trajectory.from_arrays(ys, np.asarray(chosen))

    def split(
        self, name: str, shares: Mapping[str, float] | None = None, seed: int | None = None
    ) -> "Store":
        """The rows of the documents that are for training, validation or test.

        A document is whole in one split, and in the same one however much of the store is there.
        The default shares and seed were fixed when the store was made.
        """
        default = self.manifest.split
        docs = split_docs(
            np.arange(self.manifest.documents),
            default["shares"] if shares is None else shares,
            default["seed"] if seed is None else seed,
        )
        if name not in docs:
            raise BadArgument(f"`name` is {shown(name)}. The splits are {list(docs)}.")
        return self[np.flatnonzero(np.isin(self.docs, docs[name]))]

    def doc(self, number: int) -> "Store":
        """The rows of one document."""
        return self[np.flatnonzero(self.docs == number)]

    def chunks(self, layer: Name, steps: int = STEPS) -> Iterator[Float[np.ndarray, "step dim"]]:
        """All states of a layer, a few thousand at a time, in the order of the files."""
        if layer not in self.layers:
            raise self._no_layer("layer", layer)
        waiting: list[np.ndarray] = []
        size = 0
        for shard, spans in self._spans():
            whole = shard[tensor_name(layer)]
            for begin, end in spans:
                for here in range(begin, end, steps):
                    waiting.append(whole[here : min(end, here + steps)])
                    size += len(waiting[-1])
                    if size >= steps:
                        yield np.concatenate(waiting) if len(waiting) > 1 else waiting[0]
                        waiting, size = [], 0
        if waiting:
            yield np.concatenate(waiting)

    def verify(self, *, quiet: bool = True) -> list[str]:
        """Reads every byte, and says what is not as it was written, one sentence each."""
        wrong = []
        sizes = [one.bytes // 10**6 + 1 for one in self.manifest.shards]
        with progress("verify, MB", max(sum(sizes), 1), quiet=quiet) as advance:
            for record, size in zip(self.manifest.shards, sizes):
                if (why := fault(self.folder, record, whole=True)) is not None:
                    wrong.append(why)
                advance(size)
        if (sha := self.manifest.plan_sha256) is not None:
            try:
                if file_digest(self.folder / PLAN) != sha:
                    wrong.append(f"{PLAN} is not what was written")
            except OSError as error:
                wrong.append(f"{PLAN} cannot be read: {error.strerror or error}")
        for path in sorted((self.folder / PROJECTIONS).glob("*.safetensors")):
            try:
                unsealed(path)
            except BadArgument as error:
                wrong.append(f"{PROJECTIONS}/{path.name} is damaged: {brief(error, 200)}")
        return wrong

    def _row(self, row: int) -> Row:
        if not -len(self) <= row < len(self):
            raise IndexError(f"`row` is {row}. There are {len(self)} rows.")
        shard, local = self._place(row)
        span = slice(*shard.offsets[local : local + 2])

        def get(name: str) -> Any:
            return shard[name][span] if name in shard else None

        return Row(
            number=int(shard["rows"][local]),
            doc=int(shard["docs"][local]),
            prompt=int(shard["prompts"][local]),
            tokens=get("tokens"),
            logprobs=get("logprobs"),
            entropies=get("entropies"),
            top_ids=get("top_ids"),
            top_logprobs=get("top_logprobs"),
            times=self.times(row),
            states={name: self.states(row, name) for name in self.layers},
            columns={name: float(shard[COLUMN + name][local]) for name in self.columns},
        )

    def _place(self, row: int) -> tuple[Shard, int]:
        at = int(self._at[row])
        s = bisect_right(self._starts, at) - 1
        return self._shard(s), at - self._starts[s]

    def _over(self, at: Int[np.ndarray, " row"]) -> "Store":
        other = object.__new__(Store)
        shared = ("folder", "manifest", "damaged", "_shard", "_starts", "_names", "_digest")
        vars(other).update({name: vars(self)[name] for name in shared}, _at=at)
        return other

    def _spans(self) -> Iterator[tuple[Shard, list[tuple[int, int]]]]:
        """By shard, the stretches of states of this store's rows that stand side by side."""
        at = np.sort(self._at)
        cuts = np.searchsorted(at, self._starts)
        for shard, start, a, b in zip(self._each(), self._starts, cuts, cuts[1:]):
            local = at[a:b] - start
            ends = np.flatnonzero(np.diff(local) != 1)
            first = local[np.concatenate([[0], ends + 1])] if local.size else local
            last = local[np.concatenate([ends, [len(local) - 1]])] if local.size else local
            begins, stops = shard.state_offsets[first], shard.state_offsets[last + 1]
            yield shard, list(zip(begins.tolist(), stops.tolist()))

    def _gathered(self, name: str, dtype: Any) -> np.ndarray:
        return np.concatenate([np.empty(0, dtype), *(shard[name] for shard in self._each())])

    def _each(self) -> Iterator[Shard]:
        return (self._shard(s) for s in range(len(self._starts) - 1))

    def _no_layer(self, argument: str, layer: Any) -> BadArgument:
        return BadArgument(
            f"`{argument}` is {brief(repr(layer))}. This store has the layers {list(self.layers)}."
        )

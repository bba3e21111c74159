"""`export`: states of texts, or of what is sampled, on disk; killed, it goes on where it was."""

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._fields import shown
from .._io import BadArgument
from ..store._format import FLOATS, PLAN, Manifest, as_json, read_manifest
from ..store._reader import Store, open_store
from ..store._split import SHARES, split_docs
from ..store._writer import Writer, finished, held, joining, writing
from ._decoder import Decoder
from ._documents import Document
from ._foreign import Uncached
from ._grid import Sampling
from ._identity import model_identity, tokenizer_digest, versions
from ._model import LanguageModel
from ._names import Ids, Name, chosen
from ._passes import Continuing, Keep, Pass, Reading
from ._pieces import Piece, prompt_rows, token_rows
from ._plan import Plan, Sizes, Work, draft, scan
from ._prompts import check_top, check_whole
from ._work import Report, agreed, carry_out, meet, watched

SCORES = ("logprobs", "entropies")
TOP = ("top_ids", "top_logprobs")
LONG = 2**20  # tokens of a row, where the model sets no limit


def export(
    model: Any,
    documents: Iterable[str | Ids | Document],
    folder: str | Path,
    *,
    sampling: Sampling | None = None,
    layers: Collection[Name] | None = None,
    dtype: Any = "bfloat16",
    stride: int = 1,
    top: int = 0,
    max_tokens: int | None = None,
    batch_tokens: int = 4096,
    shard_bytes: int = 2**28,
    shares: Mapping[str, float] = SHARES,
    split_seed: int = 0,
    name: str | None = None,
    quiet: bool = False,
) -> Store:
    """Reads texts with a model, or continues prompts, and writes the states of every token.

        store = export(load("demo"), ["Call me Ishmael.", ...], "store", layers=(3, "final"))
        store = export(model, prompts, "samples", sampling=Sampling(4, temperature=(0.7, 1.0)))

    A plan of all batches is written first. Killed at any moment, or out of disk or memory, the
    store opens, says that it is incomplete, and the same call goes on with it, to the same bytes
    as if nothing had happened. A store that is complete is returned as it is; one of another
    configuration is refused, with what differs.

    Args:
        model: A `LanguageModel`, a `Decoder`, an `Uncached`, or for texts any callable
            `model(tokens, positions) -> logits, {layer: states}`, which is called as it is.
        documents: Texts, token ids, or `Document`s; prompts, where there is `sampling`. Texts
            longer than `max_tokens` are cut into rows that share the document's number.
        folder: The store.
        sampling: How to continue prompts; None reads texts as they are.
        layers: Whose states to keep, by default all.
        dtype: Of the states: `bfloat16`, `float16` or `float32`.
        stride: Of each row keep one state in so many, from its first on.
        top: How many of the likeliest tokens to keep for each token.
        max_tokens: The most tokens of a row, by default the context of the model; with `sampling`,
            of a prompt.
        batch_tokens: The most tokens of a batch, padding included.
        shard_bytes: A shard ends with the batch that reaches so many.
        shares: Of the documents that are for training, validation and test.
        split_seed: Another seed divides the documents otherwise.
        name: What to call a model that does not know its own name.
        quiet: No estimate, no progress.

    Raises:
        BadArgument: What cannot be done, and what to do instead.
    """
    folder = Path(folder)
    meet("begun")  # the first meeting must be soon: it waits for half a minute, later ones longer
    for what, number, least in (
        ("stride", stride, 1),
        ("top", top, 0),
        ("batch_tokens", batch_tokens, 1),
        ("shard_bytes", shard_bytes, 1),
    ):
        check_whole(what, number, least)
    stride, top, batch_tokens = int(stride), int(top), int(batch_tokens)
    split_docs(np.arange(len(SHARES)), shares, split_seed)  # refuses what is no way to divide
    core, tokenizer, context, vocab = _parts_of(model, sampling)
    keep, dims = _kept(core, layers, dtype, stride, top)
    sampling = None if sampling is None else _with_stops(sampling, model)
    budget = 0 if sampling is None else int(sampling.budget)
    most = _most(max_tokens, context, budget)
    sizes = Sizes(
        batch_tokens=batch_tokens,
        most=most,
        more=budget,
        state_bytes=sum(dims.values()) * keep.dtype.itemsize,
        step_bytes=12 + 8 * top,
        stride=stride,
        shard_bytes=int(shard_bytes),
    )
    cut = token_rows if sampling is None else prompt_rows
    pieces = cut(tokenizer, _documents(documents), most=most, vocab=vocab)
    work, columns = _work(pieces, sampling)
    manifest = Manifest(
        layers=dims,
        dtype=keep.dtype.name,
        stride=stride,
        fields=("tokens", *SCORES, *(TOP if top else ())),
        columns=columns,
        top=top,
        rows=0,
        documents=0,
        count=0,
        plan_sha256=None,
        split={"seed": int(split_seed), "shares": {k: float(shares.get(k, 0)) for k in SHARES}},
        config=as_json(
            {
                "model": model_identity(model, name),
                "tokenizer": tokenizer_digest(tokenizer),
                "sampling": None if sampling is None else sampling.as_json(),
                "layers": list(keep.layers),
                "dtype": keep.dtype.name,
                "stride": stride,
                "top": top,
                "max_tokens": most,
                "batch_tokens": batch_tokens,
                "shard_bytes": int(shard_bytes),
            }
        ),
        versions=versions(),
    )
    if sampling is None:
        way: Pass = Reading(core, keep, sizes)
    else:
        way = Continuing(
            core,
            keep,
            sizes,
            seed=sampling.seed,
            settings=sampling.settings,
            stop=sampling.stop or (),
        )
    report = Report(folder, quiet, exact=sampling is None)
    if (
        sampling is not None
        and sampling.samples > 1
        and 0 in sampling.grid().get("temperature", ())
    ):
        report.say(f"at temperature 0 all {sampling.samples} samples of a prompt are the same")
    work = watched(work, report)
    with ExitStack() as stack:
        with agreed("planned"):
            if jax.process_index() == 0:
                leading = _leading(folder, manifest, work, columns, sizes)
                writer = stack.enter_context(leading)
        with agreed("joined"):
            if jax.process_index() > 0:
                writer = stack.enter_context(_joined(folder, manifest))
        with agreed("written"):
            if writer.missing():
                carry_out(writer, Plan(folder / PLAN, columns), way, sizes, report)
            else:
                report.say(f"{folder} is complete: nothing to do.")
        with agreed("finished"):
            writer.finish()
    return open_store(folder)


@contextmanager
def _leading(
    folder: Path, manifest: Manifest, work: Iterator[Work], columns: tuple[str, ...], sizes: Sizes
) -> Iterator[Writer]:
    """A writer, after the plan was made; of a store that is complete, the text is only compared."""
    with held(folder):
        if (there := finished(folder)) is not None:
            rows = scan(work, len(columns), lambda data: None)
            whole, plan = _as_there(manifest, there, rows.text()), None
        else:
            planned = draft(folder, work, columns, sizes)
            rows, plan = planned.rows, planned.path
            whole = replace(
                manifest,
                rows=len(rows.docs),
                documents=int(rows.docs.max(initial=-1)) + 1,
                count=planned.shards,
                plan_sha256=planned.sha256,
                config=manifest.config | {"text": rows.text()},
            )
        if not len(rows.docs):
            raise BadArgument("`documents` holds no text. Give at least one that is not empty.")
        with writing(folder, whole, plan) as writer:
            yield writer


@contextmanager
def _joined(folder: Path, manifest: Manifest) -> Iterator[Writer]:
    """A writer of shards of the store that the first process planned."""
    there = read_manifest(folder)
    with joining(folder, _as_there(manifest, there, there.config.get("text"))) as writer:
        yield writer


def _as_there(manifest: Manifest, there: Manifest, text: Any) -> Manifest:
    """`manifest` with the counts of a plan that was made before."""
    counts = {k: getattr(there, k) for k in ("rows", "documents", "count", "plan_sha256")}
    return replace(manifest, config=manifest.config | {"text": text}, **counts)


def _parts_of(model: Any, sampling: Sampling | None) -> tuple[Any, Any, int | None, int | None]:
    """What computes, its tokenizer, its context and its vocabulary, as far as they are known."""
    if isinstance(model, LanguageModel):
        return model.decoder, model.tokenizer, model.config.context, model.config.vocab
    if isinstance(model, Decoder):
        return model, None, model.config.context, model.config.vocab
    if isinstance(model, Uncached):
        core = model if sampling is not None else partial(model.call, edit={})
        return core, None, model.context, None
    if not callable(model):
        raise BadArgument(
            f"`model` is {shown(model)}. Give a language model, or a callable of the contract."
        )
    if sampling is not None:
        raise BadArgument(
            "`sampling` continues prompts, for which a callable must be wrapped: give "
            "`Uncached(model)`."
        )
    return model, None, None, None


def _kept(
    core: Any, layers: Collection[Name] | None, dtype: Any, stride: int, top: int
) -> tuple[Keep, dict[int | str, int]]:
    """What is kept of each row, and the dimension of each layer."""
    try:
        kind = jnp.dtype(dtype)
    except TypeError:
        kind = None
    if kind is None or kind.name not in FLOATS or kind.name == "float64":
        raise BadArgument(f"`dtype` is {shown(dtype)}. Use bfloat16, float16 or float32.")
    if isinstance(core, Decoder):
        check_top(top, core.config.vocab)
        names = chosen(layers, core.config.depth)
        dims: dict[int | str, int] = {one: core.config.width for one in names}
    else:
        call = partial(core.call, edit={}) if isinstance(core, Uncached) else core
        here = jnp.zeros((1, 1), jnp.int32)
        logits, states = call(here, here)
        check_top(top, int(np.shape(logits)[-1]))
        names = chosen(list(states) if layers is None else layers, None)
        if absent := [one for one in names if one not in states]:
            raise BadArgument(
                f"`layers` names {absent}. The model returns the states of {list(states)}."
            )
        dims = {one: int(np.shape(states[one])[-1]) for one in names}
    if not names:
        raise BadArgument("`layers` is empty. Name at least one layer.")
    return Keep(names, kind, stride, top), dims


def _with_stops(sampling: Sampling, model: Any) -> Sampling:
    sampling.check()
    if sampling.stop is None:
        stop = model.stop if isinstance(model, LanguageModel) else ()
        return replace(sampling, stop=tuple(stop))
    return sampling


def _most(max_tokens: int | None, context: int | None, budget: int) -> int:
    """The longest row that is read, or prompt that is continued."""
    room = LONG if context is None else context - budget
    if room < 1:
        raise BadArgument(
            f"`budget` is {budget} and the context of this model {context}. Nothing is left for "
            "the prompt: sample less."
        )
    if max_tokens is None:
        return room
    check_whole("max_tokens", max_tokens, 2)
    max_tokens = int(max_tokens)
    if max_tokens > room:
        raise BadArgument(
            f"`max_tokens` is {max_tokens}. The context of this model leaves room for {room}."
        )
    return max_tokens


def _documents(documents: Iterable[str | Ids | Document]) -> Iterator[Document]:
    if isinstance(documents, str):
        raise BadArgument("`documents` is one text. Give a list of texts.")
    for one in documents:
        yield one if isinstance(one, Document) else Document(one)


def _work(
    pieces: Iterator[Piece], sampling: Sampling | None
) -> tuple[Iterator[Work], tuple[str, ...]]:
    """Every row, and the names of the numbers that each has."""
    first = next(pieces, None)
    if first is None:
        return iter(()), ()
    own, rest = tuple(first.columns), itertools.chain([first], pieces)
    if wrong := [name for name in own if not isinstance(name, str)]:
        raise BadArgument(f"`columns` of a document has the name {shown(wrong[0])}. Use a word.")
    if sampling is not None and (twice := set(own) & set(sampling.columns())):
        raise BadArgument(
            f"Prompts have a number called {sorted(twice)[0]!r}, which is what the store calls a "
            "setting of the sampling. Give it another name, or leave it out."
        )
    same = (_with_columns(one, own) for one in rest)
    if sampling is not None:
        return sampling.work(same, own), (*own, *sampling.columns())
    read = (
        Work(one.doc, one.tokens, one.prompt, tuple(float(one.columns[k]) for k in own))
        for one in same
    )
    return read, own


def _with_columns(piece: Piece, own: tuple[str, ...]) -> Piece:
    if set(piece.columns) != set(own):
        raise BadArgument(
            f"Document {piece.doc} has the numbers {list(piece.columns)} and document 0 "
            f"{list(own)}. Give all documents the same."
        )
    return piece

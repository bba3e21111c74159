"""`dynlm export`: states of texts, or of what a model makes of prompts, as a store."""

import itertools
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .._fields import brief
from .._io import BadArgument
from ..store._reader import Store
from ..store._revisions import folder_name, write_revisions
from ._common import bytes_of, check_numbers, going_on, join, print_json, shares_of, tell
from ._options import Files, Name, Names, Numbers, Text, Whole, Wholes
from ._revised import Choice, choices, common_context
from ._several import overview, several_table

OF_TEXT = ("prompt_field", "keep", "layout", "separator")
GRID = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
OF_PROMPTS = ("samples", "max_new_tokens", *GRID, "seed")
LEAST = {
    "limit": 1, "stride": 1, "top": 0, "max_tokens": 2, "batch_tokens": 1, "split_seed": 0,
    "samples": 1, "max_new_tokens": 1, "seed": 0, "processes": 1, "process": 0,
}  # fmt: skip


@dataclass(frozen=True)
class Export:
    """Write the hidden states of a language model to a store: of texts, or while it samples.

    Either --text reads texts as they are, or --prompts continues each prompt. Stopped or killed,
    the same command goes on where it was. `dynlm inspect` shows what is there.

    Such as:

      dynlm export --model demo --text book.txt --out store
      dynlm export --model gpt2 --text qa.jsonl.gz --layout helpsteer --layers 0 6 final --out qa
      dynlm export --model gpt2 --prompts prompts.txt --samples 8 --temperature 0.7 1.0 --out drawn
      dynlm export --model EleutherAI/pythia-70m --revisions step0,step512,step143000
        --text book.txt --layers 3 --out checkpoints

    Args:
        model: An id on the Hugging Face hub, a folder, or "demo", which is in this package.
        out: Folder of the store.
        text: Files of text: plain, or JSON lines; also .gz.
        prompts: Files of prompts: a line each, or JSON lines; also .gz.
        field: Of JSON lines, the field that holds the text or prompt; a dotted path, as turns.0.
        prompt_field: With --text, the field with what comes before the text.
        keep: With --text, fields with numbers to keep for each document.
        layout: With --text, the fields of a known dataset: helpsteer.
        separator: With --text, what stands between documents of plain text, as "\\n\\n". Without it
            plain text is one stream, whose pieces count as documents.
        samples: With --prompts, how many of each prompt in each cell of the grid; else 1.
        max_new_tokens: With --prompts, the most tokens to sample; else 128.
        temperature: With --prompts; 0 is greedy. Several make a grid, here and below. Else 1.
        top_k: With --prompts, how many of the likeliest tokens may be drawn.
        top_p: With --prompts, which share of the probability may be drawn.
        min_p: With --prompts, the least probability relative to the likeliest token's.
        repetition_penalty: With --prompts; above 1, what was said before becomes less likely.
        seed: With --prompts, of the random numbers; else 0.
        layers: 0 is the embedding, k the output of block k, "final" after the last norm; or all.
        dtype: Of the states on disk.
        model_dtype: In which the model computes.
        stride: Of each row keep one state in so many.
        top: How many of the likeliest next tokens to keep beside each.
        max_tokens: The most tokens of a row; longer texts are cut. Else the model's context.
        batch_tokens: The most tokens of a batch, padding included.
        shard_mb: A shard ends with the batch that reaches so many MiB.
        shares: Of the documents that are for training, validation and test.
        split_seed: Another seed divides the documents otherwise.
        limit: Only so many documents or prompts, the first.
        revision: A branch, tag or commit on the hub; of "demo": untrained or early.
        revisions: Several, with commas between: the same text through each, a store each. Also
            MODEL@REVISION or MODEL@ for other models with the same tokenizer.
        coordinator: To share the work: host:port of process 0, the same for all.
        processes: To share the work: how many processes there are.
        process: To share the work: which of them this is, from 0.
        distributed: Share the work of a cluster that JAX recognises by itself.
        quiet: No estimate, no progress and no table.
        json: Print what the store holds as one line of JSON; the table goes to stderr.
    """

    model: str
    out: Path
    text: Files = ()
    prompts: Files = ()
    field: Name = None
    prompt_field: Name = None
    keep: Names = ()
    layout: Name = None
    separator: Text = None
    samples: Whole = None
    max_new_tokens: Whole = None
    temperature: Numbers = ()
    top_k: Wholes = ()
    top_p: Numbers = ()
    min_p: Numbers = ()
    repetition_penalty: Numbers = ()
    seed: Whole = None
    layers: tuple[str, ...] = ("all",)
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    model_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    stride: int = 1
    top: int = 0
    max_tokens: Whole = None
    batch_tokens: int = 4096
    shard_mb: float = 256.0
    shares: tuple[float, float, float] = (0.8, 0.1, 0.1)
    split_seed: int = 0
    limit: Whole = None
    revision: Name = None
    revisions: Name = None
    coordinator: Name = None
    processes: Whole = None
    process: Whole = None
    distributed: bool = False
    quiet: bool = False
    json: bool = False

    @property
    def layer_names(self) -> list[str]:
        """The names in `layers`, which may stand between spaces or commas."""
        return [name for one in self.layers for name in one.split(",") if name]

    def check(self) -> None:
        """Refuse what contradicts itself, or cannot be."""
        if bool(self.text) == bool(self.prompts):
            both = "Both `--text` and `--prompts` are" if self.text else "No text is"
            raise BadArgument(
                f"{both} given. Use `--text FILES` to read texts as they are, or `--prompts FILES` "
                "to continue each."
            )
        other, flag = (OF_PROMPTS, "--prompts") if self.text else (OF_TEXT, "--text")
        for name in other:
            if getattr(self, name) not in (None, ()):
                raise BadArgument(
                    f"`--{name.replace('_', '-')}` is only for `{flag}`. Leave it out, or use "
                    f"`{flag}`."
                )
        if self.revision is not None and self.revisions is not None:
            raise BadArgument(
                "Both `--revision` and `--revisions` are given. Name all in `--revisions`, with "
                "commas between."
            )
        check_numbers(self, LEAST)
        names = self.layer_names
        if "all" in names and len(names) > 1:
            raise BadArgument("`--layers` names all and more. Write `--layers all`, or some names.")
        known = [name for name in names if name in ("all", "final") or name.isdecimal()]
        if len(known) < len(names) or not known:
            wrong = ", ".join(name for name in names if name not in known) or "nothing"
            raise BadArgument(
                f"`--layers` names {brief(wrong)}. Use numbers from 0 on, final or all."
            )


def run(config: Export) -> None:
    """Load the model, write the store or stores, and say what they hold."""
    config.check()
    leader = _join(config)
    settings: dict[str, Any] = dict(
        dtype=config.dtype,
        stride=config.stride,
        top=config.top,
        batch_tokens=config.batch_tokens,
        shard_bytes=bytes_of(config.shard_mb),
        shares=shares_of(config.shares, config.split_seed),
        split_seed=config.split_seed,
        sampling=_sampling(config),
        quiet=config.quiet,
    )
    quiet, as_json = config.quiet or not leader, config.json and leader
    if config.revisions is not None:
        _through(config, settings, quiet, as_json)
        return
    one = Choice("", config.model, config.revision)
    with going_on(config.out):
        store = _export(config, one, config.out, config.max_tokens, settings)
    tell(store, quiet=quiet, as_json=as_json)


def _through(config: Export, settings: dict[str, Any], quiet: bool, as_json: bool) -> None:
    """The same text through each of several revisions."""
    chosen = choices(config.model, config.revisions or "")
    most = common_context(chosen) - _budget(config)
    most = most if config.max_tokens is None else config.max_tokens
    names = [one.name for one in chosen]
    write_revisions(config.out, names)
    stores = {}
    for number, one in enumerate(chosen):
        if not quiet:
            print(f"export: {one.name}, {number + 1} of {len(chosen)}", file=sys.stderr, flush=True)
        folder = config.out / folder_name(one.name)
        with going_on(folder):
            stores[one.name] = _export(config, one, folder, most, settings)
    found = overview(config.out, names, stores)
    if not quiet:
        print(several_table(found), file=sys.stderr if as_json else sys.stdout, flush=True)
    if as_json:
        print_json(found)


def _export(
    config: Export, one: Choice, folder: Path, most: int | None, settings: dict[str, Any]
) -> Store:
    """One store, by one model, which is loaded here so that two never are."""
    from ..lm._export import export
    from ..lm._load import load

    model = load(one.model, revision=one.revision, dtype=config.model_dtype)
    names = [int(name) if name.isdecimal() else name for name in config.layer_names]
    context = model.config.context
    if _budget(config) >= context:
        raise BadArgument(
            f"`--max-new-tokens` is {_budget(config)} and the context of {one.model} {context}. "
            "Nothing is left for a prompt: sample less."
        )
    layers: Any = None if names == ["all"] else names
    documents, skipped = _documents(config, model, most or context)
    store = export(model, documents, folder, layers=layers, max_tokens=most, **settings)
    if skipped.skipped and not config.quiet:
        print(f"export: empty texts left out: {skipped.skipped}", file=sys.stderr, flush=True)
    return store


def _documents(config: Export, model: Any, most: int) -> tuple[Iterable[Any], Any]:
    """The documents to export, and those of the files, which know how many were skipped."""
    from ..lm._documents import Document, read_documents, read_prompts
    from ..lm._pieces import token_rows

    if config.prompts:
        whole = read_prompts(config.prompts, field=config.field)
        return itertools.islice(whole, config.limit), whole
    whole = read_documents(
        config.text,
        field=config.field,
        prompt_field=config.prompt_field,
        keep=config.keep,
        layout=config.layout,
        separator=config.separator,
    )
    stream = config.field is None and config.layout is None and config.separator is None
    if config.limit is None or not stream:
        return itertools.islice(whole, config.limit), whole
    # The documents of a stream are the pieces that it is cut into.
    pieces = token_rows(model.tokenizer, whole, most=most, vocab=model.config.vocab)
    return (Document(one.tokens) for one in itertools.islice(pieces, config.limit)), whole


def _sampling(config: Export) -> Any:
    """How prompts are continued; None where texts are read."""
    if not config.prompts:
        return None
    from ..lm._grid import Sampling

    given: dict[str, Any] = {
        name: list(values) for name in GRID if (values := getattr(config, name))
    }
    sampling = Sampling(
        samples=1 if config.samples is None else config.samples,
        budget=_budget(config),
        seed=config.seed or 0,
        **given,
    )
    sampling.check()
    return sampling


def _budget(config: Export) -> int:
    """How many tokens are sampled at most."""
    if not config.prompts:
        return 0
    return 128 if config.max_new_tokens is None else config.max_new_tokens


def _join(config: Export) -> bool:
    """Joins the other processes, before anything else touches a device; whether this one leads."""
    if not join(config):
        return True
    import jax

    from ..lm._work import meet

    meet("met")  # before models are loaded, which may take one longer than the other
    return jax.process_index() == 0

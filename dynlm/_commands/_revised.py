"""Several revisions of a model, or several models, found and compared before any is loaded."""

import os
from pathlib import Path
from typing import NamedTuple, final

from .._fields import shown
from .._io import BadArgument


@final
class Choice(NamedTuple):
    """A model at a revision, and what the user called it."""

    name: str
    model: str
    revision: str | None


def choices(model: str, revisions: str) -> list[Choice]:
    """What `--revisions a,b,MODEL@c,MODEL@` names: revisions of `model`, or of other models."""
    names = [name.strip() for name in revisions.split(",")]
    if "" in names:
        raise BadArgument(
            f"`--revisions` is {shown(revisions)}. Put names between the commas: a,b,c."
        )
    out = []
    for name in names:
        other, at, revision = name.rpartition("@")
        if revision and _is_model(name):
            raise BadArgument(
                f"`--revisions` names {name}, which is a folder with a model. Write {name}@ for "
                "that model; a name alone is a revision of `--model`."
            )
        out.append(
            Choice(name, other or model, revision or None) if at else Choice(name, model, name)
        )
    lasts = [_last_part(one) for one in out]
    taken = [last or one.name for one, last in zip(out, lasts)]
    return [
        one._replace(name=last) if last and taken.count(last) == 1 else one
        for one, last in zip(out, lasts)
    ]


def _is_model(folder: str) -> bool:
    return os.path.isfile(os.path.join(os.path.expanduser(folder), "config.json"))


def _last_part(one: Choice) -> str:
    """How a folder that was named by its path is called; empty for what is none."""
    if not one.name.endswith("@") or one.name == "@" or not _is_model(one.model):
        return ""
    return Path(one.model).expanduser().resolve().name


def common_context(chosen: list[Choice]) -> int:
    """The shortest context of some models, which must have one tokenizer.

    All are fetched here: one that is missing is better known now than in the night.

    Raises:
        BadArgument: One cannot be had, or has another tokenizer.
    """
    from ..lm._files import locate
    from ..lm._identity import tokenizer_digest
    from ..lm._normalise import read_config
    from ..lm._tokenizer import import_transformers, read_tokenizer

    import_transformers()
    contexts, digests = [], {}
    seen: dict[Path, str | None] = {}
    for one in chosen:
        found = locate(one.model, one.revision)
        config = read_config(found.folder)
        contexts.append(config.context)
        if found.folder not in seen:
            seen[found.folder] = tokenizer_digest(read_tokenizer(found.folder, config.vocab))
        digests.setdefault(seen[found.folder], one.name)
    if len(digests) > 1:
        first, other, *_ = digests.values()
        raise BadArgument(
            f"`--revisions`: {first} and {other} have different tokenizers, so that the rows of "
            "one are not those of the other. Export them apart, without `--revisions`."
        )
    return min(contexts)

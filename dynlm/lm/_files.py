"""Finding a checkpoint: a folder, an id on the Hugging Face hub, or the model in this package."""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, final

from .._fields import brief, read_json, unreadable
from .._io import BadArgument
from .._safetensors import Stored, stored_in, with_scales

DEMO = Path(__file__).parent / "demo"
EARLY = ("untrained", "early")  # revisions of the model in this package
CONFIG, GENERATION = "config.json", "generation_config.json"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
TOKENIZER = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
WANTED = (CONFIG, GENERATION, *TOKENIZER, INDEX, SINGLE)
OTHER = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5", ".gguf", ".onnx", ".npz")
SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
LONGEST_FILE = 255  # bytes of a file's name, on all usual systems
CONVERT = (
    "Convert it once, where torch is installed and the files are trusted: "
    "transformers.AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(OTHER_FOLDER), "
    "and the tokenizer likewise."
)
CONNECT = (
    "These are the files in the hub's cache. If the hub could not be reached, or HF_HUB_OFFLINE is "
    "set, the rest may not be there yet: connect once and load again."
)


@final
class Found(NamedTuple):
    """A checkpoint on this machine: its folder, its weights, and which of them holds what.

    `revision` is the commit that a revision of the hub stood for. `index` is None where one file
    holds all.
    """

    name: str
    revision: str | None
    folder: Path
    weights: tuple[Path, ...]
    index: Mapping[str, str] | None


def locate(name: str | Path, revision: str | None = None) -> Found:
    """The files of a checkpoint, fetched from the hub if they are there and not yet here.

    `"demo"` is the model in this package. A `Path`, or a string that is a folder or looks like a
    path, is a folder; any other string is an id on the hub.
    """
    if name == "demo":
        return _demo(revision)
    folder = _local(name)
    if folder is None:
        return _fetched(str(name), revision)
    if revision is not None:
        raise BadArgument(
            f"`revision` {revision!r} was given for {folder}, which is a folder. Revisions are "
            "those of an id on the hub: leave it out."
        )
    return _in_folder(str(name), None, folder)


def tensors(found: Found, ignored: Callable[[str], bool] = lambda name: False) -> dict[str, Stored]:
    """Every tensor of a checkpoint by its name on disk, from headers alone.

    Args:
        found: The checkpoint.
        ignored: Whether nothing is read from a tensor of this name, so that it may be absent.
    """
    index, out = found.index, {}
    for path in found.weights:
        for name, stored in stored_in(path).items():
            if name in out:
                raise BadArgument(
                    f"`{brief(name)}` is both in {out[name].file} and in {path}. Remove the "
                    "file that does not belong there."
                )
            out[name] = stored
    for name, shard in ({} if index is None else index).items():
        there = name in out and out[name].file.name == shard
        if not there and not ignored(name):
            raise BadArgument(
                f"{found.folder / INDEX} says that {brief(shard)} holds `{brief(name)}`, which it "
                "does not. Fetch the index and the files of weights again, from one revision."
            )
    # Elsewhere, 8-bit integers are someone's own way to quantise, whatever their scales are called.
    early = found.name == "demo" and found.revision is not None
    return with_scales(out) if early else out


def is_there(path: Path) -> bool:
    """Whether there is such a file; a link to a file that is gone is refused."""
    if path.is_symlink() and not path.exists():
        raise BadArgument(
            f"{path} is a link to {brief(os.readlink(path))}, which is not there. Fetch the "
            "checkpoint again, or copy it with the files that its links lead to."
        )
    return path.is_file()


def _demo(revision: str | None) -> Found:
    if revision is None:
        return _in_folder("demo", None, DEMO)
    if revision not in EARLY:
        raise BadArgument(
            f"`revision` {revision!r} of the model in this package is none of {EARLY}. Choose one "
            "of them, or leave it out for the trained model."
        )
    return Found("demo", revision, DEMO, (DEMO / f"{revision}.safetensors",), None)


def _local(name: str | Path) -> Path | None:
    """The folder that is meant, or None where an id on the hub is."""
    text = str(name)
    try:
        folder = Path(name).expanduser()
        is_folder, is_file = folder.is_dir(), folder.is_file()
    except PermissionError as error:
        raise unreadable(Path(text), error) from None
    except (OSError, RuntimeError, ValueError) as error:
        raise BadArgument(
            f"`name` {brief(text)!r} is no path: {brief(error)}. Give a folder, or an id on the "
            "hub."
        ) from None
    if is_folder and text:
        return folder
    if is_file:
        raise BadArgument(
            f"{folder} is a file. Give the folder that holds it, {CONFIG} and the tokenizer."
        )
    like_a_path = text.startswith((".", "/", "~")) or text.endswith("/") or text.count("/") > 1
    if isinstance(name, Path) or like_a_path or "\\" in text or not text:
        raise BadArgument(
            f"There is no folder {brief(text)!r}. Give a folder, or an id on the hub."
        )
    return None


def _in_folder(name: str, revision: str | None, folder: Path) -> Found:
    try:
        if not is_there(folder / CONFIG):
            raise BadArgument(
                f"{folder} has no {CONFIG}. Give the folder of a checkpoint in Hugging Face's "
                "layout."
            )
        if is_there(folder / SINGLE):
            return Found(name, revision, folder, (folder / SINGLE,), None)
        if not is_there(folder / INDEX):
            raise BadArgument(_without_weights(folder))
        index = _index(folder / INDEX)
        shards = tuple(folder / shard for shard in sorted(set(index.values())))
        missing = [brief(shard.name) for shard in shards if not is_there(shard)]
    except OSError as error:
        raise unreadable(folder, error) from None
    if missing:
        raise BadArgument(
            f"{folder} lacks {len(missing)} of the {len(shards)} files that {INDEX} names: "
            f"{', '.join(missing[:3])}. Fetch them."
        )
    return Found(name, revision, folder, shards, index)


def _index(path: Path) -> dict[str, str]:
    """Which file holds each tensor. None may lie outside the folder."""
    index = read_json(path).get("weight_map")
    if not isinstance(index, dict) or not index:
        raise BadArgument(f"{path} has no `weight_map` of names to files. Fetch it again.")
    for name, shard in index.items():
        if not _plain(shard):
            raise BadArgument(
                f"{path} places `{brief(name)}` in {brief(shard)!r}. Only safetensors "
                "files in the same folder are read."
            )
    return index


def _plain(shard: Any) -> bool:
    """Whether it can be the name of a safetensors file in the same folder."""
    if not isinstance(shard, str) or not shard.endswith(".safetensors"):
        return False
    try:
        size = len(os.fsencode(shard))
    except UnicodeEncodeError:
        return False
    return size <= LONGEST_FILE and set("/\\:\0").isdisjoint(shard)


def _without_weights(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    shards = [name for name in names if SHARD.fullmatch(name)]
    if shards:
        return (
            f"{folder} has {len(shards)} files like {shards[0]}, but not {INDEX}, which says what "
            "they hold. Fetch it too."
        )
    other = [name for name in names if name.endswith(OTHER)]
    if any(name.endswith(OTHER[:5]) for name in other):
        return (
            f"{folder} has its weights only as {', '.join(other[:3])}: to read such files may run "
            f"code in them, so dynlm never does. {CONVERT}"
        )
    kept = [name for name in names if name.endswith(".safetensors")] + other
    there = f" (only {', '.join(kept[:3])})" if kept else ""
    return (
        f"{folder} has no weights: neither {SINGLE} nor {INDEX}{there}. Give a folder, or an id on "
        f"the hub, that has them. A model that has only .bin or .pt files is not read. {CONVERT}"
    )


def _fetched(name: str, revision: str | None) -> Found:
    """From the hub's cache, or the hub: first all but the shards, then those that the index names.

    So weights that are there twice, in another layout, are not fetched; nor is anything that is
    not safetensors.
    """
    folder = _snapshot(name, revision, WANTED)
    commit = folder.name
    if (folder / INDEX).is_file() and not (folder / SINGLE).is_file():
        shards = sorted(set(_index(folder / INDEX).values()))
        literal = [shard.replace("[", "[[]").replace("*", "[*]") for shard in shards]
        folder = _snapshot(name, commit, tuple(shard.replace("?", "[?]") for shard in literal))
    try:
        return _in_folder(name, commit, folder)
    except BadArgument as error:
        raise BadArgument(f"{error} {CONNECT}") from None


def _snapshot(name: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))
    except Exception as error:  # of that library, its HTTP client, or the disk
        raise BadArgument(_why_not(name, revision, error)) from error


def _why_not(name: str, revision: str | None, error: Exception) -> str:
    """What a user can do about an error of the hub's library."""
    from huggingface_hub import errors

    lines = str(error).strip().splitlines() or [type(error).__name__]
    if isinstance(error, errors.HFValidationError):
        return (
            f"{name!r} is neither a folder here nor an id on the hub, which is like 'gpt2' or "
            "'owner/name'. Check the spelling."
        )
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{name!r} is gated: accept its terms at https://huggingface.co/{name}, then log in "
            "with `hf auth login` or set HF_TOKEN."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"There is no folder {name!r} here, and the hub shows no model of that name. Check the "
            "spelling; if the model is private, log in with `hf auth login` or set HF_TOKEN."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return (
            f"{name!r} has no `revision` {revision!r} on the hub. Give a branch, a tag or a commit "
            f"that https://huggingface.co/{name}/commits lists, or leave it out."
        )
    if isinstance(error, errors.LocalEntryNotFoundError):
        of = "" if revision is None else f" of revision {revision!r}"
        return (
            f"{name!r} is no folder here, its files{of} are not all in the hub's cache, and the "
            "hub cannot be reached (or HF_HUB_OFFLINE is set). Connect once and load again, or "
            "give a folder."
        )
    return f"{name!r} could not be fetched from the hub: {lines[0][:300]}. Try again."

"""Reading a tokenizer with transformers, which is loaded without its advice about torch."""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .._fields import brief, read_json
from .._io import BadArgument
from ._files import CONFIG, GENERATION, TOKENIZER, is_there

PIECES = "tokenizer.model"
VOCABULARIES = ("tokenizer.json", PIECES, "vocab.json")
SETTINGS = "tokenizer_config.json"
NAMES_FILES = ("vocab", "merges", "init_inputs")  # in the settings, like all that ends in `_file`
SILENT = "TRANSFORMERS_NO_ADVISORY_WARNINGS"  # read by transformers while it is imported


def import_transformers() -> None:
    """Imports transformers, which otherwise prints that without torch it has no models."""
    if "transformers" in sys.modules:
        return
    before = os.environ.get(SILENT)
    os.environ[SILENT] = "1"
    try:
        import_module("transformers")
    finally:
        if before is None:
            del os.environ[SILENT]
        else:
            os.environ[SILENT] = before


def read_stops(folder: Path, tokenizer: Any, vocab: int) -> tuple[int, ...]:
    """The tokens that end a text: as the checkpoint's settings for generation say, or its config.

    Those of chat models are often several, of which the tokenizer names one.
    """
    for name in (GENERATION, CONFIG):
        if (folder / name).is_file():
            given = read_json(folder / name).get("eos_token_id")
            ids = given if isinstance(given, list) else [given]
            stops = tuple(k for k in ids if type(k) is int and 0 <= k < vocab)
            if stops:
                return stops
    end = getattr(tokenizer, "eos_token_id", None)
    return () if end is None or end >= vocab else (end,)


def read_tokenizer(folder: Path, vocab: int) -> Any:
    """The tokenizer in a folder, or None if there is none; one that does not fit is refused."""
    if not any([is_there(folder / name) for name in VOCABULARIES]):  # each, for broken links
        return None
    import_transformers()
    try:
        with _harmless(folder) as inside:
            tokenizer = _made(inside, folder)
        ids = tokenizer.get_vocab().values()
        special = {*tokenizer.all_special_ids, *getattr(tokenizer, "added_tokens_decoder", ())}
        always = tokenizer("")["input_ids"]
    except BadArgument:
        raise
    except Exception as error:  # the tokenizers library raises bare exceptions
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise BadArgument(
            f"The tokenizer in {folder} cannot be read: {brief(lines[0], 200).rstrip('.')}. "
            f"{_instead(folder)}, or load with `tokenizer=False`."
        ) from error
    # Gemma 3 without images comes with an added token for them, one past its table: what a model
    # has no row for matters where text holds it, and is refused there.
    beyond = [k for k in ids if k >= vocab and (k in always or k not in special)]
    if beyond:
        raise BadArgument(
            f"The tokenizer in {folder} does not belong to the model: its ids go up to "
            f"{max(beyond)}, and the model knows {vocab} tokens, 0 to {vocab - 1}. Put the model's "
            "own tokenizer there, or load with `tokenizer=False`."
        )
    return tokenizer


def _made(inside: Path, folder: Path) -> Any:
    """The tokenizer of a folder from its files in `inside`."""
    from transformers import AutoConfig, AutoTokenizer

    # Else the config is read again, without the care of `read_config`: all that a tokenizer's
    # class depends on is the type of the model and, in old checkpoints, one more field.
    raw = read_json(folder / CONFIG)
    named = isinstance(raw.get("tokenizer_class"), str)
    more = {"tokenizer_class": raw["tokenizer_class"]} if named else {}
    config = AutoConfig.for_model(raw["model_type"], **more)
    tokenizer = AutoTokenizer.from_pretrained(str(inside), config=config, trust_remote_code=False)
    if inside != folder:
        tokenizer.name_or_path = str(folder)
        if isinstance(getattr(tokenizer, "vocab_file", None), str):
            tokenizer.vocab_file = str(folder / Path(tokenizer.vocab_file).name)
    return tokenizer


@contextmanager
def _harmless(folder: Path) -> Iterator[Path]:
    """The folder; or a copy of its tokenizer, if the settings name files, without those settings.

    Some versions of transformers open whatever file `vocab_file` and its like name, wherever on
    this machine that is. In old checkpoints they name files of the machine that made them, to no
    purpose, so they are no reason to refuse a checkpoint.
    """
    settings = read_json(folder / SETTINGS) if is_there(folder / SETTINGS) else {}
    kept = {
        name: value
        for name, value in settings.items()
        if value is None or not (name.endswith("_file") or name in NAMES_FILES)
    }
    if len(kept) == len(settings):
        yield folder
        return
    with tempfile.TemporaryDirectory() as made:
        for name in (CONFIG, *TOKENIZER):
            if is_there(folder / name):
                shutil.copyfile(folder / name, Path(made) / name)
        (Path(made) / SETTINGS).write_text(json.dumps(kept))
        yield Path(made)


def _instead(folder: Path) -> str:
    """What to do about a tokenizer that cannot be read."""
    there = [name for name in VOCABULARIES if (folder / name).is_file()]
    if there == [PIECES] and find_spec("sentencepiece") is None:
        return (
            f"Its {PIECES} needs the package sentencepiece: install it (`pip install sentencepiece "
            "protobuf`)"
        )
    return "Fetch its files again"

"""From a config of transformers, an object or a folder's config.json, to a `Config`."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from .._fields import Fields, brief, read_json, shown
from .._io import BadArgument
from ._common import LARGEST_SIZE, MOST_LAYERS
from ._config import Config
from ._families import READERS

WITH_IMAGES = "gemma3"  # of which only the part that reads text is used
SIZES = {
    **dict.fromkeys(("num_hidden_layers", "n_layer"), MOST_LAYERS),
    **dict.fromkeys(("hidden_size", "n_embd", "num_attention_heads", "n_head"), LARGEST_SIZE),
}

# Of no consequence for the computation; some make transformers import torch, or count to a number
# that the file names.
DROPPED = {
    "architectures", "auto_map", "configuration_files", "dtype", "id2label", "label2id",
    "model_type", "num_labels", "problem_type", "task_specific_params", "torch_dtype",
}  # fmt: skip


def normalise(config: Any) -> Config:
    """The decoder that a config of transformers describes.

    What this package does not compute as transformers does is refused by its name: other model
    types, rope types, activations and kinds of layers, quantised weights, attention to later
    tokens or to an encoder.

    Args:
        config: A `PreTrainedConfig` of transformers 5, or any object with its fields.
    """

    def get(name: str) -> Any:
        return getattr(config, name, None)

    kind = _checked(get)
    if kind == WITH_IMAGES:
        return _text(normalise(config.text_config), get)
    try:
        return READERS[kind](Fields(get))
    except BadArgument:
        raise
    except ValueError as error:  # by `Config`, of numbers that do not fit each other
        raise BadArgument(str(error)) from None


def read_config(folder: Path) -> Config:
    """The decoder that the config.json of a folder describes; no code in the folder is run."""
    path = folder / "config.json"
    raw = read_json(path)
    try:
        if _checked(raw.get) == WITH_IMAGES:
            fields = {} if raw.get("text_config") is None else raw["text_config"]
            if not isinstance(fields, dict):
                raise Fields(raw.get).wrong("text_config", "It must be a dictionary.")
            return _text(normalise(_translated({**fields, "model_type": "gemma3_text"})), raw.get)
        return normalise(_translated(raw))
    except BadArgument as error:
        raise BadArgument(f"{path}: {error}") from None


def supported() -> str:
    """The model types that can be read, for sentences."""
    return ", ".join([*READERS, WITH_IMAGES])


def _checked(get: Callable[[str], Any]) -> str:
    """The model type, if its fields name nothing that is refused for every family."""
    kind = get("model_type")
    if not isinstance(kind, str) or kind not in (*READERS, WITH_IMAGES):
        code = " The code that it brings (`auto_map`) is never run." if get("auto_map") else ""
        raise BadArgument(
            f"`model_type` is {shown(kind)}, which is not supported. Supported are "
            f"{supported()}.{code}"
        )
    for name in ("quantization_config", "compression_config"):
        given = get(name)
        if given:
            method = given.get if isinstance(given, dict) else partial(getattr, given)
            raise BadArgument(
                f"`{name}` names weights quantised by {shown(method('quant_method', None))}, which "
                "are not supported. Supported are weights in float32, float16 and bfloat16: load "
                "the checkpoint that these were made from."
            )
    if get("is_heterogeneous"):
        raise BadArgument(
            "`per_layer_config` gives some layers sizes of their own, which is not supported. Load "
            "a checkpoint whose layers differ at most by `layer_types`."
        )
    if get("is_causal") is False:
        raise BadArgument(
            "`is_causal` is false: models that see later tokens are not supported. Load a causal "
            "language model."
        )
    return kind


def _text(config: Config, get: Callable[[str], Any]) -> Config:
    """The part of Gemma 3 that reads text, as it stands inside of the one that reads images."""
    tied = Fields(get).flag("tie_word_embeddings", True)
    return replace(config, tied=tied, logit_cap=None)  # transformers applies no cap there


def _translated(raw: dict[str, Any]) -> Any:
    """What transformers makes of the fields: it turns older forms into those of today.

    By `AutoConfig.for_model`, which unlike `from_pretrained` has no way to run foreign code.
    """
    fields = Fields(raw.get)
    for name, most in SIZES.items():  # before transformers counts up to them
        if raw.get(name) is not None:
            fields.whole(name, most=most)
    from transformers import AutoConfig, __version__

    kept = {name: value for name, value in raw.items() if name not in DROPPED}
    scaling = raw.get("rope_scaling")
    if isinstance(scaling, dict) and scaling.get("type") == "su":  # Phi-3's first name of it
        kept["rope_scaling"] = {**scaling, "type": "longrope"}
    try:
        return AutoConfig.for_model(raw["model_type"], **kept)
    except Exception as error:  # of many kinds, for a file that someone else wrote
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise BadArgument(
            f"transformers {__version__} does not read it: {brief(reason, 200)}. Mend the "
            "file, or fetch the checkpoint again."
        ) from None

"""What a run was fitted with: plain values, kept in its folder and compared when it goes on."""

import dataclasses
import functools
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from . import specs
from ._data import facts_of
from ._fields import read_json, shown
from ._io import BadArgument
from ._run import RUN, Law, write_run


def facts_of_fit(model: Any, loss: Callable, law: Law, windows: Any) -> dict[str, Any]:
    """Of the model, the loss and the data; what else was chosen is added by who fits."""
    known = isinstance(model, specs.Spec) and type(model).__name__ in specs.SPECS
    return {
        "model": specs.to_json(model) if known else None,
        "made_of": type(model).__name__,
        "loss": described(loss),
        "law": law._asdict(),
        "data": facts_of(windows),
    }


def described(x: Any) -> str:
    """A text that is the same for what is the same: functions by name, arrays by their values."""
    if isinstance(x, functools.partial):
        rest = [described(a) for a in (*x.args, *sorted(x.keywords.items()))]
        return f"{described(x.func)}({', '.join(rest)})"
    if eqx.is_array(x):
        return f"array({x.shape}, {digest(x)})"
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        fields = [f"{f.name}={described(getattr(x, f.name))}" for f in dataclasses.fields(x)]
        return f"{type(x).__name__}({', '.join(fields)})"
    if isinstance(x, tuple | list):
        return f"({', '.join(map(described, x))})"
    if callable(x):
        return getattr(x, "__qualname__", None) or type(x).__name__
    return repr(x)


def digest(tree: Any) -> str:
    """A checksum of the arrays of a tree."""
    code = 0
    for x in jax.tree.leaves(eqx.filter(tree, eqx.is_array)):
        code = zlib.crc32(np.ascontiguousarray(np.asarray(x)).tobytes(), code)
    return f"crc32:{code:08x}"


def keep_facts(folder: Path, facts: dict[str, Any], new: bool) -> None:
    """Checks against what is there; writes it where nothing is, or once training has ended."""
    there = (folder / RUN).exists()
    if there:
        old = read_json(folder / RUN)
        # Of parts and versions `train.fit` tells, where they matter.
        free = {"steps", "patience", "format", "dynlm", "jax", "parts"}
        other = [
            f"`{name}` is {shown(old.get(name))} there, {shown(facts.get(name))} here"
            for name in sorted({*old, *facts} - free)
            if old.get(name) != facts.get(name)
        ]
        if other:
            raise BadArgument(
                f"{folder} is of another run: {'; '.join(other)}. Go on with what it had, or use "
                "another folder."
            )
    if jax.process_index() == 0 and not (there and new):
        write_run(folder, facts)

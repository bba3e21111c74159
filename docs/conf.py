"""Sphinx settings. Build with `python -m sphinx -W docs docs/_build/html`."""

import importlib.metadata
import re
import shutil
from pathlib import Path

HERE = Path(__file__).resolve().parent

# Notebooks are kept as text beside the docs and copied in, so that Sphinx finds them.
shutil.rmtree(HERE / "notebooks", ignore_errors=True)
shutil.copytree(HERE.parent / "notebooks", HERE / "notebooks")

project = "dynlm"
author = "The dynlm authors"
copyright = "The dynlm authors"
version = release = importlib.metadata.version("dynlm")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build", "_pictures", "conf.py", "**.ipynb_checkpoints"]

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3

nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 600

default_role = "code"  # single backticks in docstrings, as in Markdown
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 90
autodoc_default_options = {
    "members": True,
    "special-members": "__call__",
    "show-inheritance": True,
}
autoclass_content = "class"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "sphinx_book_theme"
html_title = f"dynlm {version}"
html_theme_options = {"show_toc_level": 2, "home_page_in_toc": True}


def dollars(app, what, name, obj, options, lines):
    """Mathematics in docstrings stands between dollars, as on the Markdown pages."""
    text = re.sub(r"\$\$(.+?)\$\$", display, "\n".join(lines), flags=re.S)
    lines[:] = re.sub(r"\$(.+?)\$", inline, text, flags=re.S).split("\n")


def display(found: re.Match) -> str:
    return f"\n\n.. math:: {' '.join(found[1].split())}\n\n"


def inline(found: re.Match) -> str:
    return f":math:`{' '.join(found[1].split())}`"


def short(app, what, name, obj, options, signature, returns):
    """Signatures with the names that the source uses, not what those names stand for."""
    return tuple(text and shorten(text) for text in (signature, returns))


def shorten(text: str) -> str:
    text = re.sub(r"~(?:\w+\.)+|jaxlib\._jax\.", "", text)
    for alias, meaning in ALIASES.items():
        text = text.replace(meaning, alias)
    return text


ALIASES = {
    "Time": "float | int | Float[Array, '']",
    "RandomKey": "Key[Array, ''] | UInt32[Array, 'words']",
    "State": "Float[Array, 'dim']",
    "ArrayLike": "Array | ndarray | bool | number | bool | int | float | complex",
}


def setup(app):
    app.connect("autodoc-process-signature", short)
    app.connect("autodoc-process-docstring", dollars)

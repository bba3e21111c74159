"""The command line: `dynlm demo`, `export`, `inspect`, `import`, `fit`, `study`."""

import os
import sys
from collections.abc import Callable
from typing import Any

_DESCRIPTION = """Differentiable stochastic dynamics in JAX.

Examples:
  dynlm demo                          from text to a report, with the model in this package
  dynlm demo --quick                  the main parts of it, in half the time
  dynlm export --model demo --text book.txt --out store
                                      hidden states of a text, for every token and layer
  dynlm export --model gpt2 --prompts prompts.txt --samples 8 --out drawn
                                      the same while it samples
  dynlm inspect store --verify        what a store holds, and whether it is sound
  dynlm import walks.csv --out walks  a store of time series that you have
  dynlm fit store --layer 3 --dim 16 --out run
                                      a neural SDE of them, and its scores beside baselines
  dynlm study store --layer 3 --out study
                                      what is in the dynamics: all analyses, and a report

Each command has its own --help.
"""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    try:
        try:
            _main(sys.argv[1:] if arguments is None else arguments)
        finally:
            sys.stdout.flush()  # a reader that is gone is better noticed here than at exit
    except BrokenPipeError:
        _hush()
        sys.exit(141)  # as of a program that the system ends for it


def _main(arguments: list[str]) -> None:
    from . import __version__
    from ._commands._common import Stopped, plain_warnings
    from ._io import BadArgument

    if arguments[:1] == ["--version"]:
        print(__version__)
        return
    try:
        with plain_warnings():
            _run(arguments or ["--help"])
    except BrokenPipeError:
        raise
    except (BadArgument, OSError) as error:
        print(f"dynlm: {error}", file=sys.stderr)
        sys.exit(2)
    except (Stopped, KeyboardInterrupt) as error:
        print(f"dynlm: {str(error) or 'stopped.'}", file=sys.stderr)
        sys.exit(130)


def _run(arguments: list[str]) -> None:
    import tyro

    from ._commands import _demo, _export, _fit, _import, _inspect, _study
    from ._commands._common import as_typed
    from ._io import BadArgument

    run: dict[str, tuple[type, Callable[[Any], Any]]] = {
        "demo": (_demo.Demo, _demo.run),
        "export": (_export.Export, _export.run),
        "inspect": (_inspect.Inspect, _inspect.run),
        "import": (_import.Import, _import.run),
        "fit": (_fit.Fit, _fit.run),
        "study": (_study.Study, _study.run),
    }
    if arguments[0] == "fit":
        arguments = ["fit", *_fit.with_defaults(arguments[1:])]
    overview = arguments[0] in ("-h", "--help")  # where examples of every command would be too much
    app = tyro.extras.SubcommandApp()
    for name, (options, _) in run.items():
        line = (options.__doc__ or "").splitlines()[0] if overview else None
        app.command(name=name, help=line)(options)
    config = app.cli(
        prog="dynlm",
        description=_DESCRIPTION,
        args=arguments,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    try:
        dict(run.values())[type(config)](config)
    except BadArgument as error:
        raise BadArgument(as_typed(str(error), config)) from error


def _hush() -> None:
    """Sends to nowhere what is still to be written to those who no longer read."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


if __name__ == "__main__":
    main()

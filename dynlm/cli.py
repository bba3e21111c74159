"""The command line: `dynlm demo`, `dynlm export`, `dynlm inspect`, `dynlm import`."""

import sys
from collections.abc import Callable
from typing import Any

_DESCRIPTION = """Differentiable stochastic dynamics in JAX.

Examples:
  dynlm demo                          fit and simulate a small neural SDE, under a minute
  dynlm demo --quiet --json           its results as one line of JSON
  dynlm export --model demo --text book.txt --out store
                                      hidden states of a text, for every token and layer
  dynlm export --model gpt2 --prompts prompts.txt --samples 8 --out drawn
                                      the same while it samples
  dynlm inspect store --verify        what a store holds, and whether it is sound
  dynlm import walks.csv --out walks  a store of time series that you have

Each command has its own --help.
"""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    from . import __version__
    from ._commands._common import Stopped, plain_warnings
    from ._io import BadArgument

    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["--version"]:
        print(__version__)
        return
    try:
        with plain_warnings():
            _run(arguments or ["--help"])
    except (BadArgument, OSError) as error:
        print(f"dynlm: {error}", file=sys.stderr)
        sys.exit(2)
    except (Stopped, KeyboardInterrupt) as error:
        print(f"dynlm: {str(error) or 'stopped.'}", file=sys.stderr)
        sys.exit(130)


def _run(arguments: list[str]) -> None:
    import tyro

    from . import _demo
    from ._commands import _export, _import, _inspect

    run: dict[str, tuple[type, Callable[[Any], Any]]] = {
        "demo": (_demo.Demo, _demo.run),
        "export": (_export.Export, _export.run),
        "inspect": (_inspect.Inspect, _inspect.run),
        "import": (_import.Import, _import.run),
    }
    # What has no default is given without a flag where it comes first, as in `inspect STORE`.
    positional = tyro.conf.configure(tyro.conf.PositionalRequiredArgs)
    overview = arguments[0] in ("-h", "--help")  # where examples of every command would be too much
    app = tyro.extras.SubcommandApp()
    for name, (options, _) in run.items():
        flags = name in ("demo", "export")
        line = (options.__doc__ or "").splitlines()[0] if overview else None
        app.command(name=name, help=line)(options if flags else positional(options))
    config = app.cli(
        prog="dynlm",
        description=_DESCRIPTION,
        args=arguments,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    dict(run.values())[type(config)](config)


if __name__ == "__main__":
    main()

"""The command line: `dynlm demo`."""

import sys

_DESCRIPTION = """Differentiable stochastic dynamics in JAX.

Examples:
  dynlm demo                          fit and simulate a small neural SDE, under a minute
  dynlm demo --steps 500 --out /tmp/d a shorter one, elsewhere
  dynlm demo --quiet --json           results as one line of JSON
"""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    import tyro

    from . import __version__
    from ._demo import Demo, run
    from ._io import BadArgument

    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["--version"]:
        print(__version__)
        return
    if not arguments:
        arguments = ["--help"]
    app = tyro.extras.SubcommandApp()

    @app.command(name="demo")
    def demo(config: tyro.conf.OmitArgPrefixes[Demo]) -> None:
        run(config)

    demo.__doc__ = Demo.__doc__
    try:
        app.cli(prog="dynlm", description=_DESCRIPTION, args=arguments)
    except (BadArgument, OSError) as error:
        print(f"dynlm: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()

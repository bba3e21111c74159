"""`python -m dynlm` is the command `dynlm`."""

from .cli import main

main()

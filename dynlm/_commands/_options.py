"""Types of options that may be left out, as `--help` should show them."""

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

Text = Annotated[str | None, arg(metavar="TEXT", help_behavior_hint="")]
Name = Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")]
Whole = Annotated[int | None, arg(metavar="INT", help_behavior_hint="")]
Names = Annotated[tuple[str, ...], arg(metavar="NAME ...", help_behavior_hint="")]
Files = Annotated[tuple[Path, ...], arg(metavar="FILE ...", help_behavior_hint="")]
Wholes = Annotated[tuple[int, ...], arg(metavar="INT ...", help_behavior_hint="")]
Numbers = Annotated[tuple[float, ...], arg(metavar="NUMBER ...", help_behavior_hint="")]
Number = Annotated[float | None, arg(metavar="NUMBER", help_behavior_hint="")]

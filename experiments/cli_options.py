"""What commands share: arguments, options and consoles."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

RecipeArgument = Annotated[Path, typer.Argument(metavar="RECIPE", help="Recipe file (YAML).", show_default=False)]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a recipe key; can be repeated.")
]
RunDirOption = Annotated[Path | None, typer.Option("--run-dir", help="Run directory (default: runs/<recipe name>).")]
FromOption = Annotated[
    Path | None, typer.Option("--from", help="Start from this supernet: an imported one, or a run's checkpoint.")
]
QuickOption = Annotated[bool, typer.Option("--quick", help="Apply the recipe's `quick` block: small, for trying out.")]

WhereArgument = Annotated[
    Path, typer.Argument(metavar="RUN|RECIPE", help="Run directory, or a recipe to start one.", show_default=False)
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.", show_default=False)]
AddressOption = Annotated[str | None, typer.Option("--address", help="Ray cluster; default: an embedded instance.")]
DeviceOption = Annotated[str | None, typer.Option("--device", metavar="ID", help="Device id; default: the recipe's.")]


def overrides(set_: list[str] | None, *, from_: Path | None = None) -> list[str]:
    """What `load_recipe` is to change, from what was typed."""
    return [*(set_ or ()), *([] if from_ is None else [f"train.from_checkpoint={json.dumps(str(from_))}"])]


def default_run_dir(name: str, *, quick: bool) -> Path:
    """Where a recipe's run is if nobody says otherwise."""
    return Path("runs") / (f"{name}-quick" if quick else name)


def out_console(*, width: int = 140) -> Console:
    """Standard output for tables; of this width where nobody watches."""
    return Console(width=None if sys.stdout.isatty() else width)


def err_console() -> Console:
    """Standard error for everything that is no result; lines are not broken where nobody watches."""
    return Console(stderr=True, soft_wrap=not sys.stderr.isatty())

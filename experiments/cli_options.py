"""What commands that take a recipe share."""

import json
from pathlib import Path
from typing import Annotated

import typer

RecipeArgument = Annotated[Path, typer.Argument(metavar="RECIPE", help="Recipe file (YAML).", show_default=False)]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a recipe key; can be repeated.")
]
RunDirOption = Annotated[Path | None, typer.Option("--run-dir", help="Run directory (default: runs/<recipe name>).")]
FromOption = Annotated[
    Path | None, typer.Option("--from", help="Start from this supernet: an imported one, or a run's checkpoint.")
]
QuickOption = Annotated[bool, typer.Option("--quick", help="Apply the recipe's `quick` block: small, for trying out.")]


def overrides(set_: list[str] | None, *, from_: Path | None = None) -> list[str]:
    """What `load_recipe` is to change, from what was typed."""
    return [*(set_ or ()), *([] if from_ is None else [f"train.from_checkpoint={json.dumps(str(from_))}"])]


def default_run_dir(name: str, *, quick: bool) -> Path:
    """Where a recipe's run is if nobody says otherwise."""
    return Path("runs") / (f"{name}-quick" if quick else name)

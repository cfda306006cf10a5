"""What `nas spaces` shows: a space by name or from a YAML file, its genes, and what its subnets cost by analysis."""

import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path

from pydantic import ValidationError

from experiments.errors import RecipeError
from experiments.recipe_problems import list_problems
from experiments.recipe_settings import SpaceSettings
from experiments.recipe_yaml import parse_yaml, read_yaml
from hardware.cost import analytic_costs
from hardware.files import JSON
from searchspaces import Architecture, SearchSpace, get_space, list_spaces, space_factory


@dataclass(frozen=True, slots=True, kw_only=True)
class SubnetCosts:
    """One architecture with its analytic costs for one input; provenance: estimated."""

    architecture: Architecture
    input_shape: tuple[int, ...]
    macs: int
    params: int
    activation_bytes: int

    def document(self) -> dict[str, JSON]:
        """JSON values."""
        return {
            "arch_id": self.architecture.arch_id,
            "space": self.architecture.space_id,
            "genes": dict(self.architecture.genes),
            "input_shape": list(self.input_shape),
            "macs": self.macs,
            "params": self.params,
            "peak_activation_bytes": self.activation_bytes,
            "provenance": "estimated",
        }


def find_space(where: str, *, settings: Sequence[str] = ()) -> SearchSpace:
    """A space by its registered name, or from a YAML file.

    Args:
        where: a name, or the path of a file with `name` and `settings` (a recipe's `space` section), or of a recipe.
        settings: `key=value` texts that are changed or added.

    Raises:
        SpaceError: unknown name or setting, or settings that do not fit.
        RecipeError: the file cannot be read, or is neither.
    """
    name = where
    values: dict[str, object] = {}
    if Path(where).suffix in (".yaml", ".yml"):
        document = read_yaml(Path(where), what="space file")
        section = document.get("space", document)
        try:
            found = SpaceSettings.model_validate(section)
        except ValidationError as e:
            problems = [text.removeprefix("recipe.") for text in list_problems(e, model=SpaceSettings)]
            said = section.get("name") if isinstance(section, Mapping) else None
            example = said if said in list_spaces() else "mbconv-small"
            raise RecipeError(
                f"{where}: " + "; ".join(problems),
                hint=f"a space file has `name: {example}` and `settings:`, as the section `space` of a recipe; "
                f"`nas spaces show {example}` lists the settings",
            ) from e
        name, values = found.name, {**found.settings}
    for text in settings:
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise RecipeError(f"--set: got {text!r}, expected key=value", hint="for example --set width=0.5")
        values[key] = parse_yaml(value, place=f"--set {key}")
    return get_space(name, **values)


def subnet_costs(space: SearchSpace, archs: Sequence[Architecture], *, num_classes: int) -> list[SubnetCosts]:
    """Analytic costs of architectures; see `hardware.cost` for the counting convention."""
    costs = analytic_costs(space.op_table(space.genomes(archs), num_classes=num_classes))
    return [
        SubnetCosts(
            architecture=arch,
            input_shape=space.input_shape(arch),
            macs=int(macs),
            params=int(params),
            activation_bytes=int(activation),
        )
        for arch, macs, params, activation in zip(
            archs, costs.macs_N, costs.params_N, costs.peak_activation_bytes_N, strict=True
        )
    ]


def space_document(space: SearchSpace, *, num_classes: int) -> dict[str, JSON]:
    """Everything that `nas spaces show` prints, as JSON values."""
    smallest, largest = subnet_costs(space, [space.smallest, space.largest], num_classes=num_classes)
    genes = Counter((choice.kind, choice.values) for choice in space.choices)
    return {
        "space": space.space_id,
        "size": space.size,
        "trainable": space.trainable,
        "num_classes": num_classes,
        "genes": [{"kind": kind, "values": list(values), "count": count} for (kind, values), count in genes.items()],
        "smallest": smallest.document(),
        "largest": largest.document(),
    }


def default_settings(name: str) -> dict[str, JSON]:
    """What a registered space lets you set, with the defaults; those that follow from others as they come out."""
    config = getattr(get_space(name), "config", None)
    return {
        key: _plain(getattr(config, key, None) if parameter.default is None else parameter.default)
        for key, parameter in inspect.signature(space_factory(name)).parameters.items()
    }


def gene_text(space: SearchSpace, arch: Architecture) -> str:
    """The active genes by kind, blocks apart by commas and stages by spaces: `depth 2 1; kernel 3,5 7`."""
    active = dict(arch.genes)
    kinds: dict[str, dict[str, list[str]]] = {}
    for choice in space.choices:
        if choice.name in active:
            stage = choice.name.partition(".")[0]
            kinds.setdefault(choice.kind, {}).setdefault(stage, []).append(str(active[choice.name]))
    return "; ".join(f"{kind} {' '.join(map(','.join, stages.values()))}" for kind, stages in kinds.items())


def _plain(value: object) -> JSON:
    if is_dataclass(value) and not isinstance(value, type):
        return {key: _plain(item) for key, item in asdict(value).items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, int | float | str | bool) or value is None else str(value)

"""An architecture as a value: which space, which active genes. It knows nothing of weights or devices."""

import hashlib
import json
from dataclasses import dataclass

from searchspaces.errors import SpaceError

Value = int | float | str

_ARCH_ID_LENGTH = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """One network of a search space: hashable, comparable, spelled in exactly one way.

    Build it with `SearchSpace.architecture`, which drops inactive genes and checks the values; the constructor
    itself checks the form only.

    Attributes:
        space_id: the space that the genes belong to.
        genes: (name, value) of every active gene, kept in the order of the names.
    """

    space_id: str
    genes: tuple[tuple[str, Value], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "genes", tuple(sorted(self.genes, key=lambda gene: gene[0])))
        if not self.space_id or len({name for name, _ in self.genes}) != len(self.genes):
            raise SpaceError(
                f"an architecture needs a space id and distinct genes, got space_id={self.space_id!r}, {self.genes!r}",
                hint="build architectures with `space.architecture({...})` or `space.sample(rng)`",
            )

    def __getitem__(self, name: str) -> Value:
        """Value of an active gene.

        Raises:
            SpaceError: the gene is unknown or inactive in this architecture.
        """
        for gene, value in self.genes:
            if gene == name:
                return value
        raise SpaceError(
            f"gene {name!r} is not active in architecture {self.arch_id}",
            hint=f"active genes: {', '.join(gene for gene, _ in self.genes)}",
        )

    def get(self, name: str, default: Value | None = None) -> Value | None:
        """Value of a gene, or `default` where it is inactive."""
        return dict(self.genes).get(name, default)

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces; equal architectures give equal text."""
        return json.dumps({"genes": dict(self.genes), "space": self.space_id}, sort_keys=True, separators=(",", ":"))

    @property
    def arch_id(self) -> str:
        """The first 12 hexadecimal digits of the SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:_ARCH_ID_LENGTH]

    @classmethod
    def from_json(cls, text: str) -> "Architecture":
        """Read what `to_json` wrote. Validate it with its space before use.

        Raises:
            SpaceError: the text is not an architecture.
        """
        hint = 'expected {"genes": {"resolution": 24, ...}, "space": "mbconv-small"}'
        try:
            content = json.loads(text)
        except json.JSONDecodeError as e:
            raise SpaceError(f"not the JSON of an architecture ({e}): {text[:80]!r}", hint=hint) from e
        if not isinstance(content, dict) or set(content) != {"genes", "space"}:
            raise SpaceError(f"not the JSON of an architecture: {text[:80]!r}", hint=hint)
        genes, space_id = content["genes"], content["space"]
        if not isinstance(genes, dict) or not isinstance(space_id, str):
            raise SpaceError(f"genes must be an object and space a text, got {text[:80]!r}", hint=hint)
        for name, value in genes.items():
            if isinstance(value, bool) or not isinstance(value, int | float | str):
                raise SpaceError(f"gene {name!r} has value {value!r}, expected a number or a text", hint=hint)
        return cls(space_id=space_id, genes=tuple(genes.items()))

"""How the families call their genes; stages and blocks are counted from 0 here and from 1 in the names."""

RESOLUTION = "resolution"


def depth_gene(stage: int) -> str:
    """Name of the gene with the number of blocks of a stage."""
    return f"stage{stage + 1}.depth"


def width_gene(stage: int) -> str:
    """Name of the gene with the width of a stage."""
    return f"stage{stage + 1}.width"


def block_gene(stage: int, block: int, part: str) -> str:
    """Name of the "kernel", "expand" or "dilation" gene of a block."""
    return f"stage{stage + 1}.block{block + 1}.{part}"

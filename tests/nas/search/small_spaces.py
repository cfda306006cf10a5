"""Search spaces that a test can exhaust."""

from searchspaces.mbconv import MBConvConfig, MBConvSpace, Stage

# Eighteen architectures: two resolutions, two stages of one to three blocks.
EIGHTEEN = MBConvSpace(
    MBConvConfig(
        resolutions=(8, 12),
        stages=tuple(
            Stage(channels=channels, stride=stride, kernels=(3,), expands=(2,))
            for channels, stride in ((8, 1), (16, 2))
        ),
        head_channels=16,
    )
)

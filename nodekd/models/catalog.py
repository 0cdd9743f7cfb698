"""The networks by name. Loads no torch, so a search space can check the names."""

CIFAR_DEPTHS: dict[str, int] = {"resnet20": 20, "resnet32": 32, "resnet44": 44, "resnet56": 56, "resnet110": 110}
"""ResNets of He et al. for small images: 6n + 2 layers in three stages of 16, 32, 64 channels."""

TORCHVISION: tuple[str, ...] = ("resnet18", "resnet34", "resnet50")
"""torchvision's ResNets, here with a stem for small images."""

TEACHERS: tuple[str, ...] = (*CIFAR_DEPTHS, *TORCHVISION)

STUDENTS: dict[str, str] = {
    "odenet-stem": "stem that shrinks the image to a small state, ODE blocks, head",
    "odenet-raw": "one convolution, ODE blocks at the image's own resolution, head",
}

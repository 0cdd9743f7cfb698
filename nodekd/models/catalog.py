"""The networks by name. Loads no torch, so a search space can check the names."""

CIFAR_DEPTHS: dict[str, int] = {"resnet20": 20, "resnet32": 32, "resnet44": 44, "resnet56": 56, "resnet110": 110}
"""ResNets of He et al. for small images: 6n + 2 layers in three stages of 16, 32, 64 channels."""

TORCHVISION: tuple[str, ...] = ("resnet18", "resnet34", "resnet50")
"""torchvision's ResNets, here with a stem for small images."""

PREACT_DEPTHS: dict[str, int] = {
    "preact-resnet20": 20,
    "preact-resnet32": 32,
    "preact-resnet44": 44,
    "preact-resnet56": 56,
    "preact-resnet110": 110,
    "preact-resnet164": 164,
}
"""Pre-activation ResNets of In-ResNet's authors; with damped dynamics they are the In-ResNet and lambda-In-ResNet."""

PREACT_RESNEXT: dict[str, int] = {"preact-resnext29": 29}
"""A pre-activation ResNeXt; ours, as no code of In-ResNeXt was published."""

ODE_STUDENTS: dict[str, str] = {
    "odenet-stem": "stem that shrinks the image to a small state, ODE blocks, head",
    "odenet-raw": "one convolution, ODE blocks at the image's own resolution, head",
}

UNTIED_STUDENTS: dict[str, str] = {
    "untied-stem": "odenet-stem whose Euler steps have weights of their own",
    "untied-raw": "odenet-raw whose Euler steps have weights of their own",
}
"""Controls of equal depth and cost: as many residual blocks as the Euler solve has steps."""

STUDENTS: dict[str, str] = {
    **ODE_STUDENTS,
    **UNTIED_STUDENTS,
    **{name: f"ResNet with {depth} layers, as the teachers" for name, depth in CIFAR_DEPTHS.items()},
    **{name: f"pre-activation ResNet with {depth} layers" for name, depth in PREACT_DEPTHS.items()},
    **{name: f"pre-activation ResNeXt with {depth} layers" for name, depth in PREACT_RESNEXT.items()},
}

TEACHERS: tuple[str, ...] = (*CIFAR_DEPTHS, *TORCHVISION, *PREACT_DEPTHS, *PREACT_RESNEXT)

DYNAMICS: dict[str, str] = {
    "plain": "dh/dt = f",
    "damped": "dh/dt = -damping * h + f",
    "lambda-damped": "dh/dt = -damping * h + (1 + damping) * f",
}
"""Right-hand sides of an ODE block; in a pre-activation ResNet, the update of a residual block."""


def is_ode(arch: str) -> bool:
    """Tell whether a student's middle is an ODE that a solver solves."""
    return arch in ODE_STUDENTS


def is_stepped(arch: str) -> bool:
    """Tell whether a student's middle has a horizon and steps: an ODE, or untied Euler steps."""
    return arch in ODE_STUDENTS or arch in UNTIED_STUDENTS


def takes_dynamics(arch: str) -> bool:
    """Tell whether a student's blocks may be damped."""
    return is_stepped(arch) or arch in PREACT_DEPTHS or arch in PREACT_RESNEXT

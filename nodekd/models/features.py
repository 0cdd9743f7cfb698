"""The maps before a network's pooling, together with its logits."""

import torch
from torch import Tensor, nn
from torchvision.models.resnet import ResNet

from nodekd.models.preact import PreactResNet
from nodekd.models.resnet import CifarResNet
from nodekd.models.student import OdeStudent
from nodekd.models.untied import UntiedStudent
from nodekd.shapes import Images, Logits


def forward_with_features(network: nn.Module, images: Images, times: int = 1) -> tuple[Logits, tuple[Tensor, ...]]:
    """Return a network's logits and the maps (b c h w) that it makes them of.

    The map is what the classifier's pooling reads: the last stage's output of a CIFAR or torchvision ResNet, the final
    BN and ReLU's of a pre-activation ResNet. For an ODE or untied student it is the state itself, h(T), in front of the
    head's norm; its sizes are in `feature_maps.last_map`.

    Args:
        network: What `build_student` or `build_teacher` returned.
        images: (b c h w) in [0, 1].
        times: Number of equally spaced times at which to give the state of an ODE student's last block, the last at
            the horizon.

    Returns:
        Logits (b k) and `times` maps. The logits are bit for bit those of `network(images)`, except at `times > 1`
        with an adaptive solver or an adjoint, which solve piece by piece (see `path.solve_path`).

    Raises:
        ValueError: If several times are asked of a network without an ODE, or the times do not divide the steps.
        TypeError: If the network is of another kind.
    """
    if isinstance(network, OdeStudent):
        states = network.states(images, times)
        return network.head(states[-1]), states
    if times != 1:
        raise ValueError(f"`times` must be 1 for a network without an ODE, but got {times}.")
    if isinstance(network, UntiedStudent):
        state = network.features(images)
        return network.head(state), (state,)
    return _of_resnet(network, images)


def _of_resnet(network: nn.Module, images: Images) -> tuple[Logits, tuple[Tensor, ...]]:
    body = network[-1] if isinstance(network, nn.Sequential) else network
    if not isinstance(network, nn.Sequential) or not isinstance(body, CifarResNet | PreactResNet | ResNet):
        raise TypeError(f"The network must come from build_student or build_teacher, but got {type(body).__name__}.")
    normalised = network[:-1](images)
    if isinstance(body, ResNet):
        features = _of_torchvision(body, normalised)
        return body.fc(torch.flatten(body.avgpool(features), 1)), (features,)
    features = body.features(normalised)
    return body.classify(features), (features,)


def _of_torchvision(body: ResNet, images: Tensor) -> Tensor:
    features = body.maxpool(body.relu(body.bn1(body.conv1(images))))
    return body.layer4(body.layer3(body.layer2(body.layer1(features))))

"""Attack a network without leaving a trace in it, nor in the global random state."""

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def frozen(*models: nn.Module) -> Iterator[None]:
    """Put networks into evaluation mode with constant weights; afterwards everything is as it was.

    Restored, also when the body raises: the training flag of every module, `requires_grad` and `.grad` of every
    parameter, every buffer, and the global random state of python, numpy and torch. Networks may share modules.
    On a machine whose CUDA was not started yet, there is no CUDA state to keep.

    Args:
        models: Networks the body calls; it may call them as often as it likes.

    Yields:
        Nothing.
    """
    with ExitStack() as stack:
        stack.enter_context(_same_random_state())
        for keep in (_same_modes, _same_parameters, _same_buffers):
            stack.enter_context(keep(models))
        for model in models:
            model.eval()
            model.requires_grad_(False)
        yield


@contextmanager
def _same_modes(models: tuple[nn.Module, ...]) -> Iterator[None]:
    modes = {module: module.training for model in models for module in model.modules()}
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def _same_parameters(models: tuple[nn.Module, ...]) -> Iterator[None]:
    kept = {weight: (weight.requires_grad, weight.grad) for model in models for weight in model.parameters()}
    try:
        yield
    finally:
        for weight, (requires_grad, grad) in kept.items():
            weight.requires_grad_(requires_grad)
            weight.grad = grad


@contextmanager
def _same_buffers(models: tuple[nn.Module, ...]) -> Iterator[None]:
    modules = {module for model in models for module in model.modules()}
    kept = [
        (module, name, buffer, buffer.clone())
        for module in modules
        for name, buffer in module.named_buffers(recurse=False)
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for module, name, buffer, value in kept:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)
                if getattr(module, name) is not buffer:
                    setattr(module, name, buffer)


@contextmanager
def _same_random_state() -> Iterator[None]:
    of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the state of others, kept
    of_cpu = torch.get_rng_state()
    of_cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)  # noqa: NPY002
        torch.set_rng_state(of_cpu)
        if of_cuda is not None:
            torch.cuda.set_rng_state_all(of_cuda)

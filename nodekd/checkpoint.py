"""Weights on disk: written atomically, read without running code, checked key by key."""

from pathlib import Path

import torch
from torch import Tensor, nn

from nodekd.errors import CheckpointError
from nodekd.savepoint import write_archive

SHOWN_KEYS = 6
"""Mismatching keys listed in a message before it says how many more there are."""


def save_weights(model: nn.Module, path: Path) -> None:
    """Write the state dict of a network, moved to the CPU, whole or not at all."""
    write_archive({name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}, path)


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a state dict into a network that must have exactly its keys and shapes.

    Args:
        model: The network, changed in place.
        path: A file written by `torch.save(model.state_dict(), path)`.

    Raises:
        CheckpointError: If the file is missing, holds anything but tensors, or its keys or shapes differ.
    """
    stored = _read(path)
    own = model.state_dict()
    problems = [
        *_listed("missing", sorted(own.keys() - stored.keys())),
        *_listed("unexpected", sorted(stored.keys() - own.keys())),
        *_listed(
            "of another shape",
            [
                f"{name} (stored {tuple(stored[name].shape)}, expected {tuple(own[name].shape)})"
                for name in sorted(own.keys() & stored.keys())
                if stored[name].shape != own[name].shape
            ],
        ),
    ]
    if problems:
        raise CheckpointError(
            f"The weights in {path} must fit {type(model).__name__}, but keys are {'; '.join(problems)}. "
            "Give the checkpoint of the same architecture, image channels and number of classes."
        )
    model.load_state_dict(stored)


def stored_names(path: Path) -> set[str]:
    """Return the names of the tensors in a state dict on disk; raises `CheckpointError` where it is none."""
    return set(_read(path))


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"A checkpoint must exist, but there is no file at {path}. Correct the path.")
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{path} must be a state dict of tensors alone, but it cannot be read as one "
            f"({type(error).__name__}). Save it again with torch.save(model.state_dict(), path)."
        ) from error
    if isinstance(stored, dict) and isinstance(stored.get("state_dict"), dict):
        stored = stored["state_dict"]
    if not isinstance(stored, dict) or not all(isinstance(value, Tensor) for value in stored.values()):
        raise CheckpointError(
            f"{path} must hold a dictionary of tensors, but it holds {type(stored).__name__}. "
            "Save it with torch.save(model.state_dict(), path)."
        )
    return {str(name).removeprefix("module."): value for name, value in stored.items()}


def _listed(what: str, keys: list[str]) -> list[str]:
    if not keys:
        return []
    more = f" and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else ""
    return [f"{what}: {', '.join(keys[:SHOWN_KEYS])}{more}"]

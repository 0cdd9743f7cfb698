"""Survivor bits and adversarial images of one attacked network on one shard, as files."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nodekd.attacks.cascade import Survival

SURVIVORS = "survivors.npz"
IMAGES = "adversarial.npz"


def write_survivors(folder: Path, ids: Tensor, labels: Tensor, survivals: Sequence[Survival]) -> None:
    """Write who was broken by what: one row of bits per epsilon (ascending), attack and image.

    Args:
        folder: The job's folder.
        ids: (n,) image ids.
        labels: (n,) true classes.
        survivals: One per epsilon, with equal columns.
    """
    _write(
        folder / SURVIVORS,
        image_id=ids.cpu().numpy(),
        label=labels.cpu().numpy(),
        clean_correct=survivals[0].clean_correct.cpu().numpy(),
        columns=np.array(survivals[0].columns),
        broken=np.stack([survival.broken.cpu().numpy() for survival in survivals]),
        attempted=np.stack([survival.attempted.cpu().numpy() for survival in survivals]),
    )


def write_images(folder: Path, ids: Tensor, survivals: Sequence[Survival]) -> None:
    """Write each epsilon's final images (e n c h w), for transfer to other networks."""
    images = torch.stack([survival.images for survival in survivals])
    _write(folder / IMAGES, image_id=ids.cpu().numpy(), images=images.cpu().numpy())


def read_pool(sources: Mapping[str, Path], ids: Tensor, epsilon_index: int) -> dict[str, Tensor]:
    """Read the stored adversarial images of the same images at one epsilon.

    Args:
        sources: Job folder by column name.
        ids: (n,) image ids that must agree with the stored ones.
        epsilon_index: Position of the epsilon in the stored grid.

    Raises:
        ValueError: If a pool was made from other images.
    """
    pool: dict[str, Tensor] = {}
    for name, folder in sources.items():
        with np.load(folder / IMAGES, allow_pickle=False) as stored:
            if not np.array_equal(stored["image_id"], ids.cpu().numpy()):
                raise ValueError(f"The pool {name} in {folder} was made from other images; delete it and start again.")
            pool[name] = torch.from_numpy(stored["images"][epsilon_index]).to(ids.device)
    return pool


def _write(path: Path, **arrays: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp.{os.getpid()}")
    with temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def read_images(folders: Sequence[Path], epsilon_index: int) -> tuple[Tensor, Tensor]:
    """Read the stored adversarial images of several shards at one epsilon: ids (n,) and images (n c h w)."""
    ids, images = [], []
    for folder in folders:
        with np.load(folder / IMAGES, allow_pickle=False) as stored:
            ids.append(torch.from_numpy(stored["image_id"]))
            images.append(torch.from_numpy(stored["images"][epsilon_index]))
    return torch.cat(ids), torch.cat(images)

"""Survivor bits and adversarial images of one attacked network on one shard, as files."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nodekd.attacks.cascade import Survival
from nodekd.attacks.threat import Threat
from nodekd.shapes import Images
from study.jobs.arrays import write_arrays
from study.jobs.stored_images import IMAGES, StoredImages
from study.ledger import Ledger

SURVIVORS = "survivors.npz"


def write_survivors(folder: Path, ids: Tensor, labels: Tensor, survivals: Sequence[Survival]) -> None:
    """Write who was broken by what: one row of bits per epsilon (ascending), attack and image.

    Args:
        folder: The job's folder.
        ids: (n,) image ids.
        labels: (n,) true classes.
        survivals: One per epsilon, with equal columns.
    """
    write_arrays(
        folder / SURVIVORS,
        image_id=ids.cpu().numpy(),
        label=labels.cpu().numpy(),
        clean_correct=survivals[0].clean_correct.cpu().numpy(),
        columns=np.array(survivals[0].columns),
        broken=np.stack([survival.broken.cpu().numpy() for survival in survivals]),
        attempted=np.stack([survival.attempted.cpu().numpy() for survival in survivals]),
    )


def write_images(folder: Path, ids: Tensor, survivals: Sequence[Survival], pushed: Sequence[Tensor] = ()) -> None:
    """Write each epsilon's final images (e n c h w), for transfer to other networks.

    Args:
        folder: The job's folder.
        ids: (n,) image ids.
        survivals: One per epsilon.
        pushed: One per epsilon: images (n c h w) pushed far over the boundary, see `nodekd.attacks.transfer`.
    """
    images = torch.stack([survival.images for survival in survivals])
    more = {"pushed": torch.stack(list(pushed)).cpu().numpy()} if pushed else {}
    write_arrays(folder / IMAGES, image_id=ids.cpu().numpy(), images=images.cpu().numpy(), **more)


def write_transfers(folder: Path, ids: Tensor, labels: Tensor, correct: Tensor, names: list[str], bits: Tensor) -> None:
    """Write what stored images of others broke, each source alone: bits (e s n), sources in the order of the names."""
    write_arrays(
        folder / SURVIVORS,
        image_id=ids.cpu().numpy(),
        label=labels.cpu().numpy(),
        clean_correct=correct.cpu().numpy(),
        columns=np.array(names),
        broken=bits.cpu().numpy(),
        attempted=correct.expand_as(bits).cpu().numpy(),
    )


def read_broken(folder: Path, ids: Tensor, epsilon_index: int) -> Tensor:
    """Read which images (n,) any column of a job broke at one epsilon.

    Raises:
        ValueError: If the job looked at other images.
    """
    with np.load(folder / SURVIVORS, allow_pickle=False) as stored:
        _same_images(stored["image_id"], ids, folder)
        return torch.from_numpy(stored["broken"][epsilon_index].any(axis=0)).to(ids.device)


def read_versions(folder: Path, ids: Tensor, epsilon_index: int, clean: Images, threat: Threat) -> tuple[Tensor, ...]:
    """Read all stored versions (n c h w) of the same images at one epsilon.

    Args:
        folder: The job's folder.
        ids: (n,) image ids that must agree with the stored ones.
        epsilon_index: Position of the epsilon in the stored grid.
        clean: (n c h w) the images without attack.
        threat: Ball around them that the stored ones were made in.

    Raises:
        ValueError: If they were made from other images, in another ball, or cannot be read.
    """
    return StoredImages(folder).at(epsilon_index, ids, clean, threat)


def images_digest(ledger: Ledger, sources: Mapping[str, str]) -> str:
    """Hash stored images, whatever the order of their sources (job keys by name)."""
    digest = hashlib.sha256()
    for name, key in sorted(sources.items()):
        digest.update(name.encode())
        digest.update((ledger.folder(key) / IMAGES).read_bytes())
    return digest.hexdigest()[:16]


def _same_images(stored: NDArray[np.int64], ids: Tensor, folder: Path) -> None:
    if not np.array_equal(stored, ids.cpu().numpy()):
        raise ValueError(f"{folder} holds other images than are asked for; delete it and start again.")


def read_pool(
    sources: Mapping[str, Path], ids: Tensor, epsilon_index: int, clean: Images, threat: Threat
) -> dict[str, Tensor]:
    """Read the stored adversarial images of the same images at one epsilon, by column name; see `read_versions`.

    Args:
        sources: Job folder by column name.
        ids: (n,) image ids that must agree with the stored ones.
        epsilon_index: Position of the epsilon in the stored grid.
        clean: (n c h w) the images without attack.
        threat: Ball around them that the stored ones were made in.

    Raises:
        ValueError: If a pool was made from other images, in another ball, or cannot be read.
    """
    return {name: StoredImages(folder).at(epsilon_index, ids, clean, threat)[0] for name, folder in sources.items()}


def read_images(folders: Sequence[Path], epsilon_index: int) -> tuple[Tensor, Tensor]:
    """Read the stored adversarial images of several shards at one epsilon: ids (n,) and images (n c h w)."""
    ids, images = [], []
    for folder in folders:
        with np.load(folder / IMAGES, allow_pickle=False) as stored:
            ids.append(torch.from_numpy(stored["image_id"]))
            images.append(torch.from_numpy(stored["images"][epsilon_index]))
    return torch.cat(ids), torch.cat(images)

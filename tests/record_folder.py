"""Write synthetic records of an attacked network in the format of results/README.md, without a network."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

EPSILON = 1 / 16


def arrays(
    seed: int = 0, shape: tuple[int, int, int] = (1, 8, 8), classes: int = 10, ode: bool = True, pairs: int = 16
) -> dict[str, NDArray[Any]]:
    """Draw records from smooth made-up laws."""
    rng, picture = np.random.default_rng(seed), np.random.default_rng(77)
    images = _pictures(picture, pairs, shape)
    signs = rng.choice([-1.0, 1.0], images.shape)
    clean = np.round(255 * images).astype(np.uint8)
    label = picture.integers(0, classes, pairs)
    predicted = np.stack([label, np.where(rng.random(pairs) < 0.6, (label + 3) % classes, label)])
    distance, attack, random = np.linspace(-0.5, 2, 51), np.linspace(-0.5, 2, 21), np.linspace(-1.25, 1.25, 21)
    spread = np.array([0.7, 1.0, 1.4])[:, None] * (1 + seed / 10)
    rise, bend = 0.2 + 0.8 * np.log1p(np.exp(3 * distance - 2)), 0.3 + 0.02 * distance**2
    counts = [np.histogram(rng.normal(mean, 1.1, 200).clip(-4.99, 4.99), np.linspace(-5, 5, 41))[0] for mean in (2, -1)]
    table = np.stack([_confusion(rng, classes, right) for right in (0.9, 0.4)])
    found: dict[str, NDArray[Any]] = {
        "classes": np.array([str(k) for k in range(classes)]),
        "image_id": np.linspace(1348, 1796, pairs).round().astype(np.int64),
        "label": label.astype(np.int16),
        "levels": np.array(255, np.int16),
        "clean": clean,
        "adversarial": (clean / 255 + EPSILON * signs).clip(0, 1).astype(np.float32),
        "predicted": predicted.astype(np.int16),
        "pair_margin": rng.normal([[1.5], [-0.4]], 0.8, (2, pairs)).astype(np.float32),
        "confusion": table.astype(np.int32),
        "failed": np.zeros((2, classes), np.int32),
        "margin_edge": np.linspace(-5, 5, 41).astype(np.float32),
        "margin_count": np.array(counts, np.int32),
        "distance": distance.astype(np.float32),
        "loss": np.stack([spread * rise, spread * bend]).astype(np.float32),
        "margin": np.stack([2 * spread - 2 * distance, 2 * spread - 0.1 * distance]).astype(np.float32),
        "attack_axis": attack.astype(np.float32),
        "random_axis": random.astype(np.float32),
        "plane_loss": (np.log1p(np.exp(3 * attack - 2))[:, None] + 0.1 * random**2).astype(np.float32),
        "plane_margin": (2 - 2 * attack[:, None] + 0 * random).astype(np.float32),
    }
    return found | (_of_an_ode(rng, spread) if ode else {})


def metrics(model: str = "student-000003", kind: str = "student", trial: int | None = 3, **more: Any) -> dict[str, Any]:
    """Give what stands in the outcome beside them."""
    return {
        "model": model,
        "kind": kind,
        "trial": trial,
        "split": "test",
        "norm": "linf",
        "epsilon": EPSILON,
        "n": 200,
        "grid_images": 64,
        "sources": {"stored": 120, "pgd-20-margin": 80},
        "solver": {"solver": "rk4", "horizon": 1.0, "steps": 2, "rtol": None, "atol": None},
        **more,
    }


def write_record(folder: Path, found: dict[str, NDArray[Any]]) -> Path:
    """Write the arrays as a job does."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "record.npz", **found)
    return folder


def _pictures(rng: np.random.Generator, count: int, shape: tuple[int, int, int]) -> NDArray[np.float64]:
    """Blobs with a little noise, about as hard to compress as photographs."""
    c, h, w = shape
    y, x = np.mgrid[0:h, 0:w] / max(h, w)
    at = rng.random((count, c, 2, 1, 1))
    blobs = np.exp(-8 * ((y - at[:, :, 0]) ** 2 + (x - at[:, :, 1]) ** 2))
    return (blobs + rng.normal(0, 0.03, blobs.shape)).clip(0, 1)


def _confusion(rng: np.random.Generator, classes: int, right: float) -> NDArray[np.int64]:
    share = np.full((classes, classes), (1 - right) / (classes - 1))
    np.fill_diagonal(share, right)
    return np.stack([rng.multinomial(200 // classes, row) for row in share])


def _of_an_ode(rng: np.random.Generator, spread: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
    time = np.linspace(0, 1, 17)
    band = 1 + (spread - 1) * time
    return {
        "time": time.astype(np.float32),
        "state_norm": np.stack([band * (1 + time), band * (1 + 1.3 * time)]).astype(np.float32),
        "speed": np.stack([spread * (1.5 - time), spread * (1.8 - time)]).astype(np.float32),
        "start_norm": np.array([[3, 4, 5], [3, 4.1, 5.2]], np.float32),
        "nfe": rng.choice([14.0, 20.0, 26.0], (2, 64)).astype(np.float32),
    }

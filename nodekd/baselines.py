"""What no network is needed for: an SVM and the nearest neighbour on raw pixels (S2)."""

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

from nodekd.data.dataset import Split

LARGEST_TRAINING_SET = 5000
"""Training images beyond which an evenly spaced subset is used; a kernel SVM grows with their square."""


@final
@dataclass(frozen=True)
class ClassicalBaselines:
    """An RBF SVM and a 1-nearest-neighbour classifier, both fitted on pixels in [0, 1]."""

    svm: SVC
    nearest_neighbour: KNeighborsClassifier
    n_train: int

    def accuracy(self, split: Split) -> dict[str, float]:
        """Return the clean accuracy of both on a split."""
        pixels, labels = _pixels(split), split.labels.cpu().numpy()
        return {
            "svm": float((self.svm.predict(pixels) == labels).mean()),
            "nearest_neighbour": float((self.nearest_neighbour.predict(pixels) == labels).mean()),
        }


def fit_baselines(train: Split) -> ClassicalBaselines:
    """Fit both on the training split, or on an evenly spaced part of it where it is large.

    The SVM is scikit-learn's SVC with C = 10 and gamma `scale`: untuned, as a baseline should be.
    """
    chosen = np.linspace(0, len(train) - 1, min(len(train), LARGEST_TRAINING_SET)).round().astype(int)
    pixels, labels = _pixels(train, torch.from_numpy(chosen)), train.labels.cpu().numpy()[chosen]
    return ClassicalBaselines(
        SVC(C=10.0, gamma="scale").fit(pixels, labels),
        KNeighborsClassifier(n_neighbors=1).fit(pixels, labels),
        len(chosen),
    )


def _pixels(split: Split, rows: torch.Tensor | None = None) -> np.ndarray:
    return split.images(rows).flatten(1).cpu().numpy()

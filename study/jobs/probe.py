"""Look into one trained network: each instrument that a space asks for, on the images of one split."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from nodekd.attacks.catalog import EPSILONS
from nodekd.attacks.gradient import cross_entropy, pgd
from nodekd.attacks.published import published_attacks
from nodekd.attacks.threat import Threat
from nodekd.data.corruption_folders import CorruptionFolder, open_corruption_folder
from nodekd.data.corruptions import CorruptionFiles, open_corruptions
from nodekd.data.dataset import Dataset
from nodekd.data.folders import find_folder
from nodekd.distill.logits import ensemble_accuracy
from nodekd.models.damping import damping_range, damping_values, gain_values
from nodekd.models.student import OdeStudent
from nodekd.ode.solver_text import parse_solver
from nodekd.probes.calibration import calibration
from nodekd.probes.landscape import line, surface
from nodekd.probes.noise import own_noise, stored_noise
from nodekd.probes.numbers import plain
from nodekd.probes.reconstruction import autoencode, last_map_of, reconstruct
from nodekd.probes.solvers import solver_table
from nodekd.probes.stretch import stretch
from nodekd.probes.teacher_likeness import likeness, transfer
from nodekd.probes.trajectory import trajectory
from nodekd.scoring import correct, logits_of
from nodekd.streams import generator, seed_of
from study.jobs.networks import attack_source, trained_network
from study.jobs.subset import subset
from study.jobs.survivors import read_images
from study.jobs.work import Result, Work

ATTACK_STEPS = 20
"""Steps of the PGD whose images tell how alike two networks are under attack."""

DRAWS = 5
"""Draws of each noise for every image where the space names no other number."""

SURFACE_IMAGES = 64
"""Images of the plane of losses, which costs a forward for each of its points."""

RECONSTRUCTION_IMAGES = 4096
"""Training images that a decoder learns from at most."""

Found = dict[str, Any] | list[dict[str, Any]] | None


def run_probe(work: Work) -> Result:
    """Measure what the payload's `probes` asks for; what does not apply to the network is left out."""
    payload = work.payload
    dataset = work.dataset("train", payload["probes"]["split"])
    network = trained_network(work, payload["network"], dataset)
    probe = Probe(work, dataset, network)
    found = {name: measure() for name, measure in probe.instruments().items()}
    metrics = {
        **payload["identity"],
        "split": payload["probes"]["split"],
        "n": len(probe.rows),
        "accuracy": probe.accuracy(),
    }
    return Result(metrics=metrics | {name: value for name, value in found.items() if value is not None})


@final
class Probe:
    """One network and the images it is looked at with."""

    def __init__(self, work: Work, dataset: Dataset, network: nn.Module) -> None:
        self._work, self._dataset, self._network = work, dataset, network
        self._asked: dict[str, Any] = work.payload["probes"]
        self._split = dataset.splits[self._asked["split"]]
        self.rows = subset(self._split, self._asked["images"])
        self._images, self._labels = self._split.images(self.rows), self._split.labels[self.rows]
        self._ids = self._split.ids[self.rows]
        self._epsilon, self._norm = work.payload["epsilon"], work.payload["norm"]
        self._seed = work.payload["seed"]

    def instruments(self) -> dict[str, Callable[[], Found]]:
        """Return what is to be measured, by the name it has in the metrics."""
        every: dict[str, Callable[[], Found]] = {
            "calibration": self._calibration,
            "trajectory": self._trajectory,
            "stretch": self._stretch,
            "test_solvers": self._test_solvers,
            "noise": self._noise,
            "published_attacks": self._published_attacks,
            "landscape": self._landscape,
            "teacher": self._teacher,
            "reconstruction": self._reconstruction,
        }
        return {name: measure for name, measure in every.items() if self._asked[name]}

    def accuracy(self) -> float:
        """Return the share of the clean images that are classified correctly."""
        return float(correct(self._network, self._images, self._labels).float().mean())

    def _calibration(self) -> Found:
        return calibration(logits_of(self._network, self._images), self._labels).record()

    def _trajectory(self) -> Found:
        """Follow the states of an ODE; of a network without one only its damping is known."""
        damping, gain = damping_values(self._network), gain_values(self._network)
        start = damping_range(self._network)
        scalars: dict[str, Any] = {
            "damping": damping,
            "gain": gain,
            "damping_start_assumed": None if start is None else start.assumed,
        }
        if isinstance(self._network, OdeStudent):
            return trajectory(self._network, self._images, seed=self._seed).record() | scalars
        return scalars if damping or gain else None

    def _stretch(self) -> Found:
        if not isinstance(self._network, OdeStudent):
            return None
        return stretch(self._network, self._images, seed=seed_of(self._seed, "stretch")).record()

    def _test_solvers(self) -> Found:
        if not isinstance(self._network, OdeStudent):
            return None
        horizon = self._network.integrator.horizon
        integrators = [parse_solver(text, horizon) for text in self._asked["test_solvers"]]
        rows = solver_table(self._network, self._images, self._labels, integrators)
        return [row.record() for row in rows]

    def _noise(self) -> Found:
        noises, severities = self._asked["noise"], self._asked["severities"]
        root = self._work.payload["corruption_root"]
        if root is None:
            seed, draws = seed_of(self._seed, "noise"), self._asked["draws"] or DRAWS
            where = (self._images, self._labels, self._ids)
            found = own_noise(self._network, *where, noises, severities, seed=seed, draws=draws)
        else:
            files, rows = self._corruptions(root, noises)
            size = self._dataset.shape[1]
            found = stored_noise(self._network, files, rows, self._labels, noises, severities, size=size)
        return [row.record() for row in found]

    def _corruptions(self, root: str, noises: Sequence[str]) -> tuple[CorruptionFiles | CorruptionFolder, Tensor]:
        """Open the published corruptions of the data set, with our images as these count them."""
        if self._dataset.name == "folder":
            clean = find_folder(Path(self._work.payload["data"]["root"]).expanduser())
            return open_corruption_folder(root, clean, noises), self._ids
        return open_corruptions(root, self._dataset.name, noises), self._test_rows()

    def _test_rows(self) -> Tensor:
        """Return positions in the official test set; image numbers count the official training set first."""
        before = sum(len(split) for name, split in self._dataset.splits.items() if name != "test")
        return self._ids - before

    def _published_attacks(self) -> Found:
        """Run the attacks of In-ResNet's paper, which are L-inf whatever the study's norm is."""
        headline = EPSILONS[self._dataset.name]["linf"].headline
        found = published_attacks(
            self._network,
            self._images,
            self._labels,
            self._epsilon if self._norm == "linf" else headline,
            seed=seed_of(self._seed, "published"),
            source=attack_source(self._work, self._work.payload["network"], self._network),
            legacy=self._asked["legacy"],
        )
        return [row.record() for row in found]

    def _landscape(self) -> Found:
        some = slice(0, SURFACE_IMAGES)
        flat = surface(
            self._network,
            self._images[some],
            self._labels[some],
            self._epsilon,
            seed=seed_of(self._seed, "landscape"),
            norm=self._norm,
        )
        ray = line(self._network, self._images, self._labels, self._epsilon, norm=self._norm)
        return ray.record() | {"surface": flat.record()}

    def _teacher(self) -> Found:
        """Compare with the first teacher, on clean images and on those that PGD finds against this network."""
        keys = list(dict.fromkeys(self._work.payload["teachers"]))
        if not keys:
            return None
        teachers = [trained_network(self._work, key, self._dataset) for key in keys]
        clean = likeness(logits_of(self._network, self._images), logits_of(teachers[0], self._images))
        attacked = self._attacked()
        under = likeness(logits_of(self._network, attacked), logits_of(teachers[0], attacked))
        found: dict[str, Any] = {
            "teacher": keys[0],
            "agreement": clean.agreement,
            "kl": plain(clean.kl),
            "agreement_attacked": under.agreement,
            "kl_attacked": plain(under.kl),
        }
        if len(teachers) > 1:
            found["ensemble_accuracy"] = ensemble_accuracy(
                [logits_of(teacher, self._images) for teacher in teachers], self._labels
            )
        stored = self._stored_attacks()
        if stored is not None:
            places, images = stored
            found |= transfer(self._network, teachers[0], self._images[places], images, self._labels[places]).record()
        return found

    def _attacked(self) -> Tensor:
        threat = Threat(self._norm, self._epsilon)
        return pgd(
            self._network,
            self._images,
            self._labels,
            threat,
            loss=cross_entropy,
            steps=ATTACK_STEPS,
            step_size=2.5 * self._epsilon / ATTACK_STEPS,
            start=threat.random_start(self._images, generator(self._seed, "likeness")),
            keep_going=True,
        ).last

    def _stored_attacks(self) -> tuple[Tensor, Tensor] | None:
        """Return the teacher's adversarial images of test at the smallest epsilon, with their places among ours."""
        folders = [self._work.ledger.folder(key) for key in self._work.payload["teacher_attacks"]]
        if not folders or not all((folder / "adversarial.npz").is_file() for folder in folders):
            return None
        ids, images = read_images(folders, 0)
        place_of = {number: place for place, number in enumerate(self._ids.tolist())}
        known = [row for row, number in enumerate(ids.tolist()) if number in place_of]
        places = torch.tensor([place_of[int(ids[row])] for row in known], device=self._images.device)
        return (places, images[known].to(self._images.device)) if known else None

    def _reconstruction(self) -> Found:
        """Rebuild the image from the last map, and the map from half of its channels."""
        train = self._dataset.splits["train"]
        known = train.images(subset(train, RECONSTRUCTION_IMAGES))
        seed, map_of = seed_of(self._seed, "reconstruction"), last_map_of(self._network)
        return reconstruct(map_of, known, self._images, seed=seed).record() | {
            "map": autoencode(map_of, known, self._images, seed=seed).record()
        }

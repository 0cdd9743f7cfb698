"""Attack one network through every solver of a list, and judge it under each of them (one slice of the cube)."""

import torch

from nodekd.attacks.threat import Threat
from nodekd.checks.preflight import preflight
from nodekd.checks.protocol import subject_of
from nodekd.checks.solver_matrix import SolverMatrix
from nodekd.models.student import OdeStudent
from nodekd.ode.solver_text import parse_solver
from nodekd.streams import seed_of
from study.jobs.arrays import write_arrays
from study.jobs.networks import trained_network
from study.jobs.subset import nested
from study.jobs.work import Result, Work

FILE = "cube.npz"


def run_cube(work: Work) -> Result:
    """Write `cube.npz`: who is broken by images made through solver i and judged under solver j.

    The payload names the network's job, the solvers as text, the split and how many of its images, the norm, the
    epsilon and the seed.
    """
    payload = work.payload
    dataset = work.dataset("train", payload["split"])
    split = dataset.splits[payload["split"]]
    rows = nested(split, payload["images"], payload["of_images"])
    images, labels = split.images(rows), split.labels[rows]
    network = trained_network(work, payload["network"], dataset)
    assert isinstance(network, OdeStudent), "the cube is planned for ODE students"
    horizon = network.integrator.horizon
    solvers = {text: parse_solver(text, horizon) for text in payload["solvers"]}
    first = network.with_integrator(next(iter(solvers.values())))
    subject = subject_of(first, first, preflight(first, images[:16]))
    matrix = SolverMatrix(subject, solvers, images, labels, seed_of(payload["seed"], "cube"))
    broken = matrix.broken(Threat(payload["norm"], payload["epsilon"]))
    correct = torch.stack([column.right for column in matrix.columns]).cpu()
    write_arrays(
        work.folder / FILE,
        image_id=split.ids[rows].cpu().numpy(),
        solvers=list(solvers),
        correct=correct.numpy(),
        broken=broken.numpy(),
    )
    kept = ("split", "norm", "epsilon", "trained")
    return Result(metrics={**payload["identity"], **{name: payload[name] for name in kept}, "n": len(images)})

"""A study that asks for the cube trains its reference point under each solver, and measures and draws every slice."""

import numpy as np
import pytest
import torch

from nodekd.data.dataset import DataConfig, load
from nodekd.models.student import OdeStudent
from nodekd.ode.solver_text import parse_solver
from study import driver
from study.engine.inline import InlineEngine
from study.jobs.networks import trained_network
from study.jobs.work import Work
from study.ledger import Ledger
from study.order import Order
from study.report.cube_figures import cube_chart
from study.results import load as load_results
from study.space.reader import read_space

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SOLVERS = ("euler:4", "rk4:8", "dopri5:1e-2")
SPACE = f"""
study:      {{name: pinned}}
teachers:   [{{arch: resnet20, train: {{epochs: 1}}}}]
student:    {{arch: odenet-stem, channels: 8, evaluations: 8, horizon: 2.0}}
distill:    {{method: none}}
train:      {{optimizer: adamw, learning_rate: 0.02, batch_size: 64, epochs: 8}}
search:     {{images: 16}}
space:
  solver: {{choice: [euler, midpoint]}}
sampler:    {{name: grid}}
budget:     {{trials: 2}}
robustness: {{tier: screen, images: 24, check_images: 16, epsilons: [0.1], cube: [{", ".join(SOLVERS)}]}}
"""


def test_every_slice_is_measured_on_the_network_trained_under_its_solver(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "pinned.yaml"
    source.write_text(SPACE, encoding="utf-8")
    order = Order(read_space(source, []), source, "python -m study.launch pinned.yaml", output=tmp_path / "s")
    assert driver.drive(order, InlineEngine()) == 0
    results = load_results(tmp_path / "s")
    assert [each.trained for each in results.cube] == list(SOLVERS)
    ledger, config = Ledger(tmp_path / "s"), DataConfig(name="digits")
    dataset = load(config, splits=("train", "test"))
    payload = {"data": vars(config), "split_hash": dataset.split_hash}
    for each in results.cube:
        name = each.trained.replace(":", "-")
        student = trained_network(Work(ledger, "test", payload, "cpu"), f"cube/{name}", dataset)
        assert isinstance(student, OdeStudent)
        assert student.integrator.solver == each.trained.partition(":")[0]
        (path,) = tmp_path.glob(f"s/cube/slices/{name}-*/cube.npz")
        with np.load(path, allow_pickle=False) as stored:
            rows = [dataset.splits["test"].ids.tolist().index(at) for at in stored["image_id"]]
            images, labels = dataset.splits["test"].images(rows), dataset.splits["test"].labels[rows]
            for place, text in enumerate(SOLVERS):
                judge = student.with_integrator(parse_solver(text, 2.0)).eval()
                with torch.no_grad():
                    right = torch.cat([judge(image[None]).argmax(dim=1) for image in images]) == labels
                assert right.tolist() == stored["correct"][place].tolist(), (each.trained, text)
        assert (each.robust_accuracy <= each.accuracy[None]).all()
        assert each.robust_accuracy.min() < each.accuracy.max(), "an attack broke something"
    drawn = cube_chart(results)
    assert drawn is not None
    assert len(drawn.variants) == len(SOLVERS)

"""What the probe job asks of its instruments: noise drawn as often as the space says, files where there are some."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from nodekd.data.corruptions import NOISES
from nodekd.data.dataset import DataConfig, Dataset, load
from nodekd.models.student import StudentConfig, build_student
from nodekd.ode.integrator import Integrator
from study.jobs.probe import DRAWS, Probe
from study.jobs.work import Work
from study.ledger import Ledger
from study.space import measure_sections

CLASSES = ("cat", "dog")
NAMES = ("a.png", "b.png", "c.png", "d.png")


def dark_or_light(label: int, place: int) -> int:
    return 40 + 120 * label + 5 * place


def write_pictures(root: Path, darker: int = 0) -> None:
    for label, name in enumerate(CLASSES):
        for place, picture in enumerate(NAMES):
            (root / name).mkdir(parents=True, exist_ok=True)
            pixels = np.full((8, 8, 3), dark_or_light(label, place) - darker, dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / picture)


class Light(nn.Module):
    """Class 1 where the mean is above one half, as far as pictures go that are not darkened much."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        lead = x.flatten(1).mean(dim=1) - 0.6
        return torch.stack([-lead, lead], dim=1)


def probe(dataset: Dataset, network: nn.Module, data: dict[str, Any] | None = None, **asked: Any) -> Probe:
    probes = measure_sections.Probes(**asked).model_dump()
    payload = {
        "probes": probes,
        "epsilon": 0.1,
        "norm": "linf",
        "seed": 3,
        "corruption_root": asked.get("corruption_root"),
    }
    work = Work(cast("Ledger", None), "probes/x", payload | {"data": data or {}}, "cpu")
    return Probe(work, dataset, network)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load(DataConfig("digits"), splits=("train", "test"))


def student(integrator: Integrator | None, arch: str = "odenet-stem") -> nn.Module:
    config = StudentConfig(arch=arch, channels=4)
    return build_student(config, integrator, shape=(1, 8, 8), classes=10, mean=(0.3,), std=(0.3,), seed=0).eval()


def test_the_noises_a_space_may_name_are_those_that_can_be_made() -> None:
    assert measure_sections.NOISES == NOISES


@pytest.mark.parametrize(("draws", "expected"), [(None, DRAWS), (2, 2)])
def test_noise_is_drawn_as_often_as_asked(digits: Dataset, draws: int | None, expected: int) -> None:
    looked = probe(digits, student(Integrator("euler", steps=1)), images=6, noise=["gaussian", "blur"], draws=draws)
    found = cast("list[dict[str, Any]]", looked.instruments()["noise"]())
    assert [row["draws"] for row in found] == [expected] * 5 + [1] * 5
    assert all(row["n"] == 6 and row["source"] == "own" for row in found)


def test_stretch_is_of_ode_students_alone(digits: Dataset) -> None:
    ode = probe(digits, student(Integrator("rk4", steps=1)), images=4, stretch=True).instruments()
    assert list(ode) == ["stretch"]
    found = cast("dict[str, Any]", ode["stretch"]())
    assert found["n"] == 4
    assert found["sigma"] > 0
    assert probe(digits, Light(), images=4, stretch=True).instruments()["stretch"]() is None


def test_pictures_in_imagenet_c_s_layout_are_those_of_the_test_split(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write_pictures(tmp_path / "data" / part)
    for severity in range(1, 6):
        write_pictures(tmp_path / "c" / "contrast" / str(severity), darker=2 * severity)
    data = {"name": "folder", "root": str(tmp_path / "data"), "image_size": 8}
    dataset = load(DataConfig(**data), splits=("train", "test"))
    asked: dict[str, Any] = {"noise": ["contrast"], "severities": [1, 5], "corruption_root": str(tmp_path / "c")}
    found = cast("list[dict[str, Any]]", probe(dataset, Light(), data, **asked).instruments()["noise"]())
    # the light pictures are 160, 165, 170 and 175 of 255; above 0.6 * 255 = 153 they are right
    assert [(row["severity"], row["correct"], row["source"]) for row in found] == [(1, [8], "file"), (5, [7], "file")]

"""One torch thread in every test, so that two cores serve two test processes and results repeat."""

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture
def digits():
    """Return the embedded data set with all its splits."""
    from nodekd.data.dataset import DataConfig, load

    return load(DataConfig())

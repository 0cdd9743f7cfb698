"""One torch thread in every test, so that two cores serve two test processes and results repeat."""

import torch

torch.set_num_threads(1)

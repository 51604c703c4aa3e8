"""What holds for every test."""

import torch

torch.set_num_threads(2)  # the same sums on every machine, and no fight over the cores of a small one

"""What holds for every test."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # matrices as small as the tests' are slower on several cores; before NumPy is there

import torch

torch.set_num_threads(2)  # the same sums on every machine, and no fight over the cores of a small one

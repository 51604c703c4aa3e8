"""A user's vector from what that user took, with the items' factors fixed: one small convex problem per user, solved by Newton.

What the user took is to be likely among all items (multinomial logistic regression), what was turned down to lie below the mean
item, and the vector is not to lie far from where users lie. Knows nothing of logs.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.special import softmax
from torch import Tensor

from habitus.nn.threads import coarse, each

Array = NDArray[Any]
SAMPLE = 1024  # items that stand for all
_USERS = 512  # solved at a time, by each thread
_STEPS, _INNER, _HALVINGS = 8, 8, 5  # Newton's steps, those of conjugate gradients for each, and how often a step is tried
_SETTLED = 1e-9  # a step of this share of the way from the prior is a user's last


def sampled_items(counts: Array, generator: np.random.Generator, most: int = SAMPLE) -> tuple[Array, Array]:
    """Items that stand for all in a sum over items, and the logarithm of how many each stands for; all of them if they are few.

    `counts` (n_items): how often each was taken. Drawn by the root of that, so that those that weigh most are likely there.
    """
    if len(counts) <= most:
        return np.arange(len(counts)), np.zeros(len(counts))
    chance = np.sqrt(counts + 1.0)
    chance /= chance.sum()
    chosen = np.sort(generator.choice(len(counts), most, p=chance))
    return chosen, -np.log(most * chance[chosen])


def firmness(items: Array, sample: Array, standing: Array, vector: Array) -> float:
    """How firmly a pair of weight 1 holds a user's `vector` (d) in place: the mean eigenvalue of its loss' Hessian there, above 0.

    The others as for `Folding`. A ridge in this unit means the same whatever the length of the items' vectors.
    """
    vectors = items[sample, :-1].astype(np.float64)
    chance = softmax(vectors @ vector + items[sample, -1] + standing)
    return float(max((chance @ np.square(vectors - chance @ vectors)).mean(), 1e-9))


class Folding:
    """Where users stand among fixed items.

    `items` (n_items, d + 1): each item's vector, its bias last. `sample` and `standing`: what `sampled_items` gave. `center` (d):
    where users without features lie. `ridge`: what a squared distance of 1 from there costs, above 0.
    """

    def __init__(self, items: Array, sample: Array, standing: Array, center: Array, ridge: float) -> None:
        self._items = items.astype(np.float64)
        self._center, self._ridge = center.astype(np.float64), ridge
        self._mean = self._items[:, :-1].mean(0)
        self._vectors = torch.from_numpy(self._items[sample, :-1].copy())
        self._offsets = torch.from_numpy(self._items[sample, -1] + standing)

    def solve(self, offsets: Array, items: Array, weights: Array, start: Array, device: torch.device) -> Array:
        """The vectors (n_users, d) float64 of users who have the pairs offsets[i] up to offsets[i + 1].

        `items` (n_pairs) positions; `weights` (n_pairs), below 0 for what was turned down; `start` (n_users, d): what the users'
        features say. The vector u is where Σ₊ w (log Σ exp s' − s) + Σ₋ |w| (s − mean s') + ridge/2 |u − start − center|² is least;
        s = u·v + b is the score of a pair's item, and s' is every item's.
        """
        shape = (len(offsets) - 1, len(self._items))
        taken, down = (np.where(weights * sign > 0, weights, 0.0) for sign in (1, -1))
        pull = csr_matrix((taken + down, items, offsets), shape=shape) @ self._items[:, :-1]
        mass, refused = (np.asarray(csr_matrix((w, items, offsets), shape=shape).sum(1)).reshape(-1) for w in (taken, down))
        pull -= refused[:, None] * self._mean
        prior = start + self._center
        vectors, standing = self._vectors.to(device), self._offsets.to(device)

        def solved(part: slice) -> Tensor:
            pulled, weighed, begun = (torch.from_numpy(array[part]).to(device) for array in (pull, mass, prior))
            return _least(vectors, standing, pulled, weighed, begun, self._ridge).cpu()

        parts = [slice(first, first + _USERS) for first in range(0, len(prior), _USERS)]
        with torch.no_grad(), coarse():
            found = each(solved, parts) if device.type == "cpu" else [solved(part) for part in parts]
        return torch.cat(found).numpy() if found else prior


def _least(vectors: Tensor, standing: Tensor, pull: Tensor, mass: Tensor, prior: Tensor, ridge: float) -> Tensor:
    """Newton from the prior, for every user until that user's vector has settled, whoever else has."""
    found, left = prior.clone(), torch.arange(len(prior), device=prior.device)
    for _ in range(_STEPS):
        begun, origin = found[left], prior[left]
        reached = _stepped(vectors, standing, pull[left], mass[left], origin, ridge, begun)
        found[left] = reached
        left = left[(reached - begun).square().sum(1) > _SETTLED**2 * (reached - origin).square().sum(1)]
        if not len(left):
            break
    return found


def _stepped(vectors: Tensor, standing: Tensor, pull: Tensor, mass: Tensor, prior: Tensor, ridge: float, found: Tensor) -> Tensor:
    """One step of Newton's from `found`. A step s goes as far as the way still leads down, found by halving, and in the end all the way.

    log(1 + r)/r of the way always leads down, r being the range of v·s over items: the third derivative of log Σ exp along s is at
    most r times its second (Sun and Tran-Dinh, 2019).
    """
    scores = torch.addmm(standing, found, vectors.t())
    chance = torch.softmax(scores, 1)
    slope = mass[:, None] * (chance @ vectors) - pull + ridge * (found - prior)
    step = _newton(vectors, chance, mass, -slope, ridge)
    along = step @ vectors.t()
    still = (step * (ridge * (found - prior) - pull)).sum(1)  # the part of the slope along the step that no score changes
    grown = ridge * step.square().sum(1)
    reach = (along.amax(1) - along.amin(1)).clamp_min(1e-12)
    low, high = torch.log1p(reach) / reach, torch.ones_like(mass)
    at = high
    for _ in range(_HALVINGS):
        chance = torch.softmax(torch.addcmul(scores, at[:, None], along), 1)
        down = mass * (chance * along).sum(1) + still + at * grown <= 1e-9
        low, high = torch.where(down, at, low), torch.where(down, high, at)
        at = torch.where(low == 1, low, (low * high).sqrt())
    return found + low[:, None] * step


def _newton(vectors: Tensor, chance: Tensor, mass: Tensor, slope: Tensor, ridge: float) -> Tensor:
    """The Hessian's inverse times the slope, by conjugate gradients, every user's at once."""
    found, rest = torch.zeros_like(slope), slope.clone()
    toward, left = rest.clone(), rest.square().sum(1)
    for _ in range(_INNER):
        along = toward @ vectors.t()
        along = chance * (along - (chance * along).sum(1, keepdim=True))
        bent = mass[:, None] * (along @ vectors) + ridge * toward
        size = (left / (toward * bent).sum(1).clamp_min(1e-300))[:, None]
        found += size * toward
        rest -= size * bent
        before, left = left, rest.square().sum(1)
        toward = rest + (left / before.clamp_min(1e-300))[:, None] * toward
    return found

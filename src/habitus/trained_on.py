"""Whom a model was trained with, as salted hashes: enough to ask whether a user of known id was among them, and no list of ids.

A hash is no secret from someone who has the model and a list of ids to try: the salt lies beside the hashes, and ids are short. It keeps
ids out of the file, makes tables of ready hashes useless, and gives a user other hashes in a model of other users, settings or dates.
A slow hash would not help against it, and is out of the question for millions of users (docs/erasure.md has the figures).

Knows ids and arrays, nothing of what was learned.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from habitus import artefact, checked

Array = NDArray[Any]
KIND = "trained_on"
_SALT = 16  # bytes; BLAKE2b takes as many


@dataclass(frozen=True)
class TrainedOn:
    """The users of a fit: `digests` (n_users) uint64, ascending, of ids that are text (`text`) or int64.

    A user who was not among n is taken for one who was with a probability of n / 2⁶⁴: for a million users 5 in 10¹⁴.
    """

    salt: bytes
    text: bool
    digests: Array

    @classmethod
    def of(cls, users: Array, made_of: Sequence[Any] = ()) -> Self:
        """Of these ids (n) int64 or str, ascending. The salt comes from the ids and from `made_of` (JSON: cut-off, seed, recipe), so
        that the same fit gives the same bytes wherever its log lies."""
        text = users.dtype.kind == "U"
        made = hashlib.blake2b(json.dumps(list(made_of), sort_keys=True, default=str).encode(), digest_size=_SALT)
        made.update(b"\0".join(_bytes_of(users, text)))
        return cls(made.digest(), text, np.sort(_digests(users, text, made.digest())))

    def __len__(self) -> int:
        return len(self.digests)

    def contains(self, users: Array) -> Array:
        """Whether each of these ids, (n) of the type of the fit's, was among the users of the fit, (n) bool."""
        asked = _digests(users, self.text, self.salt)
        if not len(self):
            return np.zeros(len(asked), bool)
        found: Array = self.digests[np.minimum(np.searchsorted(self.digests, asked), len(self) - 1)] == asked
        return found

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write it as an artefact."""
        with artefact.writing(folder, KIND, overwrite=overwrite) as writer:
            writer.arrays("digests", {"digests": self.digests})
            writer.facts = {"salt": self.salt.hex(), "text": self.text, "users": len(self)}

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Read what `save` wrote. Raises ArtefactError if it is incomplete or damaged."""
        reader = artefact.opening(folder, KIND)
        said = reader.said(_Said)
        digests = checked.array(reader.arrays("digests"), "digests", folder, "u", (said.users,))
        checked.require(digests.dtype == np.uint64 and (digests[1:] >= digests[:-1]).all(), folder, "its hashes are of 64 bits, ascending")
        checked.require(re.fullmatch(f"[0-9a-f]{{{2 * _SALT}}}", said.salt), folder, f"its salt has {_SALT} bytes")
        return cls(bytes.fromhex(said.salt), said.text, digests)


@dataclass(frozen=True)
class _Said:
    """What the manifest says."""

    salt: str
    text: bool
    users: checked.Count


def _bytes_of(users: Array, text: bool) -> list[bytes]:
    if text:
        return [one.encode("utf-8", "surrogatepass") for one in users.tolist()]
    whole = np.ascontiguousarray(users, "<i8").tobytes()
    return [whole[start : start + 8] for start in range(0, len(whole), 8)]


def _digests(users: Array, text: bool, salt: bytes) -> Array:
    """Eight bytes of BLAKE2b per id; a microsecond each."""
    hash_of, from_bytes = hashlib.blake2b, int.from_bytes
    found = (from_bytes(hash_of(one, digest_size=8, salt=salt).digest(), "little") for one in _bytes_of(users, text))
    return np.fromiter(found, np.uint64, len(users))

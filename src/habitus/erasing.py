"""The steps of forgetting: timelines, profiles, a model's vectors and a run's facts written again without some users, and read back.

Knows one artefact at a time; which ones there are, and in what order they are written, is `forgetting`'s.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from habitus import artefact, checked
from habitus.encoders import base as encoders
from habitus.encoders.base import Encoder
from habitus.errors import ArtefactError, InputError, shown
from habitus.log import without
from habitus.log.timelines import Timelines
from habitus.log.users import HEADERS, read_users, whole
from habitus.model import KIND as MODEL_KIND
from habitus.profiles import Profiles
from habitus.trained_on import TrainedOn

Array = NDArray[Any]

SHOWN = b'<script type="application/json" id="users-shown">'  # in a report: the ids of all users that it shows come next


class Asked:
    """The ids that were asked for, as text and, those that are one, as whole numbers; and which of them were met."""

    def __init__(self, texts: Array, header: str | None = None) -> None:
        self.texts = texts
        self._header = header  # the first line of a .csv file that is an id only if somebody is called so
        self.numbers = np.unique(np.array([int(one) for one in texts.tolist() if whole(one)], np.int64))
        self._met: set[str] = set()

    @classmethod
    def of(cls, users: str | Path | Sequence[Any] | Array) -> Self:
        """These ids, or those in a file. Raises InputError for what are no ids, LogError for a file that has none."""
        given = read_users(Path(users)) if isinstance(users, str | Path) else users
        given = given if isinstance(given, np.ndarray) else list(given)
        each = given.ravel() if isinstance(given, np.ndarray) else given
        if nul := next((one for one in each if isinstance(one, str) and "\0" in one), None):  # NumPy would drop one at the end
            raise InputError(f"users: {shown(nul)} has a zero byte in it, which no id that Habitus keeps has; name it as it is.")
        ids = np.asarray(given)
        if ids.ndim != 1 or not len(ids) or ids.dtype.kind not in "iuUO" or any(one is None for one in ids.tolist()):
            raise InputError(
                f"users: ids that are whole numbers or texts are needed, one at least; received {ids.dtype} of shape {ids.shape}."
            )
        texts, header = [str(one) for one in ids.tolist()], None
        if ids.dtype == object and len(texts) > 1:
            if texts[0].lower() in HEADERS:
                texts = texts[1:]
            elif not whole(texts[0]) and all(map(whole, texts[1:])):
                header = texts[0]
        return cls(np.unique(np.array(texts, str)), header)

    def like(self, text: bool) -> Array:
        """The ids as an artefact has them."""
        return self.texts if text else self.numbers

    def among(self, ids: Array) -> int:
        """How many of these ids were asked for."""
        met = np.intersect1d(ids, self.like(ids.dtype.kind == "U"))
        self._met.update(map(str, met.tolist()))
        return len(met)

    def among_hashed(self, trained: TrainedOn) -> int:
        """How many of the ids a model was trained with."""
        ids = self.like(trained.text)
        met = ids[trained.contains(ids)]
        self._met.update(map(str, met.tolist()))
        return len(met)

    @property
    def ids(self) -> list[str]:
        """The ids as text, once all has been looked through: without a header that nobody is called."""
        return [one for one in self.texts.tolist() if one != self._header or one in self._met]

    def missing(self) -> list[str]:
        """The ids that were not met, as they were given."""
        return [one for one in self.ids if one not in self._met and not (whole(one) and str(int(one)) in self._met)]


def rewrite_timelines(place: Path, asked: Asked) -> None:
    """Write timelines again without these users. Raises ArtefactError if what is read back is not that of the others."""
    without.rewrite(place, asked.like(Timelines.open(place, verify=False).users.dtype.kind == "U"))


def rewrite_profiles(place: Path, asked: Asked) -> None:
    """Write profiles again without these users. Raises ArtefactError if what is read back is not that of the others."""
    old = Profiles.open(place)
    kept = ~np.isin(old.users, asked.like(old.users.dtype.kind == "U"))
    facts = {**old.facts, "forgotten": old.facts.get("forgotten", 0) + int((~kept).sum())}
    less = replace(old, users=old.users[kept], matrix=old.matrix[kept], known=old.known[kept], facts=facts)
    less.save(place, overwrite=True)
    new = Profiles.open(place)
    same = np.array_equal(new.users, less.users)  # as texts: the longest may be gone, and with it the width that they were held in
    same = same and all(getattr(new, name).tobytes() == getattr(less, name).tobytes() for name in ("matrix", "known"))
    same = same and all(getattr(new, name) == getattr(less, name) for name in ("blocks", "until", "model_until", "facts", "features"))
    if not same or asked.among(new.users):
        raise ArtefactError(f"{place}: read back, the rewritten profiles are not those of the other users; make them anew with the model.")


def rewrite_vectors(part: Path, model: Path | None, asked: Asked) -> None:
    """Rewrite an encoder's part; its model's manifest says so before, and names the new part afterwards."""
    encoder = Encoder.load(part)
    state, facts = _kept_in(part)
    gone = asked.like(state["users"].dtype.kind == "U")
    kept = ~np.isin(state["users"], gone)
    users, matrix = state["users"][kept], state["matrix"][kept].tobytes()  # copies: the file is about to be replaced
    name = None if model is None else part.relative_to(model).as_posix()
    if model is not None:
        manifest = artefact.opening(model, MODEL_KIND).manifest
        artefact.restate(model, {**artefact.facts_of(manifest), "forgetting": [*manifest.get("forgetting", []), name]})
    encoder.without(gone)
    encoder.save(part, overwrite=True)
    state, read = _kept_in(part)
    same = np.array_equal(state["users"], users) and state["matrix"].tobytes() == matrix and read == facts
    if not same or np.isin(state["users"], gone).any():
        raise ArtefactError(f"{part}: read back, the rewritten vectors are not those of the other users; fit the model again.")
    if model is not None:
        restate(model, [name])


def _kept_in(part: Path) -> tuple[dict[str, Array], Any]:
    """The arrays of an encoder's part, and all that it says beside them."""
    reader = artefact.opening(part, encoders.KIND)
    return reader.arrays("state"), (artefact.facts_of(reader.manifest), reader.json("settings"), reader.json("facts"))


def restate(model: Path, parts: Sequence[Any]) -> None:
    """Have a model name the parts that are there, once they have been rewritten."""
    facts = artefact.facts_of(artefact.opening(model, MODEL_KIND).manifest)
    left = [part for part in facts.pop("forgetting", []) if part not in parts]
    named = {part: artefact.fingerprint(model / part) for part in parts}
    artefact.restate(model, {**facts, "parts": {**facts["parts"], **named}, **({"forgetting": left} if left else {})})


def is_behind(run: Path) -> bool:
    """Whether a run's facts speak of more users than it has profiles of, so that an earlier call was interrupted."""
    facts = artefact.read_json(run / artefact.RUN_FACTS)
    there = artefact.is_complete(run / artefact.PROFILES)
    return there and "users" in facts and facts["users"] != len(Profiles.open(run / artefact.PROFILES))


def restate_run(run: Path) -> None:
    """Have a run's facts count the users who are left, and say how many were forgotten, and when."""
    facts = dict(artefact.read_json(run / artefact.RUN_FACTS))
    if "users" in facts and artefact.is_complete(run / artefact.PROFILES):
        profiles = Profiles.open(run / artefact.PROFILES)
        entry = {"users": facts["users"] - len(profiles), "on": now()}
        facts |= {"users": len(profiles), "known": int(profiles.known.any(1).sum())}
        facts["forgotten"] = [*facts.get("forgotten", []), *([entry] if entry["users"] else [])]
    if "events" in facts and artefact.is_complete(run / artefact.TIMELINES):
        facts["events"] = Timelines.open(run / artefact.TIMELINES, verify=False).n_events
    artefact.write_json(run / artefact.RUN_FACTS, facts)


def users_shown(page: Path) -> Array | None:
    """The ids of the users that a report shows, or None if the file is none of Habitus's reports."""
    content = page.read_bytes()
    begin = content.find(SHOWN)
    if begin < 0:
        return None
    try:
        ids = checked.parsed(content[begin + len(SHOWN) : content.index(b"</script>", begin)])
    except (ValueError, RecursionError):
        return None
    kinds = {type(one) for one in ids} if isinstance(ids, list) else {list}
    return np.array(ids) if kinds <= {int} or kinds <= {str} else None


def now() -> str:
    """The time, ISO, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")

"""Rewriting without users, one artefact at a time: what is read back is held against what it should be, all of it."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from habitus.encoders.base import Encoder
from habitus.erasing import Asked, rewrite_profiles, rewrite_timelines, rewrite_vectors
from habitus.errors import ArtefactError
from habitus.log import without
from habitus.log.timelines import ABSENT, FIRST, Timelines
from habitus.profiles import Profiles

PARTS = Path(__file__).parent / "data" / "golden_parts_1"


def nudged(matrix: Any) -> Any:
    """One number moved by as little as a float32 can be."""
    matrix = matrix.copy()
    matrix[0, 0] = np.nextafter(matrix[0, 0], np.float32(9))
    return matrix


@pytest.mark.parametrize(
    "wrong",
    [
        lambda one: replace(one, matrix=nudged(one.matrix)),
        lambda one: replace(one, known=~one.known),
        lambda one: replace(one, until=one.until + 1),
        lambda one: replace(one, model_until=one.model_until - 1),
        lambda one: replace(one, facts={}),
        lambda one: replace(one, users=np.char.add(one.users, "x")),
        lambda one: replace(one, users=one.users[1:], matrix=one.matrix[1:], known=one.known[1:]),
    ],
)
def test_profiles_read_back_otherwise_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: Any) -> None:
    """A disk, or a mistake of ours, that changes somebody else's vector would be reported as an erasure that went well."""
    place = Path(shutil.copytree(PARTS / "profiles", tmp_path / "profiles"))
    honest = Profiles.save
    monkeypatch.setattr(Profiles, "save", lambda self, folder, **more: honest(wrong(self), folder, **more))
    with pytest.raises(ArtefactError, match="read back"):
        rewrite_profiles(place, Asked.of(["b"]))


def test_profiles_that_keep_the_user_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rewriting that does nothing would be reported as one that went well."""
    place = Path(shutil.copytree(PARTS / "profiles", tmp_path / "profiles"))
    monkeypatch.setattr(Profiles, "save", lambda self, folder, **more: None)
    with pytest.raises(ArtefactError, match="read back"):
        rewrite_profiles(place, Asked.of(["b"]))


def _turned(encoder: Any) -> None:
    encoder._matrix = encoder._matrix[::-1].copy()


def _renamed(encoder: Any) -> None:
    encoder._users = encoder._users + 1


def _without_columns(encoder: Any) -> None:
    encoder._columns = tuple(f"{name}x" for name in encoder._columns)


@pytest.mark.parametrize("harm", [_turned, _renamed, _without_columns])
def test_vectors_read_back_otherwise_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: Any) -> None:
    """Everybody's vector could belong to somebody else afterwards."""
    place = Path(shutil.copytree(PARTS / "external", tmp_path / "external"))
    users = Encoder.load(place)._users.tolist()
    honest = Encoder.save

    def save(self: Any, folder: Any, **more: Any) -> None:
        harm(self)
        honest(self, folder, **more)

    monkeypatch.setattr(Encoder, "save", save)
    with pytest.raises(ArtefactError, match="read back"):
        rewrite_vectors(place, None, Asked.of(users[:1]))


def test_timelines_read_back_otherwise_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same of events: users, how many events each has, when they end, and which have no value."""
    original = Timelines.open(PARTS / "timelines")
    gone = Asked.of(original.users[:1])
    honest = Timelines.open

    def shorter(lines: Timelines) -> Timelines:
        at = int(np.flatnonzero(lines.lengths > 1)[0])
        stops = lines.stops.copy()
        stops[at] -= 1
        return replace(lines, stops=stops)

    def filled(lines: Timelines) -> Timelines:
        name = next(name for name, field in lines.fields.items() if field.kind == "text")
        codes = [np.where(shard.codes[name] == ABSENT, FIRST, shard.codes[name]).astype(shard.codes[name].dtype) for shard in lines.shards]
        return replace(
            lines, shards=tuple(replace(shard, codes={**shard.codes, name: new}) for shard, new in zip(lines.shards, codes, strict=True))
        )

    wrongs = [shorter, filled, lambda one: replace(one, until=one.until + 1), lambda one: replace(one, event_types=())]
    for number, wrong in enumerate(wrongs):
        place = Path(shutil.copytree(PARTS / "timelines", tmp_path / str(number)))
        calls: list[int] = []

        def opened(folder: Any, verify: bool = True, wrong: Any = wrong, calls: list[int] = calls) -> Timelines:
            calls.append(1)
            return wrong(honest(folder, verify=verify)) if len(calls) == 2 else honest(folder, verify=verify)

        with monkeypatch.context() as patched:
            patched.setattr(without.Timelines, "open", opened)
            with pytest.raises(ArtefactError, match="read back"):
                without.rewrite(place, gone.like(original.users.dtype.kind == "U"))
        assert len(calls) == 2
    place = Path(shutil.copytree(PARTS / "timelines", tmp_path / "well"))
    rewrite_timelines(place, gone)
    assert not gone.among(Timelines.open(place).users)


def test_an_id_with_zeros_before_it_is_not_missing() -> None:
    """007 was found, as 7, and said to be nowhere."""
    asked = Asked.of(["007", "8", "x"])
    asked.among(np.array([7, 9]))
    assert asked.missing() == ["8", "x"]

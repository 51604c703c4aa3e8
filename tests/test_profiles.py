"""Profiles: what they refuse, how they are looked up, and that what is kept is what comes back."""

import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from habitus.errors import ArtefactError, OutputExistsError, ProfilesError
from habitus.profiles import Profiles, save_pieces


def made(strings: bool = False, **change: Any) -> Profiles:
    """Five users, blocks `a` (3 columns) and `b` (2); block b does not know user 2, and nobody knows user 4."""
    users = np.array([f"u{i}" for i in range(5)]) if strings else np.array([-3, 0, 2, 50, 1 << 40])
    matrix = np.random.default_rng(0).normal(size=(5, 5)).astype(np.float32)
    known = np.ones((5, 2), bool)
    known[2, 1] = known[4, 0] = known[4, 1] = False
    values: dict[str, Any] = {
        "users": users, "matrix": matrix, "blocks": {"a": (0, 3), "b": (3, 5)}, "known": known, "until": 12, "model_until": 7,
        "features": ("one", "two", "three", "four", "five"), "facts": {"seed": 1},
    }  # fmt: skip
    return Profiles(**{**values, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"users": np.arange(4)}, "do not belong together"),
        ({"matrix": np.zeros((5, 5))}, "float64; float32 is needed"),
        ({"users": np.array([1, 2, 2, 3, 4])}, "ascend without repeats"),
        ({"users": np.array([5, 4, 3, 2, 1])}, "ascend without repeats"),
        ({"known": np.ones((5, 1), bool)}, r"`known` has shape \(5, 1\)"),
        ({"blocks": {"a": (0, 3), "b": (3, 4)}}, "do not tile"),
        ({"blocks": {"a": (0, 3), "b": (2, 5)}}, "do not tile"),
        ({"blocks": {}, "known": np.ones((5, 0), bool)}, "do not tile"),
        (
            {"matrix": np.array([[0, 0, 0, 0, np.inf]] * 5, np.float32)},
            r"not finite in column 1 \(five\) of block 'b', of 5 of 5 users, -3 among them \(inf\)",
        ),
    ],
)
def test_profiles_refuse(change: dict[str, Any], message: str) -> None:
    """Profiles that cannot be right would be carried on, to fail far from their cause."""
    with pytest.raises(ProfilesError, match=message):
        made(**change)


def test_single_is_one_block() -> None:
    """An encoder's vectors would not be one block of float32 that knows everyone."""
    profiles = Profiles.single("x", np.arange(3), np.arange(6.0).reshape(3, 2))
    assert profiles.blocks == {"x": (0, 2)} and profiles.matrix.dtype == np.float32 and profiles.known.all()


@pytest.mark.parametrize("strings", [False, True])
def test_to_numpy_order_asked_for(strings: bool) -> None:
    """Vectors would come in another order than the users asked for, or a user asked for twice come once."""
    profiles = made(strings)
    wanted = profiles.users[[3, 0, 3, 4]]
    np.testing.assert_array_equal(profiles.to_numpy(wanted), profiles.matrix[[3, 0, 3, 4]])
    np.testing.assert_array_equal(profiles.to_numpy(wanted.tolist()), profiles.matrix[[3, 0, 3, 4]])
    assert profiles.to_numpy([]).shape == (0, 5) and profiles.to_numpy() is profiles.matrix


def test_positions_refuse_strangers() -> None:
    """A user without a profile would be given another user's, or the error would not name one."""
    with pytest.raises(ProfilesError, match="2 of 3 ids have no profile, 1 among them"):
        made().positions([2, 1, 1 << 50])
    with pytest.raises(ProfilesError, match="convert them first"):
        made().positions(["u1"])
    with pytest.raises(ProfilesError, match="1 of 1 ids"):
        made().select([]).positions([2])


def test_block_and_select() -> None:
    """A block's columns, names or knowledge would be another's, or a selection out of order."""
    block = made().block("b")
    np.testing.assert_array_equal(block.matrix, made().matrix[:, 3:])
    assert block.blocks == {"b": (0, 2)} and block.known[:, 0].tolist() == [True, True, False, True, False]
    assert block.features == ("four", "five") and block.until == 12
    some = made().select([50, -3, 50])
    assert some.users.tolist() == [-3, 50]
    np.testing.assert_array_equal(some.matrix, made().matrix[[0, 3]])
    with pytest.raises(ProfilesError, match="'c'; there are a, b"):
        made().block("c")


def test_blocks_only_keeps_what_belongs_together() -> None:
    """Some blocks' columns, names, knowledge or facts would be others', or their order that of the asking."""
    facts = {"seed": 1, "blocks": {"a": {"kind": "x"}, "b": {"kind": "y"}, "c": {"kind": "z"}}}
    blocks = {"a": (0, 1), "b": (1, 3), "c": (3, 5)}
    known = np.array([[True, True, False], [True, False, True], [False, True, True], [True, True, True], [False, False, False]])
    whole = made(blocks=blocks, known=known, facts=facts)
    some = whole.blocks_only(["c", "a"])
    np.testing.assert_array_equal(some.matrix, whole.matrix[:, [0, 3, 4]])
    np.testing.assert_array_equal(some.known, known[:, [0, 2]])
    assert dict(some.blocks) == {"a": (0, 1), "c": (1, 3)} and some.features == ("one", "four", "five")
    assert some.facts == {"seed": 1, "blocks": {"a": {"kind": "x"}, "c": {"kind": "z"}}} and (some.until, some.model_until) == (12, 7)
    assert whole.facts["blocks"].keys() == {"a", "b", "c"}
    np.testing.assert_array_equal(some.block("c").matrix, whole.block("c").matrix)
    assert made(features=(), facts={}).blocks_only(["b"]).features == ()
    for wrong, message in ((["a", "d"], "'d'; there are a, b, c"), ([], "no block is named")):
        with pytest.raises(ProfilesError, match=message):
            whole.blocks_only(wrong)


def test_nearest_slow_version() -> None:
    """Look-alikes would not be those of the largest cosine, or include the user itself or someone of whom nothing is known."""
    profiles = made()
    unit = profiles.matrix / np.linalg.norm(profiles.matrix, axis=1, keepdims=True)
    wanted = sorted(
        ((int(user), float(unit[1] @ unit[row])) for row, user in enumerate(profiles.users) if row not in (1, 4)), key=lambda e: -e[1]
    )
    found = profiles.nearest(0)
    assert [user for user, _ in found] == [user for user, _ in wanted]
    assert [cosine for _, cosine in found] == pytest.approx([cosine for _, cosine in wanted], abs=1e-6)
    assert profiles.nearest(0, 1) == found[:1] and profiles.nearest(0, 0) == []
    assert isinstance(made(strings=True).nearest("u0", 1)[0][0], str)


def test_nearest_of_an_empty_vector() -> None:
    """A user of zeros would divide by zero."""
    matrix = made().matrix.copy()
    matrix[1] = 0
    assert {cosine for _, cosine in made(matrix=matrix).nearest(0)} == {0.0}


def test_to_polars_names_columns() -> None:
    """A frame's columns would not be those of the blocks."""
    frame = made(strings=True).to_polars()
    assert frame.columns == ["user", "a_0", "a_1", "a_2", "b_0", "b_1"]
    np.testing.assert_array_equal(frame.drop("user").to_numpy(), made().matrix)
    assert frame["user"].to_list() == ["u0", "u1", "u2", "u3", "u4"]


@pytest.mark.parametrize("strings", [False, True])
def test_save_open_round_trip(tmp_path: Path, strings: bool) -> None:
    """Kept profiles would come back with other users, vectors, blocks or history."""
    profiles = made(strings)
    profiles.save(tmp_path / "p")
    again = Profiles.open(tmp_path / "p")
    assert again.users.tolist() == profiles.users.tolist() and again.users.dtype.kind == profiles.users.dtype.kind
    np.testing.assert_array_equal(again.matrix, profiles.matrix)
    np.testing.assert_array_equal(again.known, profiles.known)
    for name in ("blocks", "until", "model_until", "features", "facts"):
        assert getattr(again, name) == getattr(profiles, name)
    with pytest.raises(OutputExistsError):
        profiles.save(tmp_path / "p")
    profiles.select(profiles.users[:1]).save(tmp_path / "p", overwrite=True)
    assert len(Profiles.open(tmp_path / "p")) == 1


@pytest.mark.parametrize("strings", [False, True])
def test_save_open_nobody(tmp_path: Path, strings: bool) -> None:
    """Profiles of nobody could be written and not be read again."""
    made(strings).select([]).save(tmp_path / "p")
    again = Profiles.open(tmp_path / "p")
    assert again.matrix.shape == (0, 5) and again.users.dtype.kind == made(strings).users.dtype.kind


def test_open_damaged(tmp_path: Path) -> None:
    """Damaged vectors, or a manifest that speaks of others, would be read."""
    made().save(tmp_path / "p")
    manifest = tmp_path / "p" / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text.replace('"b": [', '"c": 3, "b": ['))
    with pytest.raises(ArtefactError, match=r"manifest\.json: blocks\.c: .* received '3'"):
        Profiles.open(tmp_path / "p")
    manifest.write_text(text)
    table = tmp_path / "p" / "profiles.parquet"
    whole = table.read_bytes()
    table.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    with pytest.raises(ArtefactError, match=r"profiles\.parquet.*checksum"):
        Profiles.open(tmp_path / "p")


@pytest.mark.parametrize(
    "forged",
    [
        {"until": "2024"}, {"until": 1.5}, {"model_until": True}, {"facts": []}, {"facts": {"blocks": "all"}},
        {"facts": {"blocks": {"b": [1]}}}, {"facts": {"blocks": {"b": {"until": "soon"}}}},
    ],
)  # fmt: skip
def test_open_times_that_are_none(tmp_path: Path, forged: dict[str, Any]) -> None:
    """What vectors have seen is compared with a cut-off; whatever cannot be would end in a traceback, or pass."""
    made().save(tmp_path / "p")
    manifest = tmp_path / "p" / "manifest.json"
    stated = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**stated, **forged}))
    with pytest.raises(ArtefactError, match=r"(until|facts).*: Input should be .*damaged"):
        Profiles.open(tmp_path / "p")
    manifest.write_text(json.dumps({**stated, "until": 5, "model_until": None, "facts": {"blocks": {"b": {"until": 5}}}}))
    assert Profiles.open(tmp_path / "p").until == 5


def test_the_table_is_for_everyone(tmp_path: Path) -> None:
    """Somebody with another tool could not read the vectors from the Parquet file."""
    import polars as pl

    made().save(tmp_path / "p")
    frame = pl.read_parquet(tmp_path / "p" / "profiles.parquet")
    assert frame.columns == ["user", "vector", "known"] and frame["user"].to_list() == made().users.tolist()
    assert frame["vector"].dtype == pl.Array(pl.Float32, 5)
    np.testing.assert_array_equal(frame["vector"].to_numpy(), made().matrix)
    assert frame["known"].to_list()[2] == [True, False]


def test_profiles_that_fail_half_way_leave_what_was_there(tmp_path: Path) -> None:
    """A night's run that dies would take yesterday's profiles with it, or leave rubbish beside them."""

    def failing() -> Iterator[Profiles]:
        yield made()
        raise ValueError("the disk is full")

    made().save(tmp_path / "p")
    before = (tmp_path / "p" / "profiles.parquet").read_bytes()
    with pytest.raises(ValueError, match="full"):
        save_pieces(tmp_path / "p", failing(), overwrite=True)
    assert (tmp_path / "p" / "profiles.parquet").read_bytes() == before and len(Profiles.open(tmp_path / "p")) == 5
    assert [entry.name for entry in tmp_path.iterdir()] == ["p"]


def test_profiles_in_pieces_are_counted_together(tmp_path: Path) -> None:
    """What was read of whom would be told of the last piece alone."""
    whole = made(facts={"seed": 1, "blocks": {name: {"events": 7, "until": 12} for name in "ab"}})
    halves = [
        Profiles(whole.users[rows], whole.matrix[rows], whole.blocks, whole.known[rows], 12, 7, whole.features, whole.facts)
        for rows in (slice(0, 2), slice(2, 5))
    ]
    stored = save_pieces(tmp_path / "p", halves, more=lambda stored: {"log": "shop", "of": len(stored)})
    found = Profiles.open(tmp_path / "p")
    assert found.users.tolist() == whole.users.tolist() and np.array_equal(found.matrix, whole.matrix)
    assert found.facts["blocks"]["a"] == {"events": 14, "until": 12} and found.facts["log"] == "shop" and found.facts["seed"] == 1
    assert found.facts["of"] == 5
    assert (stored.users, stored.unknown, stored.known) == (
        5,
        1,
        dict(zip("ab", whole.known.sum(0).tolist(), strict=True)),
    ) and stored.facts == found.facts


@pytest.mark.parametrize("size", [1e-40, 1e-25, 1.0, 1e25, 1e38])
def test_nearest_of_tiny_and_huge_vectors(size: float) -> None:
    """The square of a large number would be infinite in float32, that of a small one 0, and the nearest anybody."""
    rng = np.random.default_rng(2)
    matrix = (rng.integers(-3, 4, (20, 6)) * size).astype(np.float32)
    matrix[4] = 0
    profiles = Profiles.single("x", np.arange(20), matrix)
    exact = [[Fraction(float(x)) for x in row] for row in matrix]

    def cosine(one: list[Fraction], other: list[Fraction]) -> float:
        product = sum(x * y for x, y in zip(one, other, strict=True))
        squares = sum(x * x for x in one) * sum(x * x for x in other)
        return float(product > 0) * float(product * product / squares) ** 0.5 if squares and product > 0 else (
            -(float(product * product / squares) ** 0.5) if squares else 0.0)  # fmt: skip

    for user in (0, 4, 7):
        found = profiles.nearest(user, 19)
        assert [cosine for _, cosine in found] == sorted((cosine for _, cosine in found), reverse=True)
        for other, said in found:
            assert said == pytest.approx(cosine(exact[user], exact[other]), abs=1e-9)

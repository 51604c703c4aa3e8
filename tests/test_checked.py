"""What comes from a file is believed no further than it was looked at; each finding of the fuzzing that one line can show is kept here."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from habitus import checked
from habitus.errors import ArtefactError


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"a": NaN}', "NaN is no number"), (b"[-Infinity]", "is no number"), (b"[1e400]", "beyond the range"),
        (b"[1" + b"0" * 30 + b"]", "64 bits"), (b"1" * 10_000, "64 bits"), (b'{"a": 1, "a": 2}', "a key twice"),
        (b"[" * 100_000 + b"]" * 100_000, "JSON"), (b"[" * 200 + b"]" * 200, "nested more than 100"), (b'["\\ud800"]', "surrogates"),
        (b'{"\\udfff": 1}', "surrogates"), (b"\xff", "utf-8"), (b"", "JSON"), (b"{", "JSON"),
    ],
)  # fmt: skip
def test_json_that_is_none(tmp_path: Path, content: bytes, said: str) -> None:
    """A number that is none, a key that is there twice or a thousand brackets would pass, or end in a traceback."""
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ArtefactError, match=said):
        checked.json_of(tmp_path / "a.json")


def test_json_as_it_may_be(tmp_path: Path) -> None:
    """A sound file would be refused: seeds of 64 bits, names in any script, escapes of two halves."""
    value = {"ö": [2**64 - 1, -1.5e-300, None, True, "𝄞"], "b": {}}
    (tmp_path / "a.json").write_text(json.dumps(value))
    assert checked.json_of(tmp_path / "a.json") == value


@dataclass(frozen=True)
class _Shape:
    count: checked.Count
    names: tuple[str, ...]
    time: checked.Time | None = None


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"count": "5"}, "count"), ({"count": True}, "count"), ({"count": -1}, "count"), ({"count": 2**31}, "count"),
        ({"count": 1.0}, "count"), ({"names": "ab"}, "names"), ({"names": ["a", 5]}, "names.1"), ({"time": 2**62}, "time"),
        ({"time": "2024"}, "time"),
    ],
)  # fmt: skip
def test_shapes_name_the_place(change: dict[str, Any], place: str) -> None:
    """A value of another type would be taken for the one expected, or the error would not say where it is."""
    sound = {"count": 5, "names": ["a", "b"], "more": "is left aside"}
    assert checked.shaped(sound, _Shape, "f") == _Shape(5, ("a", "b"))
    with pytest.raises(ArtefactError, match=rf"^f: {place}: "):
        checked.shaped({**sound, **change}, _Shape, "f")


def test_arrays_are_what_is_expected() -> None:
    """NaN in weights, or one row too few, would go on as vectors, or as a crash far away."""
    arrays = {"w": np.ones((3, 2), np.float32), "i": np.arange(3)}
    assert checked.array(arrays, "w", "f", "f", (3, None)).shape == (3, 2)
    assert checked.array(arrays, "i", "f", "iu", (3,), least=0, most=2)[2] == 2
    for name, kinds, shape, limits in (
        ("x", "f", (3,), {}), ("w", "f", (2, 2), {}), ("w", "f", (6,), {}), ("w", "i", (3, 2), {}), ("i", "i", (3,), {"most": 1}),
        ("i", "i", (3,), {"least": 1}),
    ):  # fmt: skip
        with pytest.raises(ArtefactError, match=r"^f: "):
            checked.array(arrays, name, "f", kinds, shape, **limits)
    with pytest.raises(ArtefactError, match="finite"):
        checked.array({"w": np.array([1, np.nan])}, "w", "f", "f", (2,))


@pytest.mark.parametrize("ends", [[3, 2, 5], [0, 5, 9], [-1, 2, 5], [1, 2, 4], [1, 2**62, 5]])
def test_texts_within_their_bytes(tmp_path: Path, ends: list[int]) -> None:
    """Texts whose ends lie beyond their bytes, or go backwards, would be cut elsewhere than where they were written."""
    (tmp_path / "a.safetensors").write_bytes(save({"ids/utf8": np.frombuffer(b"abcde", np.uint8), "ids/ends": np.array(ends)}))
    with pytest.raises(ArtefactError, match="the ends of texts"):
        checked.map_safetensors(tmp_path / "a.safetensors")


def test_a_long_text_is_not_laid_out_for_all(tmp_path: Path) -> None:
    """A million ids and a single one of a megabyte: NumPy would give each as much room, 4 TB."""
    data, ends = np.full(3_000_000, 97, np.uint8), np.append(np.arange(1, 1_000_001), 3_000_000)
    (tmp_path / "a.safetensors").write_bytes(save({"ids/utf8": data, "ids/ends": ends}))
    with pytest.raises(ArtefactError, match="claim to hold"):
        checked.map_safetensors(tmp_path / "a.safetensors")


def test_arrays_that_share_bytes(tmp_path: Path) -> None:
    """Two arrays of a forged file would be one, so that a few bytes stand for any number of arrays."""
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    header = json.dumps({"a": entry, "b": entry}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(ArtefactError, match="share bytes"):
        checked.map_safetensors(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "header",
    ["{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }", "{'descr': '<f4', 'fortran_order': False, 'shape': (4i, }",
     "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }", "(((((", "",
     "__import__('os').mkdir('sprung')"],
)  # fmt: skip
def test_npy_headers_that_lie(tmp_path: Path, header: str) -> None:
    """A list of users of 80 bytes would take 4 TB, or end in a tokenizer's traceback (NumPy's own reader does both)."""
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(8)
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"no sound \.npy|what its 8 bytes|its header cannot be read|holds objects"):
        checked.npy(tmp_path / "a.npy")
    assert not Path("sprung").exists()


@pytest.mark.parametrize(
    "array", [np.arange(5), np.asfortranarray(np.ones((3, 2), "f2")), np.array(["ä", "b"]), np.zeros((0, 3)), np.array(1)]
)
def test_npy_second_witness(tmp_path: Path, array: np.ndarray) -> None:
    """A sound file would be refused, or read as something else than NumPy reads."""
    np.save(tmp_path / "a.npy", array)
    np.testing.assert_array_equal(checked.npy(tmp_path / "a.npy"), np.load(tmp_path / "a.npy"))


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "a/../b", "/etc/passwd", "a\\b", "..", ".", "", "a//b", "a/./b", "C:x", "a\0b", 7, None]
)
def test_names_that_lead_outside(tmp_path: Path, name: Any) -> None:
    """A manifest from elsewhere would have us read, or write, another folder; one that is read on Windows, too."""
    with pytest.raises(ArtefactError, match="leads outside"):
        checked.inside(tmp_path, name)
    assert checked.inside(tmp_path, "a/b..c/.d") == tmp_path / "a" / "b..c" / ".d"


def test_whole_numbers_at_the_ends_of_64_bits(tmp_path: Path) -> None:
    """A seed at the end of its range would be refused, or one beyond it overflow far away."""
    file = tmp_path / "a.json"
    for number in (2**64 - 1, 1 - 2**64):
        file.write_text(str(number))
        assert checked.json_of(file) == number
    for number in (2**64, -(2**64)):
        file.write_text(str(number))
        with pytest.raises(ArtefactError, match="64 bits"):
            checked.json_of(file)


def test_json_of_any_size_is_not_read(tmp_path: Path) -> None:
    """A file of a terabyte, of zeros that take no room, would fill the memory."""
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate((64 << 20) + 1)
    with pytest.raises(ArtefactError, match="more than 64 MiB"):
        checked.json_of(tmp_path / "a.json")


def test_ids_come_once_and_ascend() -> None:
    """A user who is there twice has two vectors, and whoever looks one up finds either."""
    assert checked.ids(np.array([1, 2, 5]), "f").tolist() == [1, 2, 5]
    for wrong in ([1, 1], [2, 1]):
        for kind in (np.int64, str):
            with pytest.raises(ArtefactError):
                checked.ids(np.array(wrong).astype(kind), "f")

"""Artefacts are complete or nothing, and what is damaged is not read."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from habitus import artefact, folders
from habitus.errors import ArtefactError, OutputExistsError

KIND = "thing"


def write(folder: Path, value: float = 1.0, **more: Any) -> None:
    with artefact.writing(folder, KIND, **more) as writer:
        writer.arrays("state", {"x": np.full(3, value)})
        writer.json("inner/notes", {"ö": [1, None]})
        writer.facts = {"made": "here"}


def interrupted(folder: Path, **more: Any) -> None:
    """A writer that dies after its first file."""
    with pytest.raises(KeyboardInterrupt), artefact.writing(folder, KIND, **more) as writer:
        writer.arrays("state", {"x": np.zeros(3)})
        raise KeyboardInterrupt


def listed(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_written_is_read(tmp_path: Path) -> None:
    """What was written would not come back, or the folder would hold more than its files and the manifest."""
    write(tmp_path / "a")
    reader = artefact.opening(tmp_path / "a", KIND)
    assert reader.arrays("state")["x"].tolist() == [1, 1, 1]
    assert reader.json("inner/notes") == {"ö": [1, None]}
    assert reader.manifest["made"] == "here" and reader.manifest["format"] == artefact.FORMAT_VERSION
    assert listed(tmp_path / "a") == {"manifest.json", "state.safetensors", "inner/notes.json"}
    with pytest.raises(ArtefactError, match=r"lists no file 'other\.json'"):
        reader.json("other")


def test_interrupted_is_no_artefact_and_is_cleared(tmp_path: Path) -> None:
    """A writer that died would leave something that looks complete, or debris that mixes with the next one's files."""
    interrupted(tmp_path / "a")
    assert not artefact.is_complete(tmp_path / "a")
    with pytest.raises(ArtefactError, match="no such folder"):
        artefact.opening(tmp_path / "a", KIND)
    debris = folders.beside(tmp_path / "a", folders.NEW)
    debris.mkdir()
    (debris / "left.bin").write_bytes(b"x")
    folders.beside(tmp_path / "a", folders.LOCK).touch()
    write(tmp_path / "a")
    assert listed(tmp_path / "a") == {"manifest.json", "state.safetensors", "inner/notes.json"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_interrupted_overwriting_leaves_the_old_one(tmp_path: Path) -> None:
    """A full disk, or an impatient hand, would cost the artefact that was there; or the half of a new one would stay on the disk."""
    write(tmp_path / "a")
    interrupted(tmp_path / "a", overwrite=True)
    assert artefact.opening(tmp_path / "a", KIND).arrays("state")["x"][0] == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]
    write(tmp_path / "a", 2.0, overwrite=True)
    assert artefact.opening(tmp_path / "a", KIND).arrays("state")["x"][0] == 2
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_a_disk_of_its_own_is_written_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mounted folder could not be written at all, as nothing can take its place; or it would be emptied before the new one is there."""
    monkeypatch.setattr("os.path.ismount", lambda place: Path(place).name == "disk")
    (tmp_path / "disk").mkdir()
    interrupted(tmp_path / "disk")
    assert not artefact.is_complete(tmp_path / "disk")
    write(tmp_path / "disk")
    with pytest.raises(OutputExistsError, match=r"cannot be replaced.*name a folder within it"):
        write(tmp_path / "disk", 2.0, overwrite=True)
    assert artefact.opening(tmp_path / "disk", KIND).arrays("state")["x"][0] == 1
    assert listed(tmp_path / "disk") == {"manifest.json", "state.safetensors", "inner/notes.json"}


def test_complete_makes_an_artefact_of_parts(tmp_path: Path) -> None:
    """Parts that a fit has written one by one would be cleared away when the whole is completed, or debris stay among them."""
    artefact.reopen(tmp_path / "a")
    write(tmp_path / "a" / "part")
    (tmp_path / "a" / "debris").touch()
    artefact.complete(tmp_path / "a", KIND, {"made": "here"}, parts=("part",))
    assert artefact.opening(tmp_path / "a", KIND).manifest["made"] == "here"
    assert {entry.name for entry in (tmp_path / "a").iterdir()} == {"part", "manifest.json"}


def test_complete_is_not_overwritten_unasked(tmp_path: Path) -> None:
    """A finished artefact would be lost to a second command with the same output."""
    write(tmp_path / "a")
    with pytest.raises(OutputExistsError, match="exists already"):
        write(tmp_path / "a", 2.0)
    assert artefact.opening(tmp_path / "a", KIND).arrays("state")["x"][0] == 1
    write(tmp_path / "a", 2.0, overwrite=True)
    assert artefact.opening(tmp_path / "a", KIND).arrays("state")["x"][0] == 2


@pytest.mark.parametrize("overwrite", [False, True])
def test_foreign_folder_is_untouched(tmp_path: Path, overwrite: bool) -> None:
    """Somebody's own files would be deleted."""
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputExistsError, match="nothing was touched"):
        write(tmp_path, overwrite=overwrite)
    assert listed(tmp_path) == {"thesis.txt"}
    with pytest.raises(OutputExistsError, match="is a file"):
        write(tmp_path / "thesis.txt")


def test_empty_folder_is_taken(tmp_path: Path) -> None:
    """A folder that was made beforehand could not be used."""
    write(tmp_path)
    assert artefact.is_complete(tmp_path)


def test_damage_is_found(tmp_path: Path) -> None:
    """A changed, short or missing file would be read as if nothing had happened."""
    write(tmp_path / "a")
    state = tmp_path / "a" / "state.safetensors"
    whole = state.read_bytes()
    state.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ArtefactError, match=r"state\.safetensors.*checksum"):
        artefact.opening(tmp_path / "a", KIND)
    artefact.opening(tmp_path / "a", KIND, verify=False)
    state.write_bytes(whole[:-1])
    with pytest.raises(ArtefactError, match=r"state\.safetensors.*size"):
        artefact.opening(tmp_path / "a", KIND, verify=False)
    state.unlink()
    with pytest.raises(ArtefactError, match=r"state\.safetensors.*missing"):
        artefact.opening(tmp_path / "a", KIND)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": artefact.FORMAT_VERSION + 1}, "pip install -U habitus"),
        ({"format": "new"}, "pip install -U habitus"),
        ({"kind": "other"}, "'other', and a 'thing' was asked for"),
        ({"files": None}, "not a manifest"),
        ({"files": {"../outside.json": {"bytes": 3, "sha256": ""}}}, "outside the folder"),
    ],
)
def test_manifests_that_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """An artefact of a newer format or another kind, or one that reaches outside its folder, would be opened."""
    write(tmp_path / "a")
    (tmp_path / "outside.json").write_text("{}\n")
    path = tmp_path / "a" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ArtefactError, match=message):
        artefact.opening(tmp_path / "a", KIND)


def test_manifest_that_is_no_json(tmp_path: Path) -> None:
    """A manifest cut short would be a stack trace."""
    write(tmp_path / "a")
    path = tmp_path / "a" / "manifest.json"
    path.write_text(path.read_text()[:-9])
    with pytest.raises(ArtefactError, match="not JSON"):
        artefact.opening(tmp_path / "a", KIND)
    with pytest.raises(ArtefactError, match="no such folder"):
        artefact.opening(tmp_path / "b", KIND)


def test_links_are_refused(tmp_path: Path) -> None:
    """A link in an artefact from elsewhere would be followed out of the folder."""
    write(tmp_path / "a")
    state = tmp_path / "a" / "state.safetensors"
    os.replace(state, tmp_path / "moved")
    state.symlink_to(tmp_path / "moved")
    with pytest.raises(ArtefactError, match="outside the folder"):
        artefact.opening(tmp_path / "a", KIND)


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    numbers = {
        name: (rng.random((3, 2)) * 100).astype(name) for name in ("bool", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8")
    }
    return numbers | {"none": np.zeros((0, 4), np.int16), "point": np.array(3.5), "turned": np.arange(12).reshape(3, 4).T}


def test_arrays_second_witness(tmp_path: Path) -> None:
    """Our own reader of safetensors would disagree with the library, for some type or shape, in either direction."""
    with artefact.writing(tmp_path / "a", KIND) as writer:
        writer.arrays("ours", arrays())
        save_file({name: np.asarray(array, order="C") for name, array in arrays().items()}, writer.path("theirs.safetensors"))
    reader = artefact.opening(tmp_path / "a", KIND)
    library = load_file(tmp_path / "a" / "ours.safetensors")
    for mine in (reader.arrays("ours"), reader.arrays("theirs")):
        assert mine.keys() == library.keys()
        for name, array in arrays().items():
            assert mine[name].dtype == library[name].dtype == array.dtype
            assert mine[name].shape == array.shape and not mine[name].flags.writeable
            np.testing.assert_array_equal(mine[name], array)


@pytest.mark.parametrize("strings", [["a", "", "ö→𝄞", "line\nbreak"], [""], []])
def test_arrays_of_strings(tmp_path: Path, strings: list[str]) -> None:
    """String ids, the empty string or no string at all would not survive."""
    with artefact.writing(tmp_path / "a", KIND) as writer:
        writer.arrays("ids", {"users": np.array(strings, str), "number": np.arange(2)})
    again = artefact.opening(tmp_path / "a", KIND).arrays("ids")
    assert again["users"].tolist() == strings and again["users"].dtype.kind == "U" and again.keys() == {"users", "number"}


def test_no_arrays_at_all(tmp_path: Path) -> None:
    """An encoder that keeps no array could not be saved."""
    with artefact.writing(tmp_path / "a", KIND) as writer:
        writer.arrays("state", {})
    assert artefact.opening(tmp_path / "a", KIND).arrays("state") == {}


@pytest.mark.parametrize("content", [b"", b"1234", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0[]", b"\x40\0\0\0\0\0\0\0{}"])
def test_files_that_are_no_safetensors(tmp_path: Path, content: bytes) -> None:
    """A file that is no safetensors would be a stack trace, or be read as something."""
    with artefact.writing(tmp_path / "a", KIND) as writer:
        writer.path("state.safetensors").write_bytes(content)
    with pytest.raises(ArtefactError, match="not a sound safetensors file"):
        artefact.opening(tmp_path / "a", KIND).arrays("state")


def test_safetensors_whose_header_lies(tmp_path: Path) -> None:
    """An array could be read from beyond the file, or from another array's bytes."""
    for entry in ({"dtype": "F32", "shape": [4], "data_offsets": [0, 8]}, {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}):
        header = json.dumps({"x": entry}).encode()
        with artefact.writing(tmp_path / "a", KIND, overwrite=True) as writer:
            writer.path("state.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
        with pytest.raises(ArtefactError, match="disagree"):
            artefact.opening(tmp_path / "a", KIND).arrays("state")


def test_write_json_is_old_or_new(tmp_path: Path) -> None:
    """A value that JSON cannot say would leave half a file in place of a good one."""
    path = tmp_path / "facts.json"
    artefact.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        artefact.write_json(path, {"a": float("nan")})
    assert artefact.read_json(path) == {"a": 1}

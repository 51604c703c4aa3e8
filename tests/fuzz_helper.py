"""What two attackers do to files: the clumsy one damages them, the careful one makes sizes, checksums and fingerprints right again."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save

Rng = np.random.Generator
NASTY: tuple[Any, ...] = (
    None, -1, 0, 1, 5, 2**31, 2**53, 2**62, 2**63 - 1, 2**63, -(2**63), 2**70, 0.5, 1e308, "@1e400@", "@NaN@", "@-Infinity@", True, False,
    "", [], {}, [[]], [None], {"": None}, [1, 1], ["event_type", "event_type"], "@DEEP@", "@TWICE@", "x" * 100_000, "../../etc/passwd",
    "/etc/passwd", "a\0b", "os", "builtins", "__init__", "base", "\ud800", "ä" * 300, "event_type", "sku", "name", "query", "weekday", "*",
)  # fmt: skip
_RAW = {
    '"@1e400@"': "1e400", '"@NaN@"': "NaN", '"@-Infinity@"': "-Infinity", '"@DEEP@"': "[" * 100_000 + "]" * 100_000,
    '"@TWICE@"': '{"a": 1, "a": 2}',
}  # fmt: skip
SHAPES: tuple[Any, ...] = (
    [2**40], [-1], [-1, -1], [2**32, 2**32], [0], [], [1] * 100, ["3"], [2.0], None, [True], [2**63], [2**40, 0],
)  # fmt: skip
KEYS = ("", "..", "codes/", "/utf8", "x/utf8", "users/utf8", "a" * 70_000, "weights/", "dictionary/x")


class Hung(BaseException):
    """A loader took longer than any should."""


def listed(folder: Path) -> list[Path]:
    """The files below a folder, in order."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def seal(folder: Path) -> None:
    """Make sizes, checksums and fingerprints of parts right, from the innermost artefact outwards, wherever that is possible."""
    for manifest in sorted(folder.rglob("manifest.json"), key=lambda path: -len(path.parts)):
        with contextlib.suppress(OSError, ValueError, RecursionError, AttributeError, TypeError):
            said = json.loads(manifest.read_bytes())
            for name in list(said.get("files", {})):
                content = (manifest.parent / name).read_bytes()
                said["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for part in list(said.get("parts", {})):
                said["parts"][part] = hashlib.sha256((manifest.parent / part / "manifest.json").read_bytes()).hexdigest()
            manifest.write_text(json.dumps(said))


def bytes_changed(path: Path, rng: Rng) -> str:
    """Bits flipped, bytes zeroed, cut off, added or exchanged; or nothing left."""
    before, how = path.read_bytes(), int(rng.integers(7))
    content = bytearray(before)
    at = int(rng.integers(len(content))) if content else 0
    if how < 3 and content:
        for place in rng.integers(0, min(len(content), 400 if how else len(content)), 1 + how):  # headers lie at the beginning
            content[place] ^= 1 << int(rng.integers(8))
    elif how == 3:
        del content[at:]
    elif how == 4:
        content[at : at + 64] = bytes(len(content[at : at + 64]))
    elif how == 5:
        content += rng.bytes(int(rng.integers(1, 100)))
    else:
        content = bytearray(rng.bytes(at)) if rng.random() < 0.5 else bytearray()
    if content == before:  # zeros where zeros were
        content = bytearray(b"\0")
    path.write_bytes(bytes(content))
    return f"bytes of {path.name}, way {how}"


def replaced(path: Path, rng: Rng, root: Path, outside: Path) -> str:
    """A file that is gone, a folder, a link out, round and round or to a device, a pipe; or a folder on the way from `root` a link."""
    how = int(rng.integers(7))
    if how == 6 and path.parent != root:
        place = outside / path.parent.name
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(path.parent, place, symlinks=True)
        shutil.rmtree(path.parent)
        path.parent.symlink_to(place, target_is_directory=True)
        return f"{path.parent.name}/ is a link"
    shutil.copy(path, outside / path.name)
    path.unlink()
    (
        lambda: None,
        path.mkdir,
        lambda: path.symlink_to(outside / path.name),
        lambda: path.symlink_to("/dev/zero"),
        lambda: path.symlink_to(path.name),
        lambda: os.mkfifo(path),
        lambda: path.symlink_to(f"../{path.parent.name}/manifest.json"),
    )[how]()
    return f"{path.name} replaced, way {how}"


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container in a JSON value with each of its keys."""
    found: list[tuple[Any, Any]] = []
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        found += [(value, key), *places(value[key])]
    return found


def json_changed(path: Path, rng: Rng, nth: tuple[int, int] | None = None) -> str:
    """One value somewhere in a JSON file becomes a nasty one, goes, or gets a nasty name; `nth`: which place, and which value."""
    value = json.loads(path.read_bytes())
    all_places = places(value) or [([value], 0)]
    container, key = all_places[int(rng.integers(len(all_places))) if nth is None else nth[0] % len(all_places)]
    nasty = NASTY[int(rng.integers(len(NASTY))) if nth is None else nth[1] % len(NASTY)]
    how = 0 if nth else int(rng.integers(8))
    if how == 7 and isinstance(container, dict):
        container[str(nasty)] = container.pop(key)
    elif how == 6:
        del container[key]
    else:
        container[key] = nasty
    text = json.dumps(value)
    for marked, raw in _RAW.items():
        text = text.replace(marked, raw)
    path.write_text(text)
    return f"{path.name}: {key!r} ↦ {str(nasty)[:40]!r}, way {how}"


def header_changed(path: Path, rng: Rng) -> str:
    """A safetensors header that lies: about its length, a type, a shape, where an array lies."""
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    if rng.random() < 0.15:
        lie = int(rng.choice(np.array([0, 1, length + 1, 2**31, 2**40, 2**63 - 1, 2**63, 2**64 - 1], np.uint64)))
        path.write_bytes(struct.pack("<Q", lie) + content[8:])
        return f"{path.name}: a header of {lie}"
    header = json.loads(content[8 : 8 + length])
    names = [name for name in header if name != "__metadata__"]
    if not names:
        return "nothing"
    name = str(rng.choice(names))
    other, entry, what = header[str(rng.choice(names))], header[name], int(rng.integers(8))
    if what == 0:
        entry["dtype"] = str(rng.choice(["F64", "I64", "U8", "BOOL", "F8_E4M3", "object", "O", "|O8", "BF16", "I32", "F32", "F16"]))
    elif what == 1:
        entry["shape"] = SHAPES[int(rng.integers(len(SHAPES)))]
    elif what == 2:
        entry["data_offsets"] = [[0, 2**62], [-8, 0], [8, 0], [0], None, [0.0, 8.0], ["0", "8"], [2**64, 2**64]][int(rng.integers(8))]
    elif what == 3:
        entry.update(other)
    elif what == 4:
        header[KEYS[int(rng.integers(len(KEYS)))]] = header.pop(name)
    elif what == 5:
        del header[name]
    elif what == 6:
        entry["shape"] = entry["shape"][::-1] if len(entry["shape"]) > 1 else [1, *entry["shape"]]
    else:
        entry.pop(str(rng.choice(list(entry))))
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    return f"{path.name}: {name}, header, way {what}"


def arrays_changed(path: Path, rng: Rng) -> str:
    """A sound safetensors file of other numbers: not finite, out of range, in another order, of another shape or type."""
    arrays = {name: np.array(array) for name, array in load(path.read_bytes()).items()}
    if not arrays:
        return "nothing"
    name = str(rng.choice(list(arrays)))
    array, how = arrays[name], int(rng.integers(9))
    if how < 4 and array.size:
        whole = [0, 1, 2, 255, 2**16, 2**31, 2**62, -1, -(2**63), 2**63 - 1]
        values = [np.nan, np.inf, -np.inf, 0.0, -1.0, 1e30, 3e38] if array.dtype.kind == "f" else whole
        value = values[int(rng.integers(len(values)))]
        limits = None if array.dtype.kind in "fb" else np.iinfo(array.dtype)
        value = value if limits is None else min(max(value, limits.min), limits.max)
        flat = array.reshape(-1)
        flat[rng.integers(0, array.size, 1 if how < 3 else array.size)] = value
    elif how == 4 and array.size:
        array = array.reshape(-1)[rng.permutation(array.size)].reshape(array.shape)
    elif how == 5:
        array = array[: len(array) // 2] if array.ndim else np.array([array, array])
    elif how == 6:
        array = np.concatenate([array, array]) if array.ndim else array.reshape(1)
    elif how == 7:
        with np.errstate(all="ignore"):
            array = array.astype(str(rng.choice(["f8", "f4", "i8", "u1", "i2", "f2", "u8", "?"])))
    else:
        array = array[:0] if array.ndim else array
    path.write_bytes(save({**arrays, name: np.ascontiguousarray(array)}))
    return f"{path.name}: {name}, numbers, way {how}"


def table_changed(path: Path, rng: Rng) -> str:
    """A sound Parquet file of something else."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table, how = pq.read_table(path), int(rng.integers(10))
    column = str(rng.choice(table.column_names))
    at = table.column_names.index(column)
    rows = len(table)
    changes: list[Callable[[], Any]] = [
        lambda: table.take(rng.permutation(rows)),
        lambda: table.slice(0, rows // 2),
        lambda: pa.concat_tables([table, table]),
        lambda: table.drop_columns([column]),
        lambda: table.append_column("more", pa.array(np.zeros(rows))),
        lambda: table.set_column(at, column, pa.array([None] * rows, table[column].type)),
        lambda: table.set_column(at, column, pa.array([*table[column].to_pylist()[:-1], None], table[column].type)),
        lambda: table.set_column(at, column, pa.array([[np.nan] * 3] * rows, pa.list_(pa.float32(), 3))),
        lambda: table.set_column(at, column, pa.array([["a", "b"]] * rows)),
        lambda: table.select(table.column_names[::-1]),
    ]
    pq.write_table(changes[how](), path)
    return f"{path.name}: {column}, table, way {how}"


def by_kind(path: Path, rng: Rng) -> str:
    """What a careful attacker would do to a file of this kind."""
    if path.suffix == ".json":
        return json_changed(path, rng) if rng.random() < 0.9 else bytes_changed(path, rng)
    if path.suffix == ".safetensors":
        return (header_changed, arrays_changed, arrays_changed, bytes_changed)[int(rng.integers(4))](path, rng)
    if path.suffix == ".parquet":
        return (table_changed, bytes_changed)[int(rng.integers(2))](path, rng)
    return bytes_changed(path, rng)


class Watch:
    """What Python opens, runs or asks for while a body runs; installed once, as an audit hook cannot be taken away."""

    def __init__(self) -> None:
        self.root: str | None = None
        self.seen: list[str] = []
        # Python's own libraries, and what the system tells of itself
        places = [sys.prefix, sys.base_prefix, os.path.dirname(os.__file__), *sys.path, "/proc", "/sys", "/etc/ld.so.cache"]
        self._known = tuple(os.path.realpath(place) for place in places if place) + tuple(places[:3])
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.root is None:
            return
        if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            if not path.startswith((self.root, *self._known)):
                self.seen.append(f"opened {path}")
        elif event in ("pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "socket.connect"):
            self.seen.append(f"{event} {str(arguments)[:80]}")

    @contextlib.contextmanager
    def within(self, root: Path) -> Iterator[None]:
        """Note whatever is done outside `root`."""
        self.seen, self.root = [], os.path.realpath(root)
        try:
            yield
        finally:
            self.root = None


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises Hung if the body takes longer."""

    def hung(*_: object) -> None:
        raise Hung

    before = signal.signal(signal.SIGALRM, hung)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

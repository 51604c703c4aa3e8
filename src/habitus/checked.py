"""What comes from files that anybody may have written, looked at before it is believed: paths, JSON, safetensors, arrays.

Knows neither what an artefact consists of nor what its values mean. Everything that does not hold is an ArtefactError that names the
place. Nothing here runs what it reads, follows a link below the folder it was given, or takes room for what is only claimed to be there.
"""

import json
import math
import mmap
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path, PurePosixPath, PureWindowsPath
from tokenize import TokenError
from typing import Annotated, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from habitus.errors import ArtefactError

Array = NDArray[Any]


@dataclass(frozen=True)
class Between:
    """A rule of a type hint: `least` or above, and below `end`."""

    least: int
    end: int

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core.core_schema import no_info_after_validator_function

        return no_info_after_validator_function(self._checked, handler(source))

    def _checked(self, value: int) -> int:
        if not self.least <= value < self.end:
            raise ValueError(f"a whole number from {self.least:,} to {self.end - 1:,} is needed")
        return value


Count = Annotated[int, Between(0, 2**31)]
"""How many of something there are, where there is an array entry or an object for each."""
Many = Annotated[int, Between(0, 2**53)]
"""How many of something there are, where only the number is kept."""
Time = Annotated[int, Between(1 - 2**62, 2**62)]
"""Microseconds UTC, so that no difference of two leaves 64 bits."""
Facts = Mapping[str, Any]
"""What is only shown to people."""

_DTYPES = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8",
    "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8",
}  # fmt: skip
_MOST_JSON = 64 << 20  # bytes; of a header of safetensors, too
_DEEPEST = 100
_WHOLE = 2**64  # random seeds have 64 bits without a sign
_ROOM, _TIMES = 1 << 30, 1000  # what may be unpacked: this many bytes, or so many times what is in the file


def inside(folder: Path, name: object) -> Path:
    """The path of the entry `name` (with / between parts) below `folder`. Raises ArtefactError if it leads outside: by its name, or
    because it, or a folder on the way to it, is a link."""
    posix = PurePosixPath(name) if isinstance(name, str) else PurePosixPath()
    plain = str(posix) == name and name != "." and "\0" not in str(name) and "\\" not in str(name)
    if not plain or posix.is_absolute() or ".." in posix.parts or PureWindowsPath(posix).drive:
        raise ArtefactError(f"{folder}: {str(name)[:80]!r} is named in it, which leads outside the folder.")
    place = folder
    for part in posix.parts:
        place = place / part
        if (mode := _mode(place)) is not None and stat.S_ISLNK(mode):
            raise ArtefactError(f"{place}: a link, which leads outside the folder; put what it stands for in its place.")
    return place


def regular(path: Path) -> bool:
    """Whether a file with content is at `path`: no link, folder, pipe or device."""
    return (mode := _mode(path)) is not None and stat.S_ISREG(mode)


def json_of(path: Path) -> Any:
    """The value kept in a JSON file. Raises ArtefactError if there is no such file, or it is no sound JSON: of more than 64 MiB, or
    nested deeply, with a key twice, a number that is not finite or a whole one beyond 64 bits, or text that is no Unicode."""
    if not regular(path):
        raise ArtefactError(f"{path}: there is no such file, or it is a link or no plain file; make the whole again, or copy it again.")
    try:
        with path.open("rb") as file:
            return parsed(file.read(_MOST_JSON + 1))
    except OSError as error:
        raise ArtefactError(f"{path}: cannot be read ({error.strerror}); make the whole again, or copy it again.") from None
    except (ValueError, RecursionError) as error:
        raise ArtefactError(f"{path}: not JSON as Habitus writes it ({error}); the file is damaged.") from None


def parsed(content: bytes) -> Any:
    """The value of a JSON text. Raises ValueError, or RecursionError, for what `json_of` refuses."""
    if len(content) > _MOST_JSON:
        raise ValueError(f"more than {_MOST_JSON >> 20} MiB")
    text = content.decode()
    value = json.loads(text, parse_constant=_refused, parse_float=_finite, parse_int=_whole, object_pairs_hook=_each_once)
    _require_sound(value, "\\u" in text)
    return value


def shaped(value: Any, shape: Any, where: object) -> Any:
    """A JSON value as the `shape` that is expected of it: a dataclass or any type hint, whole numbers being no texts and no truth values.

    Raises ArtefactError with the place inside the value where it differs.
    """
    from pydantic import ValidationError

    try:
        return _adapter(shape).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "all of it"
        raise ArtefactError(f"{where}: {place[:200]}: {first['msg']}, received {str(first['input'])[:80]!r}; it is damaged.") from None
    except (ValueError, TypeError) as error:
        raise ArtefactError(f"{where}: not what was expected ({error}); it is damaged.") from None


def require(holds: object, where: object, rule: str) -> None:
    """Raises ArtefactError, naming the place and the rule, unless the rule holds."""
    if not holds:
        raise ArtefactError(f"{where}: {rule}, and that does not hold; it is damaged, or parts of different ones were put together.")


def array(
    arrays: Mapping[str, Array], name: str, where: object, kinds: str, shape: tuple[int | None, ...], *, least: float | None = None,
    most: float | None = None,
) -> Array:  # fmt: skip
    """The array `name` of NumPy's `kinds` and of this shape (None: any size), without NaN or infinity, all from `least` to `most`.

    Raises ArtefactError otherwise.
    """
    require(name in arrays, where, f"an array {name!r} is needed")
    found = arrays[name]
    fits = found.ndim == len(shape) and all(size in (None, there) for size, there in zip(shape, found.shape, strict=True))
    wanted = " × ".join("any" if size is None else str(size) for size in shape) or "a single number"
    require(fits, where, f"{name!r} must be {wanted} (it is {' × '.join(map(str, found.shape)) or 'a single number'})")
    require(found.dtype.kind in kinds, where, f"{name!r} must be of kind {' or '.join(kinds)} (it is {found.dtype})")
    if found.size and found.dtype.kind == "f":
        require(np.isfinite(found).all(), where, f"{name!r} must be finite")
    if found.size and least is not None:
        require(found.min() >= least, where, f"{name!r} must be at least {least}")
    if found.size and most is not None:
        require(found.max() <= most, where, f"{name!r} must be at most {most}")
    return found


def ids(users: Array, where: object) -> Array:
    """`users` (n), if they are ids as Habitus keeps them: int64 or str, ascending, each once. Raises ArtefactError otherwise."""
    require(users.ndim == 1 and (users.dtype.kind == "U" or users.dtype == np.int64), where, "user ids are a list of int64 or of texts")
    require(len(users) < 2 or (users[:-1] < users[1:]).all(), where, "user ids ascend without repeats")
    return users


def require_moderate(value: Any, where: object) -> None:
    """Raises ArtefactError if a whole number in a JSON value is so large that sums of a few of them would leave 64 bits."""
    open_ = [value]
    while open_:
        one = open_.pop()
        open_ += one.values() if isinstance(one, dict) else one if isinstance(one, list) else []
        require(not isinstance(one, int) or abs(one) < 2**53, where, "whole numbers are of 53 bits")


def require_room(unpacked: int, packed: int, where: object) -> None:
    """Raises ArtefactError if a file of `packed` bytes claims to hold so many that only a trap would: above 1 GiB, a thousand times it."""
    if unpacked > max(_ROOM, _TIMES * packed):
        raise ArtefactError(f"{where}: {packed:,} bytes that claim to hold {unpacked:,}; that is no file that Habitus wrote.")


def texts(values: Iterable[str], packed: int, where: object) -> Array:
    """Texts as an array, if their number times the longest is no more than `packed` bytes in a file can mean."""
    found = list(values)
    require_room(4 * len(found) * max(map(len, found), default=0), packed, where)
    return np.array(found, str)


def map_safetensors(path: Path) -> dict[str, Array]:
    """The arrays of a safetensors file as views of its memory map, read-only; arrays of strings are restored.

    Raises ArtefactError if header and size disagree, or arrays overlap. A file that another program cuts short *after* this ends the
    process with SIGBUS where it is read, as any memory-mapped file does.
    """
    try:
        with path.open("rb") as file:
            data = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
        length = int.from_bytes(data[:8].tobytes(), "little")
        if length > min(_MOST_JSON, len(data) - 8):
            raise ValueError("its header is longer than the file")
        header = parsed(data[8 : 8 + length].tobytes())
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        views = {name: _view(data[8 + length :], entry) for name, entry in entries.items()}
        _require_apart([entry["data_offsets"] for entry in entries.values()])
        return _strings_restored(views, path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArtefactError(f"{path}: not a sound safetensors file ({error}); the artefact is damaged.") from None


def npy(path: Path) -> Array:
    """The array of a .npy file, in memory. Raises ValueError or OSError if it is none: objects, which would have to be unpickled, or a
    header that claims another size than the file has."""
    from numpy.lib import format as layout

    if not path.is_file():  # a pipe would be waited for
        raise ValueError("there is no such file")
    try:
        with path.open("rb") as file:
            if file.read(6) != layout.MAGIC_PREFIX:
                raise ValueError("it is no .npy file")
            file.seek(0)
            version = layout.read_magic(file)
            if version not in ((1, 0), (2, 0)):
                raise ValueError(f"its version {version} is none that holds plain arrays")
            shape, _, dtype = _header(file, layout.read_array_header_1_0 if version == (1, 0) else layout.read_array_header_2_0)
            claimed, there = math.prod(shape) * dtype.itemsize, path.stat().st_size - file.tell()
            if dtype.hasobject:
                raise ValueError("it holds objects, which would have to be run to be read")
            if min(shape, default=0) < 0 or claimed != there:
                raise ValueError(f"{dtype} of shape {shape} is not what its {there:,} bytes can hold")
            file.seek(0)
            return np.asarray(np.load(file, allow_pickle=False))
    except (TypeError, EOFError, SyntaxError, TokenError, RecursionError, OverflowError) as error:
        raise ValueError(f"no sound .npy file ({error})") from None


def _header(file: BinaryIO, read: Callable[[BinaryIO], Any]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        found: tuple[tuple[int, ...], bool, np.dtype[Any]] = read(file)
    except ValueError as error:
        raise ValueError(f"its header cannot be read ({error})") from None
    return found


def _mode(path: Path) -> int | None:
    try:
        return path.lstat().st_mode
    except (OSError, ValueError):  # none there, a name that is too long or holds a null byte
        return None


@cache
def _adapter(shape: Any) -> Any:
    from pydantic import TypeAdapter  # here, since who only trains needs it for nothing

    return TypeAdapter(shape)


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is no number")


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text[:40]} is beyond the range of numbers")
    return value


def _whole(text: str) -> int:
    if len(text) > 21 or not -_WHOLE < (value := int(text)) < _WHOLE:
        raise ValueError(f"{text[:40]} is beyond 64 bits")
    return value


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has a key twice")
    return found


def _require_sound(value: Any, escapes: bool) -> None:
    """Raises ValueError for a value nested too deeply, or with half a character, which can neither be printed nor written."""
    open_: list[tuple[Any, int]] = [(value, 0)]
    while open_:
        one, depth = open_.pop()
        if depth > _DEEPEST:
            raise ValueError(f"nested more than {_DEEPEST} deep")
        if isinstance(one, dict):
            open_ += [(inner, depth + 1) for inner in one.values()]
            one = "".join(one)
        elif isinstance(one, list):
            open_ += [(inner, depth + 1) for inner in one]
        if escapes and isinstance(one, str):
            one.encode()


def _view(body: Array, entry: Any) -> Array:
    begin, end = entry["data_offsets"]
    dtype = np.dtype(_DTYPES[entry["dtype"]])
    shape = entry["shape"]
    if not all(isinstance(one, int) and not isinstance(one, bool) for one in (begin, end, *shape)) or min(shape, default=0) < 0:
        raise ValueError("an array's shape or extent is no list of whole numbers")
    if not 0 <= begin <= end <= len(body) or math.prod(shape) * dtype.itemsize != end - begin:
        raise ValueError("an array's shape and extent disagree")
    return body[begin:end].view(dtype).reshape(shape)


def _require_apart(extents: list[list[int]]) -> None:
    filled = sorted(extent for extent in extents if extent[0] < extent[1])
    if any(before[1] > after[0] for before, after in pairwise(filled)):
        raise ValueError("two arrays share bytes")


def _strings_restored(arrays: dict[str, Array], path: Path) -> dict[str, Array]:
    for name in [name.removesuffix("/utf8") for name in arrays if name.endswith("/utf8")]:
        data, ends = arrays.pop(f"{name}/utf8"), arrays.pop(f"{name}/ends")
        bounds = np.concatenate([[0], ends])
        if data.dtype != np.uint8 or data.ndim != 1 or ends.dtype != np.int64 or (np.diff(bounds) < 0).any() or bounds[-1] != len(data):
            raise ValueError("the ends of texts are not within their bytes")
        content = data.tobytes()
        arrays[name] = texts((content[a:b].decode() for a, b in pairwise(bounds.tolist())), len(content), path)
    return arrays

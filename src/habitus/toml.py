"""Files that people write, in TOML: read, and what is wrong in them said in words. Knows neither logs nor recipes."""

import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import date, time
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from habitus.errors import InputError, shown

if TYPE_CHECKING:
    from pydantic import ValidationError

_LISTED = 24  # names in a message; what is cut off is said
_NEEDED = {  # what pydantic found wrong → what is needed
    "string_type": "a text in quotes",
    "string_too_short": "a text that is not empty",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "float_parsing": "a number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": 'a list in brackets, as ["a", "b"],',
    "dict_type": "a table",
    "dataclass_type": "a table",
    "model_type": "a table",
    "too_short": "at least one",
    "path_type": "a path in quotes",
    "none_required": "nothing",
}


def read(file: Path, cure: str = "name a TOML file that is there") -> dict[str, Any]:
    """What a TOML file in UTF-8 says (a byte order mark is passed over). Raises InputError, with the line, if it is none, or with the
    cure, if it cannot be opened."""
    try:
        return parsed(file.read_bytes().decode("utf-8-sig"), str(file))
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InputError(f"{file}: line {line} is not UTF-8 (byte {error.object[error.start]:#04x}); save it as TOML in UTF-8.") from None
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); {cure}.") from None
    except ValueError:  # a zero byte in the name
        raise InputError(f"{shown(str(file))}: no file has such a name; correct it.") from None


def parsed(text: str, source: str) -> dict[str, Any]:
    """What a TOML text says. Raises InputError, with the line, if it is none."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{source}: not a TOML file: {shortened(str(error), 200)}; mend it there.") from None
    except RecursionError:
        raise InputError(f"{source}: not a TOML file: brackets are nested too deeply to be read; mend it.") from None


def unquoted_dates(table: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The settings whose value is a date or a time of TOML's own; Habitus takes times as texts."""
    return ((key, value) for key, value in table.items() if isinstance(value, date | time))


def explain(error: "ValidationError", known: Mapping[str, Any] | None = None) -> str:
    """The first thing that pydantic found wrong (a setting that there is not before all), and how many more there are, in words that
    name the key, the rule and what was received."""
    found = error.errors()
    first = next((one for one in found if one["type"] == "extra_forbidden"), found[0])
    # Of a setting that may be one of several types, pydantic lists every type with the type's name behind the setting's.
    alike = [one for one in found if one["input"] is first["input"] and one["loc"][:-1] == first["loc"][:-1] and one is not first]
    either = alike and first["type"] not in ("missing", "extra_forbidden") and all(one["loc"] != first["loc"] for one in alike)
    where = ".".join(str(part) for part in (first["loc"][:-1] if either else first["loc"]))
    wanted = list(dict.fromkeys(need for one in ([first, *alike] if either else [first]) if (need := _needed(one)) is not None))
    rule = f"{', or '.join(wanted)} is needed" if wanted else _rule(first)
    received = "" if first["type"] in ("extra_forbidden", "missing", "value_error") else f", and {shown(first['input'])} was given"
    more = len(found) - 1 - (len(alike) if either else 0)
    others = f" ({more:,} more after this one.)" if more else ""
    return f"{shortened(where) + ': ' if where else ''}{rule}{received}.{others}"


def _needed(one: Any) -> str | None:
    """What is needed instead, as a noun."""
    if one["type"] == "literal_error":
        return f"one of {one['ctx']['expected'].replace(' or ', ', ')}"
    if one["type"] in ("greater_than_equal", "less_than_equal"):
        least = one["type"] == "greater_than_equal"
        return f"at {'least' if least else 'most'} {one['ctx']['ge' if least else 'le']:,}"
    return _NEEDED.get(one["type"])


def _rule(one: Any) -> str:
    """The rule that was broken, where no noun says it."""
    if one["type"] == "missing":
        return "is missing; give it"
    if one["type"] == "extra_forbidden":
        return "there is no such setting; take it out, or correct its name"
    return str(one["msg"]).removeprefix("Value error, ")


def listed(known: Iterable[Any]) -> str:
    """Names for a message, the first of them where there are many."""
    names = [shortened(str(name)) for name in known]
    more = f" … ({len(names) - _LISTED:,} more)" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def there_are(name: str, known: Collection[Any]) -> str:
    """What there is in place of a name that there is not; the nearest one first, where one is near."""
    near = get_close_matches(name[:100], [str(one) for one in known if len(str(one)) < 100][:1000], 1)
    return f"there are {listed(known)}" + (f"; perhaps {near[0]!r} is meant" if near else "")


def shortened(text: str, most: int = 80) -> str:
    """A text of people's own, cut where it would drown the message."""
    return text if len(text) <= most else text[: most - 1] + "…"

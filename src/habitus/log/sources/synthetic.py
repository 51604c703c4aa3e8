"""A log of any size in the layout of the RecSys Challenge 2025, made from latent traits that are written beside it.

Users have tastes, a price level, a personal cycle of orders, a day they join and one they leave; pages, searches, names and prices
of products speak of the same tastes. So the labels of the challenge's tasks can be predicted from the history well, never fully,
and how well is known: `truth/` holds the traits. Proportions are the challenge's, held by tests: users per table, events per user
(mean and median), purchases per buyer. Repeats: 94.2, 89.5 and 86.3 % of *orders* (what a buyer buys at one time) are followed by no
other order of the same buyer within 14, 30 and 45 days, counted over orders with so many days of the log after them.

What it does not know: real products, seasons, campaigns, or users' influence on one another.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from habitus.artefact import ArtefactWriter, writing
from habitus.errors import InputError
from habitus.log.sources.synthetic_people import DAY, DAYS, END, EVENTS, GRID, Events, People, clock, events, people
from habitus.log.sources.synthetic_world import World
from habitus.progress import SILENT, Progress

Array = NDArray[Any]

KIND = "synthetic log"
_FIRST_DAY = np.datetime64("2022-06-23")
_MOST_USERS = 100_000_000  # beyond that the shop alone would fill the memory of a usual machine
_CHUNK = 20_000  # users made at once; part of what a seed means
_OTHERS = 10  # relevant users for each who only visits pages
_FIELDS = dict(zip(EVENTS, ("sku", "sku", "sku", "url", "query"), strict=True))
_SPACING = 7  # ids are drawn from seven times as many numbers


def write(folder: str | Path, *, users: int, seed: int = 0, overwrite: bool = False, progress: Progress = SILENT) -> Path:
    """Write a log of `users` relevant users, each with at least one event, into `folder`; returns the folder.

    Beside them come a tenth as many others, who only visit pages and are not in `input/relevant_clients.npy`. The numbers of skus,
    pages and categories grow with `users`. Same users and seed (and library versions): same bytes. Half a log is never taken for
    one, and an earlier one stays until the new one is there. Held in memory: 20,000 users, and the shop.

    Raises InputError if `users` or `seed` is no such number, OutputExistsError if the folder is there, unless it is an earlier
    synthetic log and `overwrite` is true.
    """
    for name, value, least, most in (("users", users, 1, _MOST_USERS), ("seed", seed, 0, 2**63)):
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise InputError(f"{name}: a whole number from {least} to {most:,} is needed, received {value!r}.")
    target = Path(folder).resolve()
    with writing(target, KIND, overwrite=overwrite) as writer:
        rows = _write(writer, users, seed, progress)
        writer.facts |= {"users": users, "others": users // _OTHERS, "seed": seed, "rows": rows}
    progress.say(f"{target}: {users:,} relevant users and {users // _OTHERS:,} others, {sum(rows.values()):,} events")
    return target


def _write(writer: ArtefactWriter, users: int, seed: int, progress: Progress) -> dict[str, int]:
    """All files, chunk by chunk; the rows of each event table."""
    world = World.of(users, _random(seed, 0))
    _shop(writer, world)
    total = users + users // _OTHERS
    ids, relevant = _ids(total, _random(seed, 1)), np.arange(total) % (_OTHERS + 1) != _OTHERS
    writer.path("input/relevant_clients.npy")
    np.save(writer.folder / "input" / "relevant_clients.npy", np.sort(ids[relevant]))
    rows = dict.fromkeys(EVENTS, 0)
    with ExitStack() as stack, progress.stage("making up users", total, "users") as advance:
        files = _Files(writer, stack)
        for chunk, first in enumerate(range(0, total, _CHUNK)):
            rng = _random(seed, 2 + chunk)
            part = slice(first, min(first + _CHUNK, total))
            folk = people(relevant[part], world, rng)
            files.add("truth/users", _traits(ids[part], folk))
            for event, done in events(folk, world, rng).items():
                rows[event] += len(done.user)
                files.add(event, _rows(event, done, ids[part], world))
            advance(part.stop - part.start)
    return rows


def _random(seed: int, stream: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(stream,)))


def _ids(n: int, rng: np.random.Generator) -> Array:
    """n different ids in no order, int64: multiples of a number modulo a larger one that it has no divisor in common with."""
    span = _SPACING * n + 11
    step = next(one for one in range(int(span * 0.618), 2 * span) if np.gcd(one, span) == 1)
    return (np.arange(n, dtype=np.int64) * step + int(rng.integers(span))) % span + 1


class _Files:
    """Parquet files of one artefact, each opened with its first rows; chunks are row groups."""

    def __init__(self, writer: ArtefactWriter, stack: ExitStack) -> None:
        self._writer, self._stack = writer, stack
        self._open: dict[str, Any] = {}

    def add(self, name: str, columns: Mapping[str, Any]) -> None:
        """Append rows to the file `name`.parquet."""
        table = pa.table(dict(columns))
        if name not in self._open:
            path = self._writer.path(f"{name}.parquet")
            file = pq.ParquetWriter(path, table.schema, compression="zstd", use_dictionary=["client_id", "sku", "url", "category"])
            self._open[name] = self._stack.enter_context(file)
        self._open[name].write_table(table)


def _rows(event: str, done: Events, ids: Array, world: World) -> dict[str, Any]:
    """The columns of an event table, as the challenge names them."""
    field = _FIELDS[event]
    called = {"sku": world.sku_id, "url": world.url_id}
    value = _code_strings(done.value) if field == "query" else called[field][done.value]
    return {"client_id": ids[done.user], "timestamp": _time_strings(done.time), field: value}


def _shop(writer: ArtefactWriter, world: World) -> None:
    """The products, and what is true of them, of pages and of categories."""
    order = np.argsort(world.sku_id)
    taste = world.taste_of[world.category_of]
    with ExitStack() as stack:
        files = _Files(writer, stack)
        for first in range(0, len(order), 100_000):
            of = order[first : first + 100_000]
            products = {"sku": world.sku_id[of], "category": world.category_of[of], "price": world.price[of]}
            files.add("product_properties", products | {"name": _code_strings(world.name[of])})
            weight = world.sku_weight[of]
            files.add("truth/items", products | {"taste": taste[of], "price_standing": world.standing[of], "weight_in_category": weight})
        order = np.argsort(world.url_id)
        category, weight = world.url_category[order], world.url_weight[order]
        files.add("truth/urls", {"url": world.url_id[order], "category": category, "weight_in_category": weight})
        categories = {"category": np.arange(len(world.taste_of)), "taste": world.taste_of, "weight_in_taste": world.category_weight}
        files.add("truth/categories", categories)


def _traits(ids: Array, folk: People) -> dict[str, Any]:
    """What is true of each user. `left` is null for who stays beyond the log's end, `first_order` for who never orders."""
    tastes = pa.FixedSizeListArray.from_arrays(pa.array(folk.tastes.astype(np.float32).ravel()), folk.tastes.shape[1])
    favourites = pa.FixedSizeListArray.from_arrays(pa.array(folk.favourites.ravel()), folk.favourites.shape[1])
    orders = np.isfinite(folk.first)
    joined = np.where(folk.joined < 0, folk.joined, clock(folk.arrived))
    return {
        "client_id": ids, "relevant": folk.relevant, "tastes": tastes, "favourite_categories": favourites,
        "price_level": folk.price_level, "activity": folk.activity, "cycle_days": folk.cycle, "joined": _moments(joined),
        "left": _moments(clock(folk.left), folk.left < END), "first_order": _moments(clock(np.where(orders, folk.first, 0)), orders),
    }  # fmt: skip


def _moments(seconds: Array, there: Array | None = None) -> Any:
    times = _FIRST_DAY.astype("datetime64[us]") + (seconds.astype(np.int64) * 1_000_000).astype("timedelta64[us]")
    return pa.array(times, mask=None if there is None else ~there)


def _time_strings(seconds: Array) -> Any:
    """Times as the challenge writes them, "2022-08-06 15:17:25", put together from a table of days and one of 5-second steps."""
    return _fixed_strings(np.concatenate([_DAY_TEXT[seconds // DAY], _CLOCK_TEXT[seconds % DAY // GRID]], axis=1))


def _letters(words: Iterator[str]) -> Array:
    return np.array([list(word.encode()) for word in words], np.uint8)


_DAY_TEXT = _letters(f"{_FIRST_DAY + day} " for day in range(DAYS))
_CLOCK_TEXT = _letters(f"{step // 720:02}:{step // 12 % 60:02}:{step % 12 * GRID:02}" for step in range(DAY // GRID))
_CODE_TEXT = _letters(f"{code} ".ljust(4, "\0") for code in range(256))
_CODE_LENGTH = np.count_nonzero(_CODE_TEXT, axis=1)


def _fixed_strings(letters: Array) -> Any:
    """An Arrow string for every row of (n, length) uint8."""
    n, length = letters.shape
    return pa.StringArray.from_buffers(n, pa.py_buffer(np.arange(n + 1, dtype=np.int32) * np.int32(length)), pa.py_buffer(letters))


def _code_strings(codes: Array) -> Any:
    """Each row of codes as the challenge writes it: "[ 12 3 255 ]"."""
    n = len(codes)
    letters = np.zeros((n, codes.shape[1] * 4 + 3), np.uint8)
    letters[:, :2], letters[:, -1] = np.frombuffer(b"[ ", np.uint8), ord("]")
    letters[:, 2:-1] = _CODE_TEXT[codes].reshape(n, 4 * codes.shape[1])
    ends = np.append(0, np.cumsum(_CODE_LENGTH[codes].sum(axis=1) + 3)).astype(np.int32)
    return pa.StringArray.from_buffers(n, pa.py_buffer(ends), pa.py_buffer(letters[letters != 0]))

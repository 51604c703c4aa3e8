"""Broken inputs, one a row: each ends in one paragraph that says where, what was received and what to do, and leaves all as it was."""

from itertools import chain
from pathlib import Path

import pytest

from broken import calls, descriptions, handed, recipes, tables, tasks, users
from broken.world import LOG, Case, World, make_good, state_of
from shop_helper import habitus

GROUPS = {
    "description": descriptions.CASES, "table": tables.CASES, "users": users.CASES, "recipe": recipes.CASES, "task": tasks.CASES,
    "call": calls.CASES, "handed": handed.CASES,
}  # fmt: skip
ROWS = [pytest.param(one, id=f"{group}: {one.name}") for group, rows in GROUPS.items() for one in rows]
LONGEST = 900  # characters of a message


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world in which all is well; no case changes it."""
    return make_good(tmp_path_factory.mktemp("good"))


@pytest.mark.parametrize("broken", ROWS)
def test_broken_input_is_refused(broken: Case, good: Path, tmp_path: Path) -> None:
    """It would be taken as it is, end in a traceback, or leave people without the place, the value or the cure."""
    world = World(good, tmp_path)
    words = broken.do(world)
    before = state_of(tmp_path)
    done = habitus(*words, status=broken.status)
    message = done.stderr
    assert done.error is broken.error
    assert message.startswith("habitus") and message.endswith("\n") and message.count("\n") == 1 and "Traceback" not in message
    assert len(message) <= LONGEST + len(str(tmp_path)) + len(str(good))
    for fragment in broken.says:
        assert fragment in message
    after = state_of(tmp_path)
    if broken.begun:  # nothing but the marks of a run that is not finished
        assert {Path(name).name for name, content in after.items() - before.items() if content is not None} == {".incomplete"}
    else:
        assert after == before


def test_broken_inputs_differ() -> None:
    """A row twice would be counted twice, and a row without fragments would pass with any message."""
    every = list(chain.from_iterable(GROUPS.values()))
    assert len(every) >= 200
    assert all(len({one.name for one in rows}) == len(rows) for rows in GROUPS.values())
    assert all(len(one.says) >= 2 for one in every)


def test_broken_inputs_leave_the_good_world_as_it_is(good: Path, tmp_path: Path) -> None:
    """A case that spoils what all share would make the next one fail, or pass, for its reason."""
    assert "Nothing is wrong" in (said := habitus("check", good / "log").stdout) or "A run would go through" in said
    habitus("encode", good / "model", good / "log", "--out", tmp_path / "again", "-q")
    assert (tmp_path / "again" / "profiles.parquet").read_bytes() == (good / "profiles" / "profiles.parquet").read_bytes()


def test_byte_order_mark_is_passed_over(good: Path, tmp_path: Path) -> None:
    """Editors write one into every file they save; nobody can see why it would not be TOML."""
    world = World(good, tmp_path)
    (world.log / "log.toml").write_bytes(b"\xef\xbb\xbf" + LOG.encode())
    recipe = world.file("own.toml", b"\xef\xbb\xbf" + (good / "stats.toml").read_bytes())
    habitus(*world.fit(recipe=recipe))

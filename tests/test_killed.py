"""Commands killed at any moment (SIGKILL), and what they leave; `make torture` (HABITUS_TORTURE=1) kills many more."""

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from habitus import artefact, folders
from habitus.artefact import RUN_FACTS
from habitus.model import Model
from habitus.profiles import Profiles
from killed_helper import SIGKILLED, Child, child, log_on_disk, results, stages

OFTEN = {"habitus.nn.training.CHECKPOINT_SECONDS": 0.0}  # a checkpoint after every batch, so that kills come within epochs
TORTURE = os.environ.get("HABITUS_TORTURE") == "1"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are copied, and their files locked, as Linux does it")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the log lies, and beside it what the commands leave."""
    place = tmp_path_factory.mktemp("killed")
    log_on_disk(place / "log")
    return place


@pytest.fixture(scope="module")
def commands(base: Path) -> Iterator[Child]:
    """One process for all commands of these tests."""
    with child(base / "out") as one:
        yield one
        print(f"{one.tried} commands were killed")


@pytest.fixture(scope="module")
def undisturbed(base: Path, commands: Child) -> tuple[dict[str, str], dict[str, list[int]], int]:
    """What a run leaves that nobody has killed, the changes of each of its stages, and how many there are."""
    commands.done(*run(base, "undisturbed"))
    done = commands.done(*run(base, "often"), constants=OFTEN)  # which is what the others do until they are killed
    assert results(base / "out" / "often") == results(base / "out" / "undisturbed")
    folders.remove(base / "out" / "often")
    found = stages(done)
    assert all(found.values()), found
    return results(base / "out" / "undisturbed"), found, len(done)


def run(base: Path, name: str, *more: str) -> tuple[object, ...]:
    """The words of a run into out/NAME."""
    return ("run", base / "log" / "recipe.toml", base / "log", "--out", base / "out" / name, "--no-report", *more)


def hidden(folder: Path) -> list[str]:
    """Debris: whatever is called `.…` in a folder, or beside it on its account."""
    beside = folder.parent.glob(f".{folder.name}.*")
    return [str(path) for path in (*folder.rglob(".*"), *beside)]


def points(found: dict[str, list[int]], seed: int, each: int = 1) -> list[tuple[str, int]]:
    """Moments to kill at, `each` from every stage."""
    draw = random.Random(seed)
    return [(stage, at) for stage, changes in found.items() for at in draw.sample(changes, min(each, len(changes)))]


def finish(commands: Child, base: Path, name: str, kills: list[int], *more: str) -> None:
    """Resume a killed run, killing it again at these moments, until it is done."""
    for at in [*kills, None]:
        status = commands.habitus(*run(base, name, "--resume", *more), until=at, constants=OFTEN)
        if status == 0:
            return
        assert status == SIGKILLED and at is not None, commands.said


def test_run_killed_at_any_stage_and_resumed_equals_an_undisturbed_one(
    base: Path, commands: Child, undisturbed: tuple[dict[str, str], dict[str, list[int]], int]
) -> None:
    """A night's work would be lost by a power cut, or go on from something half-written and end with other vectors."""
    whole, found, last = undisturbed
    draw = random.Random(6)
    tried = points(found, seed=6, each=4) if TORTURE else [one for one in points(found, seed=6) if one[0] in _IN_THE_SUITE]
    assert len(tried) >= (30 if TORTURE else len(_IN_THE_SUITE))
    for number, (stage, at) in enumerate(tried):
        name = f"killed-{number}"
        assert commands.habitus(*run(base, name), until=at, constants=OFTEN) == SIGKILLED, (stage, at)
        folder = base / "out" / name
        if (folder / artefact.MODEL / artefact.MANIFEST).exists():
            Model.open(folder / artefact.MODEL)
        again = [draw.randint(1, last) for _ in range(number % 3)] if TORTURE else [60] if number == 0 else []
        finish(commands, base, name, again)
        assert results(folder) == whole, (stage, at, again)
        assert not hidden(folder), (stage, at, again)
        folders.remove(folder)


_IN_THE_SUITE = ("timelines", "training gru", "training next", "encoders", "facts")


@pytest.mark.skipif(not TORTURE, reason="make torture")
def test_run_killed_after_some_time_and_resumed_equals_an_undisturbed_one(
    base: Path, commands: Child, undisturbed: tuple[dict[str, str], dict[str, list[int]], int]
) -> None:
    """What lies between two changes of the file system (a step of the optimizer, a library's own writing) would be safe by luck only."""
    draw = random.Random(60)
    for number in range(15):
        status = commands.habitus(*run(base, "timed"), seconds=draw.uniform(0.05, 1.5))
        assert status in (0, SIGKILLED), commands.said
        finish(commands, base, "timed", [])
        assert results(base / "out" / "timed") == undisturbed[0], number
        assert not hidden(base / "out" / "timed")
        folders.remove(base / "out" / "timed")


@pytest.mark.parametrize("how", ["--overwrite", "--only", *(["--resume"] if TORTURE else [])])
def test_run_over_a_finished_one_is_old_or_new(
    base: Path, commands: Child, undisturbed: tuple[dict[str, str], dict[str, list[int]], int], how: str
) -> None:
    """Who makes a run anew, and is killed, would have neither the old one nor the new one."""
    over, other = base / "out" / f"over{how}", base / "out" / f"other{how}"
    words = ("--only", "gru") if how == "--only" else (how,)
    for folder in (over, other):
        assert commands.habitus(*run(base, folder.name)) == 0
    before, facts = results(over), (over / RUN_FACTS).read_bytes()
    done = commands.done(*run(base, other.name, *words, "--seed", "1"))
    after = results(other)
    draw = random.Random(7)
    moments = [("", draw.randint(1, len(done))) for _ in range(10 if TORTURE else 1)]
    written = "os.rename /." + over.name + ".habitus-new/.run.json.habitus-part"  # the exchange follows, and then the old one is removed
    exchanged = []
    for after_it, at in [*moments, (written, 1), (written, 2), (written, 6)]:
        status = commands.habitus(*run(base, over.name, *words, "--seed", "1"), after=after_it, until=at)
        assert status == SIGKILLED or not after_it, (at, commands.said)  # what is resumed has fewer changes
        exchanged.append((over / RUN_FACTS).read_bytes() != facts)
        assert results(over) == (after if exchanged[-1] else before), (after_it, at)
    assert exchanged == sorted(exchanged) and exchanged[-2:] == [True, True]
    assert TORTURE or not exchanged[1], "the kill just before the exchange"  # of many, one that came late has let it happen
    assert commands.habitus(*run(base, over.name, *words, "--seed", "1")) == 0
    assert results(over) == after
    assert not hidden(over)


def test_encode_over_profiles_is_old_or_new(
    base: Path, commands: Child, undisturbed: tuple[dict[str, str], dict[str, list[int]], int]
) -> None:
    """Tomorrow's vectors, killed half-way, would cost today's."""
    model, out = base / "out" / "undisturbed" / "model", base / "out" / "profiles"
    words = ("encode", model, base / "log", "--out", out)
    assert commands.habitus(*words, "--until", "2024-03-01") == 0
    old = Profiles.open(out).matrix.tobytes()
    commands.done(*words, "--until", "2024-04-01", "--overwrite")
    new = Profiles.open(out).matrix.tobytes()
    assert old != new
    assert commands.habitus(*words, "--until", "2024-03-01", "--overwrite") == 0
    last = len(commands.done(*words, "--until", "2024-03-01", "--overwrite"))
    states = []
    for at in range(1, last + 1, 1 if TORTURE else 5):
        assert commands.habitus(*words, "--until", "2024-04-01", "--overwrite", until=at) == SIGKILLED, (at, commands.said)
        states.append(Profiles.open(out).matrix.tobytes())
        assert states[-1] in (old, new), at
        if states[-1] == new:
            break
    assert states[0] == old
    assert commands.habitus(*words, "--until", "2024-04-01", "--overwrite") == 0
    assert Profiles.open(out).matrix.tobytes() == new
    assert not hidden(out)


def test_forget_killed_at_any_change_is_finished_by_the_next_call(
    base: Path, commands: Child, undisturbed: tuple[dict[str, str], dict[str, list[int]], int]
) -> None:
    """Half an erasure would pass for one, or leave a run that neither opens nor can be forgotten in."""
    one, whole = base / "out" / "forgetting", base / "out" / "undisturbed"
    words = ("forget", "3,7,11", "--in", one)
    shutil.copytree(whole, one)
    last, wanted = len(commands.done(*words)), results(one)
    assert last > 30 and wanted.keys() - undisturbed[0].keys() == {artefact.FORGOTTEN}
    del wanted[artefact.FORGOTTEN]  # which says when
    assert wanted != undisturbed[0]
    for at in range(1, last + 1, 1 if TORTURE else 15):
        folders.remove(one)
        shutil.copytree(whole, one)
        assert commands.habitus(*words, until=at) == SIGKILLED, at
        assert commands.habitus(*words) == 0, (at, commands.said)
        assert {**results(one), **wanted} == results(one) and not hidden(one) and not any((one / artefact.WORK).glob("*")), at
        assert not {3, 7, 11} & set(Profiles.open(one / artefact.PROFILES).users.tolist()), at
    folders.remove(one)


def test_fit_over_a_model_is_old_or_new(base: Path, commands: Child) -> None:
    """A model with an old vocabulary and new encoders would open, or none at all."""
    out, other = base / "out" / "model", base / "out" / "other-model"
    words = ("fit", base / "log" / "recipe.toml", base / "log", "--out")
    assert commands.habitus(*words, out, "--seed", "1") == 0
    done = commands.done(*words, other)
    old, new = results(out), results(other)
    draw = random.Random(8)
    for at in [draw.randint(1, len(done)) for _ in range(10)] if TORTURE else [len(done) - 40, len(done) - 3]:
        commands.habitus(*words, out, "--overwrite", until=at)
        Model.open(out)
        assert results(out) in (old, new), at
    assert commands.habitus(*words, out, "--overwrite") == 0
    assert results(out) == new
    assert not hidden(out)


# Bytes beyond which no file may grow: at the first, at a checkpoint, at the profiles.
@pytest.mark.parametrize("most", [200, 9_000, *([60, 600, 2_000, 5_000, 20_000] if TORTURE else [])])
def test_a_full_disk_is_told_and_costs_nothing(
    base: Path, commands: Child, undisturbed: tuple[dict[str, str], dict[str, list[int]], int], most: int
) -> None:
    """A full disk would end in a traceback, take the old artefact with it, or stay full of half a new one."""
    run_folder, profiles, log = base / "out" / "undisturbed", base / "out" / "todays", base / "tables"
    if not log.exists():
        log_on_disk(log)
        assert commands.habitus("encode", run_folder / "model", base / "log", "--out", profiles) == 0
        assert commands.habitus("report", run_folder) == 0, commands.said
    before = files(base)
    new, told = base / "out" / "new", 0
    for words in (
        run(base, "undisturbed", "--overwrite", "--seed", "1"), run(base, "new"), ("report", run_folder), ("init", log, "--overwrite"),
        ("fit", base / "log" / "recipe.toml", base / "log", "--out", new), ("synth", "--users", "50", "--out", new),
        ("encode", run_folder / "model", base / "log", "--out", profiles, "--overwrite"), ("export", profiles, "--to", new),
        ("export", profiles, "--to", new, "--format", "challenge"), ("evaluate", run_folder, "--json", base / "out" / "scores.json"),
    ):  # fmt: skip
        status = commands.habitus(*words, largest_file=most)
        assert status in (0, 1) and "Traceback" not in commands.said, (words, commands.said)
        if status:
            told += 1
            assert "there is no room left to write" in commands.said, (words, commands.said)
            left = files(base)
            assert {path: left.get(path) for path in before} == before, words
            assert new.name in words or "run" in words or not left.keys() - before.keys(), words  # a run keeps what it can go on from
        else:
            before = files(base) if words[0] in ("init", "encode", "evaluate") else before
        for entry in (new, folders.beside(run_folder, folders.NEW)):
            folders.remove(entry)
    assert told >= (8 if most < 1000 else 3)


def test_a_folder_or_table_that_goes_is_told(
    base: Path, commands: Child, undisturbed: tuple[dict[str, str], dict[str, list[int]], int]
) -> None:
    """What somebody removes while work goes on would end in a traceback, or in a run that lacks it."""
    statuses: list[int] = []
    for gone in ("log", "out"):
        log = base / "vanishing"
        log_on_disk(log)
        words = ("run", log / "recipe.toml", log, "--out", base / "out" / "vanishing", "--no-report")
        target = log / "buy.parquet" if gone == "log" else base / "out" / "vanishing"
        for after in ("vanishing/model", "work/gru", "scores.json")[: None if TORTURE or gone == "out" else 1]:
            status = commands.habitus(*words, gone=str(target), after=after, until=1)
            assert status in (0, 1, 2) and "Traceback" not in commands.said, (gone, after, commands.said)
            assert status or results(base / "out" / "vanishing") == undisturbed[0], (gone, after)
            statuses.append(status)
            folders.remove(base / "out" / "vanishing")
            log_on_disk(log) if not log.exists() else (log / "buy.parquet").write_bytes((base / "log" / "buy.parquet").read_bytes())
        folders.remove(log)
    assert sum(status > 0 for status in statuses) >= 3


def files(folder: Path) -> dict[Path, bytes]:
    """Every file below a folder, with what is in it."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.parent != folder}


@pytest.mark.skipif(not TORTURE, reason="make torture")
def test_a_small_disk_is_told_and_costs_nothing(
    base: Path, commands: Child, undisturbed: tuple[dict[str, str], dict[str, list[int]], int]
) -> None:
    """A limit on files is not a disk: on a full one not even a name can be written, nor a lock."""
    disk = base / "out" / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("a disk of its own takes root")
    try:
        encoded = ("--out", disk / "profiles", "--force", "--until")  # by estimate there is no room, and that would be said before
        words = ("encode", base / "out" / "undisturbed" / "model", base / "log", *encoded)
        assert commands.habitus(*words, "2024-03-01") == 0, commands.said
        before, told, room = files(disk.parent), 0, disk / "filler"
        for free in range(0, 300, 12):  # KiB
            filled = os.statvfs(disk)
            room.write_bytes(bytes(max(filled.f_bavail * filled.f_frsize - free * 1024, 0)))
            for more in (words, run(base, "disk/run", "--force")):
                status = commands.habitus(*more, *(["2024-04-01", "--overwrite"] if more is words else []))
                assert status in (0, 1) and "Traceback" not in commands.said, (free, commands.said)
                if status:
                    told += 1
                    assert "no room left" in commands.said, (free, commands.said)
                    left = files(disk.parent)
                    assert {path: left.get(path) for path in before} == before, free
                elif more is words:
                    before = files(disk.parent)
                    before.pop(room, None)
            folders.remove(disk / "run")
            room.unlink()
        assert told > 10 and Profiles.open(disk / "profiles")
    finally:
        subprocess.run(["umount", disk], check=True)

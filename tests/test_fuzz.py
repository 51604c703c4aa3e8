"""Whatever somebody does to a file, its loader refuses it with an error that we raise, or gives what is really usable.

Never another exception, never anything run, never a file outside the folder, never a hang. HABITUS_FUZZ is how many times as many cases
are tried as here (default 1); HABITUS_FUZZ_SEED begins elsewhere.
"""

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encoders.test_contract import encode, fit, new
from fuzz_helper import NASTY, Rng, Watch, by_kind, bytes_changed, json_changed, listed, places, replaced, seal, time_limit
from habitus import report
from habitus.encoders.base import Encoder, encoder_kinds
from habitus.errors import ArtefactError, HabitusError, InputError
from habitus.export import opened as open_profiles
from habitus.finished import FinishedRun
from habitus.fusion import BlockFusion, Fusion
from habitus.log.time_fields import TIME_FIELDS
from habitus.log.timelines import EVENT_TYPE, FIRST, Timelines
from habitus.log.users import read_users
from habitus.log.vocabulary import Vocabulary
from habitus.model import Model
from habitus.nn import training
from habitus.nn.checkpoints import Checkpoints
from habitus.pipeline import run
from habitus.profiles import Profiles
from habitus.recipe import Recipe
from habitus.report import gather
from habitus.trained_on import TrainedOn
from shop_helper import on_disk, shop
from timelines_helper import random_timelines

TIMES = int(os.environ.get("HABITUS_FUZZ", "1"))
SEED = int(os.environ.get("HABITUS_FUZZ_SEED", "0"))
WATCH = Watch()
TIMELINES = random_timelines(0, users=24, shards=3)


@dataclass(frozen=True)
class Subject:
    """Something that is read from a folder: how it is opened, and what then must work, or end in an error of ours."""

    write: Callable[[Path, int], Any]  # folder, seed
    open: Callable[[Path], Any]
    use: Callable[[Any], Any]
    refusal: type[HabitusError] = ArtefactError
    around: int | None = None  # how far above the folder a link may lead: where it is a file of one's own that is named


def _vocabulary() -> Vocabulary:
    values = {"sku": np.arange(30)}
    fields = dict(TIMELINES.fields)
    return Vocabulary(fields, values, {"price": np.arange(9.0)}, TIMELINES.event_types, TIMELINES.origin, TIMELINES.horizon)


def _blocks(seed: int = 0) -> list[Profiles]:
    rng = np.random.default_rng(seed)
    return [Profiles.single(name, np.arange(20), rng.normal(size=(20, 6)), rng.random(20) < 0.8, until=5, model_until=5) for name in "abc"]


_FUSED = {"a": BlockFusion(reduce=3), "b": BlockFusion(scale="quantile", unknown="zero"), "c": BlockFusion(scale="standard", known=True)}


def _write_profiles(folder: Path, seed: int) -> None:
    Fusion(_FUSED).fit(_blocks(seed)).apply(_blocks(seed)).save(folder)


def _write_encoder(kind: str, folder: Path, seed: int) -> None:
    fit(new(kind), TIMELINES, seed).save(folder)


def _write_model(folder: Path, seed: int) -> None:
    encoders = [fit(new(kind), TIMELINES, seed) for kind in ("als", "statistics")]
    for kind, encoder in zip(("als", "statistics"), encoders, strict=True):
        encoder.name = kind
    fusion = Fusion({one.name: BlockFusion(scale="standard") for one in encoders}).fit([encode(one, TIMELINES) for one in encoders])
    shares = {name: {"other": 0.1, "absent": 0.2} for name in TIMELINES.fields}
    whom = TrainedOn.of(TIMELINES.users)
    Model({"name": "small"}, _vocabulary(), encoders, fusion, TIMELINES.until, {"text": "left"}, shares, {"seed": 0}, whom).save(folder)


def _write_checkpoint(folder: Path, seed: int) -> None:
    encoder = new("gru_autoencoder")
    encoder.fit(TIMELINES, seed=0, device="cpu", work=folder)


def _write_checkpoint_within(folder: Path, seed: int) -> None:
    """What a training leaves that is killed in its second epoch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
        save = Checkpoints.save

        def saving(self: Checkpoints, *arguments: Any, **more: Any) -> None:
            save(self, *arguments, **more)
            if more.get("within") and arguments[0]:
                raise KeyboardInterrupt

        patch.setattr(Checkpoints, "save", saving)
        with pytest.raises(KeyboardInterrupt):
            _write_checkpoint(folder, seed)


def _write_entry(folder: Path, seed: int) -> None:
    folder.mkdir()
    rng = np.random.default_rng(seed)
    np.save(folder / "client_ids.npy", rng.permutation(20))
    np.save(folder / "embeddings.npy", rng.normal(size=(20, 4)).astype(np.float16))


def _write_users(folder: Path, seed: int) -> None:
    folder.mkdir()
    np.save(folder / "users.npy", np.arange(20) + seed)


def _write_run(folder: Path, seed: int) -> None:
    recipe = Recipe.from_toml(
        '[[encoder]]\nkind = "statistics"\n[encoder.fusion]\nscale = "quantile"\n[judge]\ntasks = ["churn"]', source="few"
    )
    run(recipe, on_disk(folder.parent / f"log{seed}", shop(40, seed=seed)), folder)


def _finite(profiles: Profiles) -> None:
    assert profiles.matrix.dtype == np.float32 and np.isfinite(profiles.matrix).all()
    assert len(profiles) == len(profiles.users) == len(profiles.known)


def _use_profiles(profiles: Profiles) -> None:
    _finite(profiles)
    if len(profiles):
        profiles.nearest(profiles.users[0])
    for name in profiles.blocks:
        assert profiles.block(name).dim >= 0
    profiles.to_polars()


def _use_timelines(lines: Timelines) -> None:
    lines.count_before(slice(None), lines.until - 5)
    assert len(lines.select(lines.users[:3])) == min(len(lines), 3)
    events = lines.read(slice(None), [*lines.fields, *TIME_FIELDS], newest=9)
    for name, codes in events.codes.items():
        assert len(codes) == len(events.time) and (codes < max(lines.field(name).size, FIRST + 7)).all()


def _use_vocabulary(found: Vocabulary) -> None:
    for name, values in found.values.items():
        assert len(found.decode(name, np.arange(found.fields[name].size))) == len(values) + FIRST
    assert len(found.decode(EVENT_TYPE, np.arange(found.fields[EVENT_TYPE].size))) == len(found.event_types) + FIRST
    for name in found.edges:
        assert (found.buckets(name, np.array([0.0, 1e9, np.nan])) < found.fields[name].size).all()


def _use_run(found: FinishedRun) -> None:
    assert found.recipe.members and found.window_days >= 1
    gather.open_run(found.folder)


SUBJECTS: dict[str, Subject] = {
    "profiles": Subject(_write_profiles, Profiles.open, _use_profiles),
    "timelines": Subject(lambda folder, seed: random_timelines(seed, users=24, shards=3).save(folder), Timelines.open, _use_timelines),
    "vocabulary": Subject(lambda folder, seed: _vocabulary().save(folder), Vocabulary.open, _use_vocabulary),
    "fusion": Subject(
        lambda folder, seed: Fusion(_FUSED).fit(_blocks(seed)).save(folder), Fusion.open, lambda one: _finite(one.apply(_blocks()))
    ),
    "model": Subject(_write_model, Model.open, lambda one: _finite(one.encode(TIMELINES, device="cpu"))),
    "trained_on": Subject(
        lambda folder, seed: TrainedOn.of(np.arange(40) + seed).save(folder), TrainedOn.open,
        lambda one: one.contains(np.arange(9).astype(str) if one.text else np.arange(9)),
    ),
    "checkpoint within an epoch": Subject(
        _write_checkpoint_within,
        lambda folder: Checkpoints(folder, {}).newest(lambda facts: True) or folder,
        lambda folder: new("gru_autoencoder").fit(TIMELINES, seed=0, device="cpu", work=folder),
    ),
    "checkpoint": Subject(
        _write_checkpoint,
        lambda folder: Checkpoints(folder, {}).newest(lambda facts: True) or folder,  # of another training: looked at, and not taken up
        lambda folder: new("gru_autoencoder").fit(TIMELINES, seed=0, device="cpu", work=folder),
    ),
    "run": Subject(_write_run, FinishedRun.open, _use_run),
    "report": Subject(_write_run, FinishedRun.open, lambda found: report.write(found.folder)),
    "entry": Subject(_write_entry, open_profiles, _use_profiles, InputError),
    "users": Subject(_write_users, lambda folder: read_users(folder / "users.npy"), lambda ids: np.sort(ids), InputError, around=1),
} | {
    f"encoder {kind}": Subject(partial(_write_encoder, kind), Encoder.load, lambda one: _finite(encode(one, TIMELINES)))
    for kind in encoder_kinds()
}  # fmt: skip

SLOW = {
    "checkpoint": 4, "checkpoint within an epoch": 6, "report": 12, "run": 20, "encoder text": 20, "encoder hybrid_factors": 40,
    "encoder next_event": 40,
}  # fmt: skip
"""Cases of the careful attacker, where not 60: those whose use takes long."""
FRESH = ("checkpoint", "checkpoint within an epoch")  # what does not hold is passed over, and work begins anew
everything = pytest.mark.parametrize("name", SUBJECTS)


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Path]:
    """A folder of each subject, written once."""
    base, made = tmp_path_factory.mktemp("pristine"), dict[tuple[str, int], Path]()

    def of(name: str, seed: int = 0) -> Path:
        if (name, seed) not in made:
            made[name, seed] = base / name.replace(" ", "-") / str(seed)
            made[name, seed].parent.mkdir(exist_ok=True)
            SUBJECTS[name].write(made[name, seed], seed)
        return made[name, seed]

    return of


def outcome(subject: Subject, folder: Path, seconds: float = 60.0) -> str:
    """Whether a folder is refused, refused where it is used, or is usable; raises whatever else becomes of it."""
    with time_limit(seconds), warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # of overflow, in numbers that are then refused
        try:
            with WATCH.within(folder if subject.around is None else folder.parents[subject.around]):
                opened = subject.open(folder)
        except subject.refusal:
            return "refused"
        finally:
            assert not WATCH.seen, WATCH.seen
        try:
            subject.use(opened)
        except HabitusError:
            return "refused in use"
    return "usable"


def attacked(
    name: str, pristine: Callable[..., Path], place: Path, cases: int, attack: Callable[[Path, Rng], str]
) -> Counter[str]:  # fmt: skip
    """Outcomes of so many cases, each on a copy of its own; a failure says which."""
    found: Counter[str] = Counter()
    outcome(SUBJECTS[name], pristine(name))  # libraries are loaded before anything is watched closely
    for number in range(cases * TIMES):
        rng = np.random.default_rng([SEED, number, *map(ord, name)])
        folder = place / "case" / "one"
        shutil.copytree(pristine(name), folder)
        how = "nothing yet"
        try:
            how = attack(folder, rng)
            found[outcome(SUBJECTS[name], folder)] += 1
        except BaseException as error:
            raise AssertionError(f"{name}, case {number}: {how}") from error
        shutil.rmtree(place / "case")
    return found


@everything
def test_untouched_is_usable(name: str, pristine: Callable[..., Path]) -> None:
    """The attacks would be on what cannot be opened anyway."""
    assert outcome(SUBJECTS[name], pristine(name)) == "usable"


@everything
def test_clumsy_damage_is_refused(name: str, pristine: Callable[..., Path], tmp_path: Path) -> None:
    """A changed bit, half a file, a pipe, or a link out of the folder would be read as if nothing had happened."""
    (tmp_path / "outside").mkdir()

    def attack(folder: Path, rng: Rng) -> str:
        files = listed(folder)
        file = files[int(rng.integers(len(files)))]
        if rng.random() < 0.5:
            return bytes_changed(file, rng)
        return replaced(file, rng, folder, tmp_path / "outside")

    found = attacked(name, pristine, tmp_path, min(30, SLOW.get(name, 60)), attack)
    if name not in ("entry", "users", "run", "report", *FRESH):  # without checksums, or with a fresh start in their place
        assert found["refused"] >= 0.9 * found.total() and not found["refused in use"]


@everything
def test_careful_forgery_is_refused_or_usable(name: str, pristine: Callable[..., Path], tmp_path: Path) -> None:
    """Who makes the checksums right again could crash the program, or have it run or read what it should not."""

    def attack(folder: Path, rng: Rng) -> str:
        files = [file for file in listed(folder) if file.name != "manifest.json" or rng.random() < 0.5]
        how = by_kind(files[int(rng.integers(len(files)))], rng)
        seal(folder)
        return how

    found = attacked(name, pristine, tmp_path, SLOW.get(name, 60), attack)
    assert name in FRESH or found["refused"] + found["refused in use"] > 0


@everything
def test_every_json_value_may_be_wrong(name: str, pristine: Callable[..., Path], tmp_path: Path) -> None:
    """A setting, a count or a name of a wrong type would be a traceback, an endless loop or all of the memory."""
    files = [file.relative_to(pristine(name)) for file in listed(pristine(name)) if file.suffix == ".json"]
    every = [(file, at) for file in files for at in range(len(places(json.loads((pristine(name) / file).read_bytes()))))]
    if not every:
        return
    order = np.random.default_rng([SEED, 7]).permutation(len(every) * len(NASTY))

    def attack(folder: Path, rng: Rng) -> str:
        case = int(order[attack.number % len(order)])  # type: ignore[attr-defined]
        attack.number += 1  # type: ignore[attr-defined]
        file, at = every[case // len(NASTY)]
        how = json_changed(folder / file, rng, (at, case % len(NASTY)))
        if file.name != "manifest.json" or len(file.parts) > 1:
            seal(folder)
        return how

    attack.number = 0  # type: ignore[attr-defined]
    attacked(name, pristine, tmp_path, 2 * SLOW.get(name, 60) // 3, attack)


@everything
def test_swapped_files_are_refused_or_usable(name: str, pristine: Callable[..., Path], tmp_path: Path) -> None:
    """A part of another artefact, its checksum made right, would be read beyond its end, or crash what reads it."""
    others = [one for one in SUBJECTS if one != "checkpoint" or name == "checkpoint"]

    def attack(folder: Path, rng: Rng) -> str:
        files = listed(folder)
        file = files[int(rng.integers(len(files)))]
        for other in rng.permutation(others):
            alike = [one for one in listed(pristine(str(other))) if one.suffix == file.suffix]
            if alike:
                shutil.copy(alike[int(rng.integers(len(alike)))], file)
                seal(folder)
                return f"{file.name} of {other}"
        return "nothing"

    attacked(name, pristine, tmp_path, min(10, SLOW.get(name, 60)), attack)


NAMES = (
    "..", ".", "", "/", "/etc/passwd", "../pristine", "a/../../b", "a\0b", "a" * 300, "a/" * 3000 + "b", "\u202e", "C:\\x", "\\\\host\\x",
    "..\\x", "C:x", "./state.safetensors", "state.safetensors/", "STATE.safetensors", "a//b", "encoders/../..", "~", "-rf", "\ud800",
)  # fmt: skip


@pytest.mark.parametrize("wrong", NAMES)
def test_names_stay_inside(wrong: str, pristine: Callable[..., Path], tmp_path: Path) -> None:
    """A name in a manifest would lead to somebody's own files."""
    for key in ("files", "members", "parts"):
        folder = tmp_path / key / "model"
        shutil.copytree(pristine("model"), folder)
        manifest = folder / "manifest.json"
        said = json.loads(manifest.read_text())
        if key == "members":
            said["members"][0] = wrong
            said["parts"] = {part if "als" not in part else f"encoders/{wrong}": digest for part, digest in said["parts"].items()}
        else:
            said[key] = {**said[key], wrong: next(iter(said["parts"].values())) if key == "parts" else {"bytes": 3, "sha256": ""}}
        manifest.write_text(json.dumps(said))
        assert outcome(SUBJECTS["model"], folder) == "refused"


@pytest.mark.parametrize("kind", ["os", "base", "__init__", "..model", "habitus.model", "antigravity", "als\0", "ALS", ""])
def test_a_kind_imports_no_other_module(kind: str, pristine: Callable[..., Path], tmp_path: Path) -> None:
    """A name in a file would choose what code is loaded."""
    folder = tmp_path / "one"
    shutil.copytree(pristine("encoder als"), folder)
    said = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**said, "encoder": kind}))
    before = set(sys.modules)
    assert outcome(SUBJECTS["encoder als"], folder) == "refused"
    assert not {"antigravity", "habitus.encoders.os"} & (set(sys.modules) - before)


def test_a_folder_on_the_way_is_no_link(pristine: Callable[..., Path], tmp_path: Path) -> None:
    """All checksums right, a model would be read from outside its folder; so would a run's parts."""
    for name, part in (("model", "encoders"), ("model", "encoders/als"), ("model", "fusion"), ("run", "model"), ("run", "timelines")):
        folder = tmp_path / part.replace("/", "-") / "one"
        shutil.copytree(pristine(name), folder)
        (folder / part).rename(folder.parent / "elsewhere")
        (folder / part).symlink_to(folder.parent / "elsewhere", target_is_directory=True)
        with pytest.raises(ArtefactError, match="a link, which leads outside"):
            SUBJECTS[name].use(SUBJECTS[name].open(folder))


def test_objects_are_not_unpickled(tmp_path: Path) -> None:
    """A list of users, or an entry, could run whatever its maker likes."""

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    _write_entry(tmp_path / "entry", 0)
    np.save(tmp_path / "entry" / "client_ids.npy", np.array([Trap()] * 20, object), allow_pickle=True)
    assert outcome(SUBJECTS["entry"], tmp_path / "entry") == "refused"
    with pytest.raises(InputError, match="object"):
        read_users(tmp_path / "entry" / "client_ids.npy")
    assert not (tmp_path / "sprung").exists()


HUGE = """
import resource, sys
from pathlib import Path
sys.path[:0] = {path!r}
import numpy as np
from test_fuzz import SUBJECTS, outcome
from habitus.errors import HabitusError
import pyarrow.parquet, torch
for name, folder in {cases!r}:
    if name != "users":
        SUBJECTS[name.split(":")[0]].open(Path({base!r}) / name.split(":")[0])  # what it needs is loaded
taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + (3 << 30), -1))
for name, folder in {cases!r}:
    print(name, outcome(SUBJECTS[name.split(":")[0]], Path(folder), 60))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is limited as Linux does")
def test_what_is_only_claimed_takes_no_memory(pristine: Callable[..., Path], tmp_path: Path) -> None:
    """A file of a few bytes that claims to hold a terabyte would take a machine down."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    cases: list[tuple[str, Path]] = []

    def case(name: str, what: str) -> Path:
        folder = tmp_path / f"{name}-{what}".replace(" ", "-")
        shutil.copytree(pristine(name), folder)
        cases.append((f"{name}: {what}", folder))
        return folder

    def json_set(path: Path, **values: Any) -> None:
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    for kind, settings in {
        "gru_autoencoder": ("hidden", "layers", "embedding"), "next_event": ("width", "layers", "embedding", "max_length"),
        "als": ("factors",), "hybrid_factors": ("components",), "statistics": ("top",),
    }.items():  # fmt: skip
        for setting in settings:
            json_set(case(f"encoder {kind}", setting) / "settings.json", **{setting: 1 << 40})
    json_set(case("timelines", "shards") / "index.json", shards=(1 << 31) - 1)
    dim, blocks = 12, 3
    spans = {"a": [0, 4], "b": [4, 8], "c": [8, 12]}
    json_set(case("profiles", "rows") / "manifest.json", users=(1 << 31) - 1)
    json_set(case("profiles", "columns") / "manifest.json", blocks={"a": [0, (1 << 31) - 1]}, features=[])
    folder = case("profiles", "texts")
    few = 100_000
    longs = pa.DictionaryArray.from_arrays(pa.array(np.zeros(few, np.int32)), pa.array(["x" * 1_000_000]))
    table = pa.table(
        {
            "user": longs, "vector": pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(few * dim, np.float32)), dim),
            "known": pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(few * blocks, bool)), blocks).cast(pa.list_(pa.bool_())),
        }
    )  # fmt: skip
    pq.write_table(table, folder / "profiles.parquet", store_schema=False)
    json_set(folder / "manifest.json", users=few, blocks=spans, features=[])
    for name, file in (("entry", "embeddings.npy"), ("users", "users.npy")):
        with (case(name, "shape") / file).open("wb") as stream:
            np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)})
    for _, folder in cases:
        seal(folder)
    for name in {name.split(":")[0] for name, _ in cases}:
        (tmp_path / name).symlink_to(pristine(name))
    here = Path(__file__).parent
    code = HUGE.format(path=[str(here)], cases=[(name, str(folder)) for name, folder in cases], base=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert len(lines) == len(cases) and not any(line.endswith("usable") for line in lines), done.stdout

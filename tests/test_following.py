"""Training by two processes, started as users start them, against the same by one."""

import json
import re
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import several_helper
from habitus import artefact
from habitus.log.sources import synthetic
from habitus.log.timelines import Timelines
from habitus.pipeline import Options, run
from habitus.profiles import Profiles
from several_helper import dropping, encoders, torchrun
from timelines_helper import random_timelines

Array = NDArray[Any]
Found = tuple[dict[str, Any], dict[str, Array]]
HELPER = several_helper.__file__
RECIPE = """
[[encoder]]
name = "gru"
kind = "gru_autoencoder"
fields = ["event_type", "category"]
keep = 20
embedding = 8
hidden = 8
layers = 1
max_length = 12
epochs = 2
batch_users = 16

[[encoder]]
name = "statistics"
kind = "statistics"

[judge]
tasks = ["churn"]
"""


@pytest.fixture(scope="module")
def lines() -> Timelines:
    return random_timelines(5, users=120, shards=4)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small log, and a recipe for it."""
    folder = tmp_path_factory.mktemp("shop")
    (folder / "recipe.toml").write_text(RECIPE)
    return synthetic.write(folder / "log", users=60), folder / "recipe.toml"


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory, lines: Timelines, shop: tuple[Path, Path]) -> tuple[Path, CompletedProcess[str]]:
    """The folder of two processes that have trained together and then, in a command, failed; and how they ended."""
    folder = tmp_path_factory.mktemp("two")
    lines.save(folder / "timelines")
    return folder, torchrun(HELPER, "together", str(folder), "fit", str(shop[1]), str(shop[0]), "--out", str(folder / "model"), "--quiet")


@pytest.fixture(scope="module")
def two(ended: tuple[Path, CompletedProcess[str]]) -> list[Found]:
    """What each of two processes has found, and what it has learned."""
    folder, process = ended
    assert (folder / "1.json").exists(), process.stderr
    return [(json.loads((folder / f"{rank}.json").read_text()), dict(np.load(folder / f"{rank}.npz"))) for rank in range(2)]


@pytest.mark.parametrize("name", ["gru", "next", "hybrid"])
def test_two_processes_learn_what_one_does(two: list[Found], lines: Timelines, name: str) -> None:
    """Two processes would reach another loss, and other vectors, from the same batches."""
    alone = encoders()[name].fit(lines, seed=3, device="cpu")
    facts, arrays = two[0]
    expected, found = alone.facts["training"], facts[name]["training"]
    for row, other in zip(expected["epochs"], found["epochs"], strict=True):
        assert [other["loss"], other["held_out"]] == pytest.approx([row["loss"], row["held_out"]], rel=1e-5)
    assert found["processes"] == 2 and "processes" not in expected
    np.testing.assert_allclose(arrays[f"{name}/vectors"], alone.encode(lines, device="cpu").matrix, atol=1e-5)
    if name != "hybrid":
        for key, array in several_helper.weights_of(alone).items():
            np.testing.assert_array_equal(two[1][1][f"{name}/{key}"], arrays[f"{name}/{key}"], "the processes have drifted apart")
            if name == "gru":  # the biases of an attention's keys change nothing, and their gradient is rounding, of which Adam makes steps
                np.testing.assert_allclose(arrays[f"{name}/{key}"], array, atol=1e-5)


def test_second_process_reads_its_own_shards_alone(two: list[Found]) -> None:
    """On a cluster, every machine would read the whole log."""
    assert two[1][0]["gru"]["touched"] == [2, 3]


def test_dropout_and_two_processes_reach_nearly_the_same_loss(two: list[Found], lines: Timelines) -> None:
    """What is dropped differs; the loss that is reached must not, by more than a hundredth."""
    alone = dropping().fit(lines, seed=3, device="cpu").facts["training"]
    assert two[0][0]["dropping"]["held_out"] == pytest.approx(alone["held_out"], rel=0.01)
    assert two[0][0]["dropping"]["held_out"] != alone["held_out"]


def test_resumed_by_two_processes_is_as_undisturbed(two: list[Found]) -> None:
    """A training that was interrupted would end elsewhere, or only the first process would go on from its checkpoint."""
    for facts, arrays in two:
        assert facts["interrupted"]
        names = [key.removeprefix("resumed/") for key in arrays if key.startswith("resumed/")]
        assert names
        for key in names:
            np.testing.assert_array_equal(arrays[f"resumed/{key}"], arrays[f"undisturbed/{key}"])
    assert "going on after epoch 2" in two[0][0]["said"][0] and not two[1][0]["dropping"]


def test_loss_that_is_none_in_one_process_ends_both(two: list[Found]) -> None:
    """One process would stop, and the other wait for it."""
    assert two[0][0]["failed"] == two[1][0]["failed"]
    assert "the loss is nan in epoch 1" in two[0][0]["failed"]


def test_command_run_by_two_processes_leaves_one_run(shop: tuple[Path, Path], tmp_path: Path) -> None:
    """Two processes would write over each other, print twice, or leave a run that is worth less than one's."""
    log, recipe = shop
    ended = torchrun("-m", "habitus", "run", str(recipe), str(log), "--out", str(tmp_path / "two"), "--json", "--no-report", "--quiet")
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    alone = run(recipe, log, tmp_path / "one", options=Options())
    scores = json.loads(ended.stdout)
    assert scores == artefact.read_json(tmp_path / "two" / "scores.json")
    listed = [sorted(str(file.relative_to(tmp_path / one)) for file in (tmp_path / one).rglob("*")) for one in ("one", "two")]
    marks = re.compile(r"work/gru/[^/]*")
    assert [marks.sub("", one) for one in listed[1]] == [marks.sub("", one) for one in listed[0]]
    facts = artefact.read_json(tmp_path / "two" / "run.json")
    assert facts["members"]["gru"]["training"]["processes"] == 2
    found = Profiles.open(tmp_path / "two" / "profiles")
    np.testing.assert_allclose(found.block("gru").matrix, alone.profiles.block("gru").matrix, atol=1e-4)
    for row, other in zip(alone.scoreboard.to_json(), scores, strict=True):
        assert other["score"] == pytest.approx(row["score"], abs=0.02)


def test_script_goes_on_in_the_first_process_alone(ended: tuple[Path, CompletedProcess[str]]) -> None:
    """What follows a fit in a script would run twice, or timelines in memory could not be learned from by two."""
    assert (ended[0] / "script.txt").read_text() == "2\n"


def test_error_of_the_first_process_is_said_once(ended: tuple[Path, CompletedProcess[str]]) -> None:
    """In the midst of a training, the other would wait for ever for what the first was to send, or complain of its silence."""
    folder, process = ended
    assert _said(process.stderr) == ["habitus: /full: there is no room left to write"]
    assert set(re.findall(r"exitcode *: (\d+)", process.stderr)) == {"1"} and process.returncode == 1
    assert process.stderr.count("Traceback (most recent call last)") == 1, "torchrun's own"
    assert not (folder / "model").exists()


def test_error_of_another_process_is_said_once_and_ends_all(shop: tuple[Path, Path], tmp_path: Path) -> None:
    """The first process would wait for ever, or end with what the collective says of the other's end."""
    ended = torchrun(HELPER, "unreachable", "fit", str(shop[1]), str(shop[0]), "--out", str(tmp_path / "model"), "--quiet")
    (said,) = _said(ended.stderr)
    assert said.startswith("habitus: process 1 of 2: /") and ended.returncode == 1
    assert "2" in re.findall(r"exitcode *: (\d+)", ended.stderr)
    assert ended.stderr.count("Traceback (most recent call last)") == 1, "torchrun's own"
    assert not (tmp_path / "model").exists()


def _said(stderr: str) -> list[str]:
    return [line[:46] for line in stderr.splitlines() if line.startswith("habitus: ")]

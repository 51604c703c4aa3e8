"""The page as a whole: what it says, that it asks nothing of the network, and that the data cannot run in it."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from habitus.artefact import ABLATION, CUTOFFS
from habitus.errors import InputError, MissingExtraError, ProfilesError, StorageError
from habitus.report import page as page_module
from habitus.report import write
from habitus.report.gather import open_run
from report_helper import user_id


class Page(HTMLParser):
    """What a browser reads of a page: elements with attributes, texts outside scripts, and the scripts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.styles, self.scripts, self._in = "", "", [], ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._in = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in = ""

    def handle_data(self, data: str) -> None:
        if self._in == "script":
            self.scripts[-1] += data
        elif self._in == "style":
            self.styles += data
        else:
            self.text += data

    def json(self, name: str) -> Any:
        place = [attrs for tag, attrs in self.elements if tag == "script"]
        return json.loads(self.scripts[[attrs.get("id") for attrs in place].index(name)])


@pytest.fixture(scope="module")
def page(finished: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(write(finished[0], tmp_path_factory.mktemp("page") / "report.html"))


@pytest.fixture
def copy(finished: tuple[Path, Any], tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished[0], tmp_path / "run"))


def ablated() -> list[dict[str, Any]]:
    rows = []
    for kind, step, block, difference in (
        ("alone", None, "gru", -0.02), ("alone", None, "statistics", 0.0), ("without", None, "gru", 0.01),
        ("without", None, "statistics", -0.2), ("added", 2, "gru", 0.05), ("added", 1, "statistics", None),
    ):  # fmt: skip
        low, high = (None, None) if difference is None else (difference - 0.01, difference + 0.01)
        rows.append({
            "kind": kind, "step": step, "block": block, "task": "churn", "scored_on": "unseen", "metric": "auroc", "score": 0.7, "low": 0.6,
            "high": 0.8, "difference": difference, "difference_low": low, "difference_high": high,
        })  # fmt: skip
    return rows


def test_page_says_the_headline_in_plain_words(page: Page) -> None:
    """A manager reads the top only: who, until when, what, and whether it is better than counting."""
    for words in ("90 users", "cut-off: nothing later is known", "Who stops (churn)", "ten plain counts", "95 % interval"):
        assert words in page.text, words
    assert re.search(r"[▲▼●] (BEATS|FALLS SHORT OF|FALLS SHORT|NO CLEAR DIFFERENCE)", page.text)


def test_page_has_every_part(page: Page) -> None:
    """The contents must lead somewhere, and all parts must be there."""
    ids = {attrs.get("id") for _, attrs in page.elements}
    links = [str(attrs["href"]) for tag, attrs in page.elements if tag == "a"]
    assert [link[1:] for link in links] == ["scores", "blocks", "map", "users", "memory", "training", "log", "provenance"]
    assert {link[1:] for link in links} <= ids
    named = [attrs["id"] for _, attrs in page.elements if attrs.get("id")]
    assert len(named) == len(set(named))


def test_page_describes_every_chart(page: Page) -> None:
    """Who cannot see a chart must be told what it shows, and find its figures in a table."""
    charts = [attrs for _, attrs in page.elements if attrs.get("class") == "chart"]
    assert len(charts) == len(page.json("figures")) + 1
    assert all(attrs["role"] == "img" and len(str(attrs["aria-label"])) > 20 for attrs in charts)
    figures = [tag for tag, _ in page.elements if tag == "figure"]
    assert len(figures) == len(charts)
    assert page.text.count("As a table") == len(charts) - 1


def test_page_asks_nothing_of_the_network(page: Page) -> None:
    """It must open on a train: no script, style, font, picture or frame from elsewhere."""
    for name, attrs in page.elements:
        for key in ("src", "href", "srcset", "data", "action", "poster"):
            value = attrs.get(key)
            assert value is None or value.startswith(("#", "data:")), (name, key, value)
    assert len(page.styles) > 1000
    assert "url(" not in page.styles
    assert "@import" not in page.styles
    assert not [tag for tag, _ in page.elements if tag in ("iframe", "object", "embed", "base")]


def test_page_data_cannot_run(page: Page) -> None:
    """Ids, values and names of this log are scripts; as elements there are only those of the page itself."""
    scripts = [attrs for tag, attrs in page.elements if tag == "script"]
    assert [attrs.get("id") for attrs in scripts] == ["users-shown", "figures", "map-data", None, None]
    assert not [tag for tag, attrs in page.elements if tag == "img" or any(key.startswith("on") for key in attrs)]
    assert "<script>alert(1)</script>" in page.text  # the shelf's name, as a text
    assert user_id(1) in page.text
    drawn = json.dumps([page.json("figures"), page.json("map-data")])
    assert "<img" not in drawn  # Plotly reads a little HTML, too
    assert "&lt;b&gt;u001&lt;/b&gt;" in drawn


def test_page_shows_an_ablation_and_other_dates(copy: Path, page: Page) -> None:
    """What was measured must be shown, in the best order; what was not is said, with the command that does."""
    assert "habitus ablate run" in page.text
    scores = json.loads((copy / "scores.json").read_text())
    older = [{**row, "cutoff": "2024-01-20T00:00:00Z", "models": "refitted"} for row in scores]
    (copy / ABLATION).write_text(json.dumps(ablated()))
    (copy / CUTOFFS).write_text(json.dumps([{**row, "models": "refitted"} for row in scores] + older))
    found = Page(write(copy))
    assert "habitus ablate run" not in found.text
    for words in ("Left out", "Added in the best order", "At other dates"):
        assert words in found.text, words
    specs = found.json("figures").values()
    assert [s["layout"]["yaxis"]["ticktext"] for s in specs if s["data"][0].get("name") == "score so far"] == [["+ gru", "statistics"]]
    (without,) = [s["data"][0] for s in specs if s["data"][0].get("name") == "change in AUROC"]
    assert without["x"] == [-0.2, 0.01]
    assert without["marker"]["color"] == ["@c1", "@muted"]  # the second holds nought
    assert without["marker"]["symbol"] == ["circle", "circle-open"]
    lines = [s for s in specs if s["layout"]["xaxis"].get("title", {}).get("text") == "cut-off"]
    assert len(lines) == 2
    assert lines[0]["data"][0]["x"] == ["2024-01-20", scores[0]["cutoff"][:10]]
    assert {trace["name"]: trace["line"]["color"] for trace in lines[0]["data"]} == {
        "profile": "@c0", "plain counts": "@c1", "random": "@muted",
    }  # fmt: skip
    assert "fitted anew for every date (refitted)" in found.text
    assert "(frozen)" not in found.text


def test_page_says_whose_models_are_frozen(copy: Path) -> None:
    """Whether a falling line means an old model or a hard month depends on this word."""
    scores = json.loads((copy / "scores.json").read_text())
    (copy / CUTOFFS).write_text(json.dumps([{**row, "models": "frozen"} for row in scores]))
    text = Page(write(copy)).text
    assert "fitted once, before the first date" in text
    assert "(refitted)" not in text


def test_page_of_scores_on_the_probes_own_users_says_so(copy: Path) -> None:
    """A lead that may be memory must not pass for merit; and what could not be scored is said, not drawn."""
    scores = json.loads((copy / "scores.json").read_text())
    seen = [row for row in scores if row["scored_on"] == "protocol" and row["task"] == "churn"]
    none = [{**row, "score": None, "low": None, "high": None} for row in scores if row["task"] != "churn"]
    (copy / "scores.json").write_text(json.dumps(seen + none))
    text = Page(write(copy)).text
    assert "On churn the small model was scored on the very users it learned from" in text
    assert "users that the small model never saw" not in text
    assert "Not scored against plain counts." in text
    assert "No score could be had." in text


def test_page_of_no_scores_claims_no_test(copy: Path) -> None:
    """Nothing was learned from these profiles, and nothing tested."""
    (copy / "scores.json").write_text("[]")
    text = Page(write(copy)).text
    assert "not yet judged" in text
    assert "A small model then learned" not in text


def test_page_of_what_a_table_states_speaks_of_no_future(copy: Path) -> None:
    """An age is not foretold, and is not learned from a window."""
    facts = json.loads((copy / "run.json").read_text())
    own = {"name": "age", "kind": "labels", "event": "@target", "table": "people.csv", "column": "age_group"}
    facts["recipe"] = {**facts["recipe"], "own_tasks": [own]}
    scores = [row for row in json.loads((copy / "scores.json").read_text()) if row["task"] == "churn" and row["scored_on"] == "unseen"]
    run = replace(open_run(copy), scores=[{**row, "task": "age"} for row in scores])
    said = page_module._who(replace(run, finished=replace(run.finished, facts=facts)))
    assert "learned what a table states of some users, and was tested on others" in said
    assert "the future" not in said


def test_page_headings_leave_out_no_level(page: Page) -> None:
    """A screen reader jumps from heading to heading, and a hole in their order reads as a missing part."""
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(deeper - level <= 1 for level, deeper in pairwise(levels))


def test_page_heads_every_column(page: Page) -> None:
    """A column without a name is read out as nothing."""
    empty = re.findall(r"<th scope=\"col\"[^>]*></th>", page.source)
    assert empty == []


def test_page_figures_are_those_of_the_scores(page: Page, finished: tuple[Path, Any]) -> None:
    """Every row of scores.json, found again in the chart of its task by its place."""
    scores = json.loads((finished[0] / "scores.json").read_text())
    drawn = [spec for spec in page.json("figures").values() if any("protocol" in trace.get("name", "") for trace in spec["data"])]
    tasks = list(dict.fromkeys(row["task"] for row in scores))
    assert len(drawn) == len(tasks)
    for task, spec in zip(tasks, drawn, strict=True):
        names = spec["layout"]["yaxis"]["ticktext"]
        for trace in spec["data"]:
            on = "protocol" if "protocol" in trace["name"] else "unseen"
            found = {names[round(y)]: x for x, y in zip(trace["x"], trace["y"], strict=True)}
            wanted = {
                row["profiles"]: round(row["score"], 4) for row in scores
                if (row["task"], row["scored_on"], row["metric"]) == (task, on, "auroc") and row["score"] is not None
            }  # fmt: skip
            assert found == wanted
            low = dict(zip(found, np.subtract(trace["x"], trace["error_x"]["arrayminus"]), strict=True))
            high = dict(zip(found, np.add(trace["x"], trace["error_x"]["array"]), strict=True))
            for row in scores:
                if (row["task"], row["scored_on"], row["metric"]) == (task, on, "auroc") and row["score"] is not None:
                    assert high[row["profiles"]] == pytest.approx(row["high"], abs=2e-4)
                    assert low[row["profiles"]] == pytest.approx(row["low"], abs=2e-4)


def test_figures_are_plotlys(page: Page) -> None:
    """Plotly leaves out in silence what it does not know; its own package checks every key and value."""
    go = pytest.importorskip("plotly.graph_objects")
    colors = {"@scale": "Viridis"}

    def plain(value: Any) -> Any:
        if isinstance(value, str) and value.startswith("@"):
            return colors.get(value, "#123456")
        if isinstance(value, dict):
            return {key: plain(one) for key, one in value.items()}
        return [plain(one) for one in value] if isinstance(value, list) else value

    for name, spec in page.json("figures").items():
        go.Figure(plain(spec))
        assert spec["data"], name


def test_write_shows_the_users_asked_for(copy: Path) -> None:
    """--users is how one looks at a complaint."""
    found = Page(write(copy, users=[user_id(8), user_id(3)]))
    said = re.findall(r"User (<b>u\d+</b></script>):", found.text)
    assert said == [user_id(8), user_id(3)]
    with pytest.raises(ProfilesError, match="have no profile"):
        write(copy, users=["nobody"])


def test_write_replaces_its_own_page_and_refuses_a_folder(copy: Path, tmp_path: Path) -> None:
    """Written again after an ablation; and a typing error must not cost the time of a report."""
    assert write(copy) == write(copy) == copy / "report.html"
    assert not list(copy.glob(".*-part"))
    (tmp_path / ".in the way.html.habitus-part").mkdir()
    with pytest.raises(StorageError, match=r"in the way.*What was complete before still is"):
        write(copy, tmp_path / "in the way.html")
    for place in (tmp_path, tmp_path / "no" / "folder.html"):
        with pytest.raises(InputError, match="name a file"):
            write(copy, place)


def test_write_without_plotly_names_the_cure(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra's install line, before any work is done."""
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'habitus\[report\]'"):
        write(copy)


def test_write_is_the_same_twice(copy: Path, tmp_path: Path) -> None:
    """Same run, same seed: same bytes, so that two reports can be compared."""
    assert write(copy, tmp_path / "one.html").read_bytes() == write(copy, tmp_path / "two.html").read_bytes()


def test_import_needs_no_plotly() -> None:
    """The package is imported where the extra is not installed."""
    code = "import sys; sys.modules['plotly'] = None; import habitus.report.page; assert 'umap' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

"""Recipes: every shipped one parses, and an error names the place and the settings there are."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from habitus.errors import RecipeError
from habitus.judge.tasks import Among, Task
from habitus.recipe import Recipe, recipe_text, shipped, tasks_of_file

ENCODER = '[[encoder]]\nname = "s"\nkind = "statistics"\n'


def test_recipe_shipped_ones_parse() -> None:
    """A recipe that does not parse is found by the first user otherwise."""
    assert {"quick", "paper-gru"} <= set(shipped())
    for name in shipped():
        recipe = Recipe.named(name)
        assert recipe.about, name
        assert recipe == Recipe.from_toml(recipe_text(name), source=name)


def test_recipe_paper_gru_has_the_papers_settings() -> None:
    """The figures of the paper's table, typed a second time."""
    members = {member.name: member for member in Recipe.named("paper-gru").members}
    rows = {
        "gru_day_event": (64, "concatenate", 128, 2, 0.5, 128, 30, 5),
        "gru_event_all": (512, "sum", 512, 3, 0.1, 128, 10, 3),
        "gru_week_all": (512, "sum", 512, 3, 0.1, 128, 10, 3),
        "gru_sku_text": (512, "sum", 512, 3, 0.1, 66, 10, 3),
    }
    assert list(members) == list(rows)
    for name, row in rows.items():
        s = members[name].settings
        assert (s.embedding, s.join, s.hidden, s.layers, s.dropout, s.max_length, s.epochs, s.patience) == row, name
        assert (s.batch_users, s.learning_rate, s.watched, s.tested, s.decoder_start, s.absent, s.crop) == (
            256, 1e-3, 0.01, 0.02, "stack", True, "newest",
        ), name  # fmt: skip
    assert members["gru_week_all"].settings.fields == ("week", "event_type", "@category", "@value", "@item", "url?")
    assert [members[name].fusion.reduce for name in rows] == [None, 64, 64, 64]


def test_recipe_paper_has_the_papers_settings() -> None:
    """The twelve members of the paper, its settings typed a second time."""
    members = {member.name: member for member in Recipe.named("paper").members}
    assert list(members) == [
        "gru_day_event", "gru_event_all", "gru_week_all", "gru_sku_text", "als_category", "als_url", "next_sku", "next_url", "text_events",
        "text_search", "hybrid", "statistics",
    ]  # fmt: skip
    assert [one for one in Recipe.named("paper-gru").members if members[one.name] != one] == []
    settings = {name: member.settings for name, member in members.items()}
    assert [(settings[name].factors, dict(settings[name].weights)) for name in ("als_category", "als_url")] == [
        (64, {"@target": 3.0, "add_to_cart?": 1.0}), (64, {}),
    ]  # fmt: skip
    sku, url = settings["next_sku"], settings["next_url"]
    assert [(s.width, s.layers, s.heads, s.batch_users, s.max_length, s.epochs, s.patience) for s in (sku, url)] == [
        (128, 4, 4, 512, 64, 10, 3), (192, 6, 4, 32, 256, 10, 3),
    ]  # fmt: skip
    assert (url.negatives, url.sampling, sku.crop, "@item" in sku.predict) == (10_000, "uniform", "random", True)
    assert [(settings[name].newest, members[name].fusion.reduce) for name in ("text_events", "text_search")] == [(64, 128), (90, 64)]
    hybrid = settings["hybrid"]
    assert (hybrid.components, hybrid.epochs, hybrid.loss) == (64, 30, "warp")
    assert dict(hybrid.weights) == {"@target": 1.0, "add_to_cart?": 0.7, "remove_from_cart?": -0.5}
    assert {name: member.fusion.scale for name, member in members.items()} == dict.fromkeys(members, "unit") | {"statistics": "quantile"}


def test_recipe_paper_small_has_the_papers_members() -> None:
    """The small recipe would leave out a member, and nobody would miss it."""
    small, full = (Recipe.named(name).members for name in ("paper-small", "paper"))
    assert [(one.name, one.kind) for one in small[: len(full)]] == [(one.name, one.kind) for one in full]


WRONG = [
    ("", "no encoder"),
    ("x = 1\n" + ENCODER, "there is no setting 'x'; there are about, encoder, judge, max_dim, split"),
    ("max_dim = 0\n" + ENCODER, "max_dim is a whole number of columns, at least 1; received 0"),
    ('[[encoder]]\nname = "a"\n', "encoder 1: `kind` is missing"),
    ('[[encoder]]\nkind = "magic"\n', "there is no kind 'magic'; there are .*gru_autoencoder, .*statistics"),
    (ENCODER + "hiden = 3\n", r"encoder 1 \(s\): there is no setting 'hiden'; there are "),
    (ENCODER + 'windows = "seven"\n', r"encoder 1 \(s\): windows"),
    ('[[encoder]]\nkind = "gru_autoencoder"\nhidden = 0\n', r"encoder 1 \(gru_autoencoder\): hidden: must be .* at least 1"),
    ('[[encoder]]\nkind = "gru_autoencoder"\nepochs = "many"\n', r"encoder 1 \(gru_autoencoder\): epochs"),
    ('[[encoder]]\nname = "../x"\nkind = "statistics"\n', "is no block's name"),
    (ENCODER + ENCODER, "two encoders are named 's'"),
    (ENCODER + '[encoder.fusion]\nscale = "big"\n', r"encoder 1 \(s\)\.fusion: scale"),
    (ENCODER + "[encoder.fusion]\nreduce = 0\n", "at least 1, or a share"),
    (ENCODER + '[split]\nwindow = "2 weeks"\n', "window: '2 weeks' is no whole number of days"),
    (ENCODER + '[judge]\nprobe = "oracle"\n', "judge: probe"),
    (ENCODER + "[judge]\nseeds = []\n", "judge: seeds: different whole numbers from 0 up"),
    (ENCODER + "[judge]\nseeds = [-1]\n", "judge: seeds: different whole numbers from 0 up"),
    ('[[encoder]]\nname = "random"\nkind = "statistics"\n', "the name 'random' is taken"),
    ("encoder = 3", "no encoder"),
    ("not toml at all", "not a TOML file"),
]


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_recipe_error_names_the_place(text: str, message: str) -> None:
    """An error that does not say where leaves people reading the whole file."""
    with pytest.raises(RecipeError, match=message):
        Recipe.from_toml(text, source="mine.toml")


def test_recipe_just_inside_is_accepted() -> None:
    """The other side of the limits above."""
    recipe = Recipe.from_toml(ENCODER + '[encoder.fusion]\nreduce = 1\n[split]\nwindow = "1d"\n', source="mine.toml")
    assert (recipe.name, recipe.split.days, recipe.members[0].fusion.reduce) == ("mine", 1, 1)


def test_recipe_unknown_name_lists_the_shipped() -> None:
    """The first typo a newcomer makes."""
    with pytest.raises(RecipeError, match=r"'quikc' is neither a shipped recipe nor a .toml file that is there; there are .*quick"):
        Recipe.named("quikc")


OWN_TASKS = """
[[task]]
name = "spend"
kind = "value"
field = "@value"
among = { event = "cart", within = "14d", at_least = 2 }

[[task]]
name = "age"
kind = "labels"
path = "people.csv"
column = "age"
"""
COUNTS = '[[encoder]]\nkind = "statistics"\n'


def test_own_tasks_follow_those_that_the_judge_names() -> None:
    """A task that one has defined is judged, whether it is named again or not, and its file lies beside the recipe."""
    recipe = Recipe.from_toml(COUNTS + '[judge]\ntasks = ["age", "churn"]\n' + OWN_TASKS, base="there")
    assert [task.name for task in recipe.tasks] == ["age", "churn", "spend"]
    assert recipe.tasks[0].path == Path("there/people.csv")
    assert recipe.tasks[2].among == Among("cart", at_least=2, within="14d")
    assert json.loads(json.dumps(recipe.as_dict()))["own_tasks"][1]["path"] == "there/people.csv"


def test_another_judge_takes_the_place_of_the_recipes() -> None:
    """What the command line says goes before what the recipe says; what it does not say stays."""
    recipe = Recipe.from_toml(COUNTS + "[judge]\nseeds = [3, 4]\n" + OWN_TASKS)
    again = recipe.judged_by(tasks=["conversion", "age"], probe="gbdt")
    assert [task.name for task in again.tasks] == ["conversion", "age"]
    assert (again.judge.probe, again.judge.seeds) == ("gbdt", (3, 4))
    other = Task("spend", "presence")
    assert recipe.judged_by(tasks=["spend"], own_tasks=[other]).tasks == (other,)
    assert recipe.judged_by(tasks=["spend", "spend"], own_tasks=[other]).own_tasks == (other,)  # or `from_dict` would find it there twice
    assert recipe.judged_by(seeds=[5]).judge.seeds == (5,) and recipe.judged_by().tasks == recipe.tasks


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[judge]\ntasks = ["chrun"]\n', "r: judge: tasks: there is no task 'chrun'; known tasks are churn"),
        ('[[task]]\nname = "a"\n', r"r: task 1 \(a\): `kind` is missing"),
        ('[[task]]\nkind = "value"\n', "r: task 1: `name` is missing"),
        ('[[task]]\nname = "a"\nkind = "sum"\n', r"r: task 1 \(a\): kind: one of .* is needed"),
        ('[[task]]\nname = "a"\nkind = "absence"\ncolour = 1\n', r"task 1 \(a\): there is no setting 'colour'"),
        ('[[task]]\nname = "a"\nkind = "absence"\n[task.among]\nfor = 1\n', r"task 1 \(a\).among: there is no setting 'for'"),
        ('[[task]]\nname = "churn"\nkind = "absence"\n', "the name 'churn' is one of the challenge's tasks"),
        ('[[task]]\nname = "a"\nkind = "absence"\n' * 2, "the name 'a' is there twice"),
        ("task = 3\n", "r: task: expected tables"),
    ],
)
def test_tasks_that_cannot_be_asked_are_refused(text: str, message: str) -> None:
    """A slip in a task must name the recipe, the task and the setting before anything is trained."""
    with pytest.raises(RecipeError, match=message):
        Recipe.from_toml(text + COUNTS if text.startswith("task =") else COUNTS + text, source="r")


def test_a_file_of_tasks_alone(tmp_path: Path) -> None:
    """Profiles are judged by one's own questions without a recipe."""
    (tmp_path / "t.toml").write_text(OWN_TASKS)
    assert [task.name for task in tasks_of_file(tmp_path / "t.toml")] == ["spend", "age"]
    (tmp_path / "none.toml").write_text("")
    for name, message in (("none.toml", "no task; it has at least one"), ("gone.toml", "cannot be read .*; name a TOML file")):
        with pytest.raises(RecipeError, match=message):
            tasks_of_file(tmp_path / name)


MANY_TASKS = """
[[task]]
name = "returns"
kind = "presence"
event = "visit"
among = { event = "buy", at_least = 2, within = "30d" }
[[task]]
name = "age"
kind = "labels"
path = "people.csv"
user = "who"
column = "age"
read_as = "number"
[[task]]
name = "spend"
kind = "value"
field = "@value"
log1p = true
"""


def test_recipe_from_dict_is_the_inverse_of_as_dict() -> None:
    """A run is made again from its run.json: a setting lost on the way would make another run."""
    for name in shipped():
        recipe = Recipe.named(name)
        assert Recipe.from_dict(json.loads(json.dumps(recipe.as_dict()))) == recipe, name
    text = ENCODER + "[encoder.fusion]\nreduce = 0.9\nknown = true\n[judge]\nseeds = [3, 1]\n" + MANY_TASKS
    own = Recipe.from_toml(text, source="mine.toml", base="/somewhere")
    member = replace(own.members[0], lacks={"url": "there is no event visit"})
    for recipe in (own, replace(own, members=(member,), max_dim=7, about="short")):
        again = Recipe.from_dict(json.loads(json.dumps(recipe.as_dict())))
        assert again == recipe
        assert (again.own_tasks[1].path, again.own_tasks[0].among) == (Path("/somewhere/people.csv"), own.own_tasks[0].among)
        assert isinstance(again.members[0].fusion.reduce, float)
    older = {name: value for name, value in Recipe.named("quick").as_dict().items() if name != "own_tasks"}
    assert Recipe.from_dict(older) == Recipe.named("quick")  # runs from before there were any


def test_recipe_from_dict_names_what_is_wrong() -> None:
    """A run.json that somebody edited, or of another version, must not end in a traceback."""
    sound = Recipe.from_toml(ENCODER, source="mine.toml").as_dict()
    wrong = [
        ({**sound, "colour": 1}, "run: there is no setting 'colour'"),
        ({name: value for name, value in sound.items() if name != "judge"}, "run: no recipe as Habitus writes it"),
        ({**sound, "members": [{**sound["members"][0], "settings": {"hiden": 3}}]}, "run: s: there is no setting 'hiden'"),
        ({**sound, "members": [{**sound["members"][0], "kind": "magic"}]}, "there is no kind 'magic'"),
    ]
    for table, message in wrong:
        with pytest.raises(RecipeError, match=message):
            Recipe.from_dict(table, source="run")

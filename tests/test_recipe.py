"""Recipes: every shipped one parses, and an error names the place and the settings there are."""

import pytest

from habitus.errors import RecipeError
from habitus.recipe import Recipe, recipe_text, shipped

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
    ("not toml at all", "not TOML"),
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
    with pytest.raises(RecipeError, match=r"'quikc' is neither a shipped recipe \(.*quick.*\) nor a .toml file"):
        Recipe.named("quikc")

"""Users in the page: the map's place, and a few users seen closely."""

from collections.abc import Sequence

import numpy as np

from habitus.report.markup import Html, count, folded, join, minute, number, section, table, tag
from habitus.report.users import Choice, Closely, Step, UserMap


def user_map(found: UserMap) -> Html:
    """The map's place in the page, and what one may color it by."""
    how = (
        "the two directions in which profiles differ most (principal components; in "
        "brackets their share of all differences)" if found.how == "pca"
        else "UMAP, which keeps alike users together and says little of how far apart others are"
    )  # fmt: skip
    lead = f"Every dot is a user; users with alike profiles lie close together. The plane is {how}."
    shown = (
        f"All {count(found.known)} users are shown" if len(found.users) == found.known
        else f"{count(len(found.users))} of {count(found.known)} users are shown, drawn at random"
    ) + (f"; of {count(found.unknown)} more nothing is known." if found.unknown else ".")  # fmt: skip
    options = [tag("option", one.title, value=str(i)) for i, one in enumerate(found.choices)]
    select = tag("p", tag("label", "Color by ", for_="map-choice"), tag("select", *options, id="map-choice"))
    alt = f"A map of {count(len(found.users))} users. The tables below say how they spread over every choice of color."
    place = tag("div", id="map-chart", class_="chart", role="img", aria_label=alt, style="min-height:420px")
    caption = tag("figcaption", f"{shown} Touch or point at a dot to see who it is; other kinds of users have other symbols.")
    return section(
        "map", "A map of the users", lead, select, tag("figure", place, caption, folded("As tables", *map(_choice, found.choices)))
    )


def _choice(one: Choice) -> Html:
    if one.names:
        users = np.bincount(one.values, minlength=len(one.names)).tolist()
        return table([one.title, "users"], [[name, count(n)] for name, n in zip(one.names, users, strict=True)], one.title, (1,))
    known = one.values[one.values >= 0]
    marks = (0, 25, 50, 75, 100)
    values = np.percentile(known, marks) if len(known) else [float("nan")] * 5
    names = ("least", "a quarter below", "half below", "three quarters below", "most")
    return table([one.title, "value"], [[n, number(float(v), 0)] for n, v in zip(names, values, strict=True)], one.title, (1,))


def users(seen: Sequence[Closely]) -> Html:
    """Users one by one: what they did, what is remembered, who is alike."""
    memory = any(one.memory for one in seen)
    lead = (
        "A few users, unless others were asked for from the least to the most active: the users whose profiles are most alike, and their "
        "newest events" + (", beside what can be rebuilt of these from the vector alone (✓ right, ✗ wrong)." if memory else ".")
    )
    return section("users", "Some users, closely", lead, *(_user(one, open_=i == 0) for i, one in enumerate(seen)))


def _user(one: Closely, open_: bool) -> Html:
    near = table(
        ["user", "likeness", "in a line"], [[other, number(cosine), line] for other, cosine, line in one.neighbours],
        "Most alike (1: the same direction; 0: nothing in common)", (1,),
    )  # fmt: skip
    shown = (
        f"The newest {len(one.steps)} of {count(one.events)} events" if one.events > len(one.steps) else f"All {count(one.events)} events"
    )
    memory = f", beside what {one.memory} rebuilds" if one.memory else ""
    text = tag("p", f"{shown}{memory}, the newest first.", class_="small")
    head = tag("tr", *(tag("th", text, scope="col") for text in _columns(one)))
    body = [_step(step, one) for step in reversed(one.steps)]
    steps = tag("table", tag("thead", head), tag("tbody", *body), class_="steps")
    scrolled = tag("div", steps, class_="scroll tall", tabindex="0", role="region", aria_label=f"Events of user {one.user}")
    head_line = join(tag("b", f"User {one.user}"), f": {one.line}")
    inside = folded(head_line, tag("h3", "Most alike"), near, tag("h3", "What happened"), text, _strip(one), scrolled, open_=open_)
    return tag("article", inside, class_="user")


def _columns(one: Closely) -> list[str]:
    return ["When (UTC)", "What happened", *(["What the vector remembers"] if one.memory else [])]


def _strip(one: Closely) -> Html:
    """A square per event and field, from the oldest to the newest: filled if the vector has it right."""
    asked = [step.remembered for step in one.steps if step.remembered is not None]
    if not asked:
        return Html("")
    rows = []
    for name in asked[0]:
        right = [known[name][1] for known in asked]
        squares = [tag("i", class_="on" if hit else None, title="right" if hit else "wrong") for hit in right]
        drawn = tag("span", *squares, class_="squares", role="img", aria_label=f"{sum(right)} of {len(right)} right")
        rows.append([name, drawn, f"{sum(right)} of {len(right)}"])
    return table(["field", "oldest to newest (filled: right)", "right"], rows, "What survives of these events", (2,))


def _step(step: Step, one: Closely) -> Html:
    columns = _columns(one)
    fields = [tag("li", tag("span", f"{name} "), value) for name, value in step.fields.items() if value != "–"]
    cells = [
        tag("th", minute(step.time), scope="row"),
        tag("td", tag("b", step.kind), tag("ul", *fields, class_="pairs"), data_label=columns[1]),
    ]
    if one.memory:
        if step.remembered is None:
            told: object = tag("span", "too long ago for this encoder", class_="small")
        else:
            told = tag("ul", *(_recalled(name, value, right) for name, (value, right) in step.remembered.items()), class_="pairs")
        cells.append(tag("td", told, data_label=columns[2]))
    return tag("tr", *cells)


def _recalled(name: str, value: str, right: bool) -> Html:
    sign = tag("span", "✓" if right else "✗", class_="sign " + ("hit" if right else "miss"), aria_hidden="true")
    said = tag("span", "right: " if right else "wrong: ", class_="unseen")
    return tag("li", sign, said, tag("span", f" {name} "), value)

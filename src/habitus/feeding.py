"""What of a recipe a log can feed: asked before anything is read, and once more when it is known what happened before the cut-off.

What a log lacks costs the members that need it, never the run. Knows recipes and what is in a log, not how anything is fitted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from habitus.encoders.base import encoder_class
from habitus.errors import RecipeError
from habitus.log.description import EventLog
from habitus.log.time_fields import TIME_FIELDS
from habitus.log.timelines import EVENT_TYPE, FIRST, Timelines
from habitus.recipe import Member, Recipe
from habitus.toml import there_are

MAY_LACK = "?"  # ends a name in a recipe that a log may lack


def feedable(recipe: Recipe, log: EventLog, only: Sequence[str] = ()) -> tuple[list[Member], dict[str, str]]:
    """The members that the log can feed, less what it lacks (`Member.lacks`), and the reason for each of the others.

    A field that this kind of log can have and this one lacks (a table is not there) is dropped, and so is a field or an event type
    that the recipe writes with a question mark ("url?"); any other that is unknown is an error. Raises RecipeError for that, with
    those there are, if no member is left, or if one of `only` is no member or is left out.
    """
    members: list[Member] = []
    left_out: dict[str, str] = {}
    for member in recipe.members:
        _sort_out(member, *_fed(member, log, f"recipe {recipe.name!r}, encoder {member.name!r}"), members, left_out)
    if not members:
        raise RecipeError(nothing_fed(recipe.name, left_out))
    for name in only:
        if name in left_out:
            raise RecipeError(f"only: the log cannot feed {name}: {left_out[name]}.")
        if name not in (names := [member.name for member in members]):
            raise RecipeError(f"only: the recipe has no member {name}; it has {', '.join(names)}.")
    return members, left_out


def fed_by_events(
    recipe: str, members: Sequence[Member], left_out: Mapping[str, str], timelines: Timelines
) -> tuple[list[Member], dict[str, str]]:  # fmt: skip
    """The same once more, less the event types of which no event, and the fields of which no value, is in the timelines.

    Raises RecipeError, naming the `recipe`, if no member is left.
    """
    empty = {name: f"{name} has no value before the cut-off" for name in timelines.fields if _is_empty(timelines, name)}
    kinds = {name: field.kind for name, field in timelines.fields.items()}
    kept: list[Member] = []
    out = dict(left_out)
    for member in members:
        kind = encoder_class(member.kind)
        named = kind.event_types_named(member.settings)
        absent = {name: f"there is no event {name} before the cut-off" for name in named if name not in timelines.event_types}
        _sort_out(member, *kind.fed_by(member.settings, kinds, empty, absent), _dropped(member, empty, absent), kept, out)
    if not kept:
        raise RecipeError(nothing_fed(recipe, out))
    return kept, out


def nothing_fed(recipe: str, left_out: Mapping[str, str]) -> str:
    """What to say where no member is left."""
    return f"recipe {recipe!r}: the log can feed none of its encoders ({'; '.join(f'{n}: {r}' for n, r in left_out.items())})."


def _sort_out(
    member: Member, settings: Any | None, reason: str, lacks: Mapping[str, str], members: list[Member], left_out: dict[str, str]
) -> None:  # fmt: skip
    if settings is None:
        left_out[member.name] = reason
    else:
        members.append(replace(member, settings=settings, lacks={**member.lacks, **lacks}))


def _fed(member: Member, log: EventLog, where: str) -> tuple[Any | None, str, dict[str, str]]:
    """The member's settings with the log's own names, less what it lacks, or None and the reason; and what it lacks."""
    kind = encoder_class(member.kind)
    roles, unnamed = _roles(log)
    missing = {"field": dict(unnamed), "event type": dict(unnamed)}  # apart: an event type may be called like a field
    known = {"field": [EVENT_TYPE, *log.field_names, *TIME_FIELDS], "event type": list(log.events)}
    named = {"field": kind.fields_named(member.settings), "event type": kind.event_types_named(member.settings)}
    real = {name: roles.get(bare := name.removesuffix(MAY_LACK), bare) for names in named.values() for name in names}
    unknown = [(what, name) for what, names in named.items() for name in names if real[name] not in (*known[what], *missing[what])]
    for what, name in unknown:
        missing[what][real[name]] = f"the log has no {what} {real[name]!r}"
        if not name.endswith(MAY_LACK):
            raise RecipeError(f"{where}: {missing[what][real[name]]}; {there_are(real[name], known[what])}.")
    own = replace(member, settings=kind.renamed(member.settings, real))
    kinds = {name: log.spec(name).kind for name in log.field_names}
    lacks = missing["field"], missing["event type"]
    return *kind.fed_by(own.settings, kinds, *lacks), _dropped(own, *lacks)


def _dropped(member: Member, missing: Mapping[str, str], absent: Mapping[str, str]) -> dict[str, str]:
    """What the member names and does not get, with the reason."""
    kind = encoder_class(member.kind)
    fields, events = kind.fields_named(member.settings), kind.event_types_named(member.settings)
    gone = [(name, missing) for name in fields if name in missing] + [(name, absent) for name in events if name in absent]
    return {name: why[name] for name, why in gone}


def _roles(log: EventLog) -> tuple[dict[str, str], dict[str, str]]:
    """What "@item" and its like stand for in this log; and the fields that it lacks, roles that it does not name among them."""
    named = {f"@{role}": name for role, name in log.roles.model_dump().items()}
    unnamed = {role: f"the log names no {role[1:]} under [roles]" for role, name in named.items() if name is None}
    return {role: name for role, name in named.items() if name is not None}, {**unnamed, **log.missing}


def _is_empty(timelines: Timelines, name: str) -> bool:
    field = timelines.fields[name]
    if field.kind in ("codes", "text"):
        return not len(timelines.dictionaries.get(name, ()))
    return field.size <= FIRST

"""Habitus: from event logs to universal behavioural profiles, one vector per user.

The names below are imported when first used, so that `import habitus` loads neither torch nor Polars.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from habitus.errors import HabitusError
    from habitus.log.description import EventLog
    from habitus.log.sources import open_log
    from habitus.model import Model
    from habitus.pipeline import encode, evaluate, fit, run
    from habitus.profiles import Profiles
    from habitus.recipe import Recipe

_PLACES = {
    "EventLog": "habitus.log.description",
    "HabitusError": "habitus.errors",
    "Model": "habitus.model",
    "Profiles": "habitus.profiles",
    "Recipe": "habitus.recipe",
    "encode": "habitus.pipeline",
    "evaluate": "habitus.pipeline",
    "fit": "habitus.pipeline",
    "open_log": "habitus.log.sources",
    "run": "habitus.pipeline",
}

__all__ = ["EventLog", "HabitusError", "Model", "Profiles", "Recipe", "encode", "evaluate", "fit", "open_log", "run"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'habitus' has no attribute {name!r}")
    value = getattr(import_module(_PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

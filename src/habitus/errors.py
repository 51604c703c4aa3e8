"""Everything Habitus raises on purpose, and checks of settings that raise it. A message is one paragraph: what, where, what was
received, what to do."""

from datetime import date


class HabitusError(Exception):
    """Base of all errors that Habitus raises on purpose; `exit_status` is what the command line ends with."""

    exit_status = 1


class InputError(HabitusError):
    """The call, or what was given to it, is wrong; doing it again without a change fails again."""

    exit_status = 2


class LogError(InputError):
    """The log's description or one of its tables cannot be used."""


class NothingToLearnError(LogError):
    """The log can be used, but has nothing that this one encoder could learn from."""


class RecipeError(InputError):
    """The recipe names something unknown, or a setting is outside its range."""


class ArtefactError(InputError):
    """A folder is no complete artefact of this format, or what it holds is damaged."""


class OutputExistsError(InputError):
    """The folder to be written exists already, or somebody else is writing it at this moment; nothing was touched."""


class StorageError(HabitusError):
    """The file system refused: no room left, a folder that may not be written to, a file that went while work went on."""


class ProfilesError(InputError):
    """Profiles cannot be put together, looked up or judged as asked."""


class NotFiniteError(ProfilesError):
    """Vectors hold NaN or infinity; the message has the block, the columns, how many users and one of them."""

    exit_status = 1


class MissingExtraError(InputError):
    """An optional dependency is not installed; the message has the `pip install` line."""


class LedgerError(HabitusError):
    """Counts that must agree do not: rows, users or events were lost or made on the way, or the log changed meanwhile."""


class TrainingError(HabitusError):
    """Learning went wrong: the loss is not finite, or there is nothing to learn from."""


LARGEST_SEED = 2**32 - 1  # that every library takes


def shown(value: object, most: int = 120) -> str:
    """A value that was received, as a message shows it: cut where it would drown the rest."""
    text = str(value) if isinstance(value, date) else repr(value)
    return text if len(text) <= most else text[: most - 1] + "…"


def is_whole(value: object) -> bool:
    """Whether a setting is a whole number (true and false are none)."""
    return isinstance(value, int) and not isinstance(value, bool)


def require(holds: bool, name: str, rule: str, received: object) -> None:
    """Raises RecipeError, naming the setting, the rule and what was received, unless the rule `holds`."""
    if not holds:
        raise RecipeError(f"{name}: must be {rule}, and {shown(received)} was given; change it in the recipe.")


def require_one(received: str, name: str, known: tuple[str, ...]) -> None:
    """Raises RecipeError unless `received` is one of the `known` values of the setting `name`."""
    require(received in known, name, "one of " + ", ".join(map(repr, known)), received)

"""Everything Habitus raises on purpose. A message is one paragraph: what, where, what was received, what to do."""


class HabitusError(Exception):
    """Base of all errors that Habitus raises on purpose; `exit_status` is what the command line ends with."""

    exit_status = 1


class InputError(HabitusError):
    """The call, or what was given to it, is wrong; doing it again without a change fails again."""

    exit_status = 2


class LogError(InputError):
    """The log's description or one of its tables cannot be used."""


class RecipeError(InputError):
    """The recipe names something unknown, or a setting is outside its range."""


class ArtefactError(InputError):
    """A folder is no complete artefact of this format, or what it holds is damaged."""


class OutputExistsError(InputError):
    """The folder to be written exists already; nothing was touched."""


class ProfilesError(InputError):
    """Profiles cannot be put together, looked up or judged as asked."""


class MissingExtraError(InputError):
    """An optional dependency is not installed; the message has the `pip install` line."""


class TrainingError(HabitusError):
    """Learning went wrong: the loss is not finite, or there is nothing to learn from."""

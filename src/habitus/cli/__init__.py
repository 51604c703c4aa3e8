"""The command line: the only place that prints. Commands are thin; what they do is in `pipeline`."""

import sys

from habitus.errors import HabitusError
from habitus.folders import refused
from habitus.nn import processes

_INTERRUPTED = 130


def main() -> None:
    """Run the command line. Errors raised on purpose end as one paragraph on stderr and their exit status."""
    from habitus.cli.app import app

    try:
        if processes.several():  # started by torchrun: the command runs once
            from habitus.following import join

            join()
        app()
    except HabitusError as error:
        sys.stderr.write(f"habitus: {error}\n")
        raise SystemExit(error.exit_status) from None
    except OSError as error:  # a full disk, a folder that may not be written to, where no `folders.holding` has said so already
        sys.stderr.write(f"habitus: {refused(error)}\n")
        raise SystemExit(1) from None
    except (KeyboardInterrupt, SystemExit) as ended:  # Typer makes an exit with status 130 of the former
        if isinstance(ended, SystemExit) and ended.code != _INTERRUPTED:
            raise
        sys.stderr.write("habitus: interrupted; `run` goes on with --resume, `evaluate --cutoffs` when it is called again.\n")
        raise SystemExit(_INTERRUPTED) from None

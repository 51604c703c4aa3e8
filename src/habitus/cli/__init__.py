"""The command line: the only place that prints. Commands are thin; what they do is in `pipeline`."""

import sys
from contextlib import suppress
from io import TextIOWrapper
from typing import Any

from habitus.errors import HabitusError
from habitus.folders import refused
from habitus.nn import processes

_INTERRUPTED = 130
_NO_MEMORY = (
    "habitus: memory ran out. What was complete before still is; give the process more, or change the recipe (`run --dry-run` says "
    "which stage needs how much), and do it again (`run` goes on with --resume).\n"
)


def main() -> None:
    """Run the command line. Errors raised on purpose end as one paragraph on stderr and their exit status."""
    from typer import BadParameter

    from habitus.cli.app import app
    from habitus.cli.terminal import printable

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            with suppress(OSError):  # a stream that its opener has wrapped otherwise stays as it is
                stream.reconfigure(errors="replace")  # a log's name or a ▲ that the terminal's encoding lacks is no reason to end
    usage: Any = BadParameter.__base__  # Typer brings a Click of its own, whose errors it does not name
    try:
        if processes.several():  # started by torchrun: the command runs once
            from habitus.following import join

            join()
        status = app(prog_name="habitus", standalone_mode=False)  # Typer makes an exit with status 130 of an interruption
    except HabitusError as error:
        sys.stderr.write(printable(f"habitus: {error}\n"))
        raise SystemExit(error.exit_status) from None
    except usage as error:
        sys.stderr.write(printable(_usage(error)))
        raise SystemExit(error.exit_code) from None
    except OSError as error:  # a full disk, a folder that may not be written to, where no `folders.holding` has said so already
        sys.stderr.write(printable(f"habitus: {refused(error)}\n"))
        raise SystemExit(1) from None
    except MemoryError:  # where the system refuses memory (`ulimit -v`), rather than end the process
        sys.stderr.write(_NO_MEMORY)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        status = _INTERRUPTED
    if status == _INTERRUPTED:
        sys.stderr.write("habitus: interrupted; `run` goes on with --resume, `evaluate --cutoffs` and `forget` when called again.\n")
    raise SystemExit(status or 0)


def _usage(error: Any) -> str:
    """What is wrong with a call, as one paragraph; the help itself for a call without any word."""
    found = error.__cause__
    if hasattr(found, "errors"):  # Pydantic's, which Typer repeats without what was received
        from habitus.toml import explain

        error.message = explain(found)
    message = str(error.format_message()).strip().replace("Value error, ", "")
    if message.count("\n") > 1:  # the help, for a call without any word
        return message + "\n"
    name = "habitus" if error.ctx is None else error.ctx.command_path
    return f"{name}: {' '.join(message.split()).rstrip('.')}; `{name} --help` says what there is.\n"

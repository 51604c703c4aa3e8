"""What `habitus forget` was asked, and what it did, in words and tables."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from habitus.cli.show import console_of

if TYPE_CHECKING:
    from habitus.forgetting import Forgotten

_FILES = (".npy", ".parquet", ".csv", ".txt")


def asked(users: str) -> Path | list[str]:
    """USERS as it was meant: a file, or ids separated by commas. Raises InputError for a folder, a pipe, or a file that is not there."""
    from habitus.errors import InputError, shown
    from habitus.log.users import whole

    file = Path(users)
    there = _is_there(file)
    if there and file.is_file():
        if whole(users):
            raise InputError(
                f"users: there is a file called {users} here, and it may be an id, too; write ./{users} for the file, or go elsewhere."
            )
        return file
    if users and (there or file.suffix in _FILES):
        what = "is a folder" if file.is_dir() else "is no regular file" if there else "is not there"
        raise InputError(f"users: {shown(users)} {what}; name a file of ids, or the ids themselves, separated by commas, before --in.")
    ids = [one.strip() for one in users.split(",") if one.strip()]
    if not ids:
        raise InputError(f"users: no id is named in {users!r}; name a file of ids, or ids separated by commas.")
    return ids


def _is_there(file: Path) -> bool:
    """Whether there is such a file or folder; none can have a name as long as a list of ids is."""
    try:
        return file.exists()
    except (OSError, ValueError):
        return False


def forgotten(found: "Forgotten", file: Path | None = None) -> None:
    """Folder by folder what was rewritten, which models need refitting, and what is left to the caller; `file`: where the ids are from."""
    console = console_of()
    will = found.dry_run
    if file is not None:
        console.print(f"{found.asked:,} ids from the file {file}.", soft_wrap=True)
    if will:
        console.print("Nothing was changed; this is what would be done.")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("to be rewritten" if will else "rewritten", "what", "users removed"):
        table.add_column(column, justify="right" if column.startswith("users") else "left", overflow="fold")
    for one in found.rewritten:
        table.add_row(one.path, one.kind, f"{one.users:,}")
    for path, why in found.removed:
        table.add_row(path, f"{'to be removed' if will else 'removed'}: {why}", "")
    if table.row_count:
        console.print(table)
    else:
        console.print("No data of these users is there.")
    if found.rewritten and not will:
        console.print("All of it was read back: these users are gone, and everyone else's rows are what they were.", soft_wrap=True)
    for model in found.models:
        console.print(_of_model(model.path, model.users, model.of), soft_wrap=True)
    for path, number in found.named_in:
        console.print(
            f"{path}: has {number:,} of the ids in plain text still, as a value of somebody's events or in a setting; look at it."
        )
    if 0 < found.searched < found.asked:
        console.print(f"{found.searched:,} of the {found.asked:,} ids were looked for in plain text, too.", soft_wrap=True)
    for path, why in found.untouched:
        console.print(f"Not touched: {path}: {why}.", soft_wrap=True)
    if found.missing:
        shown = f"{', '.join(found.missing_first)}{', …' if found.missing > len(found.missing_first) else ''}"
        console.print(f"{found.missing:,} of {found.asked:,} ids were found nowhere: {shown}.", soft_wrap=True)
    console.print(
        "Not looked at: the log itself, where these users still are until you delete them (a run made anew brings them back); files of "
        "rejected rows, exports, reports and profiles written elsewhere, copies and backups.",
        soft_wrap=True,
    )


def _of_model(path: str, users: int | None, of: int | None) -> str:
    if users is None:
        return f"{path}: cannot tell whom it was trained with, it keeps no hashes of its users; refit it if these were among them."
    return (
        f"{path}: was trained with {users:,} of these users (of {of:,} in all), and cannot unlearn them; refit it from a log without them. "
        "Its vocabulary has the values that only they used, too."
    )

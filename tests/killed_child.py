"""A process that does what it is told in copies of itself, and has them killed half-way; started by `killed_helper`.

What takes long to import is imported once, before there is a thread, so that a copy (fork) costs little. A copy counts what Python
does to the file system (audit events) and kills itself with SIGKILL before the n-th; it can also be killed from outside after some time.
"""

import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate", "shutil.rmtree", "shutil.copytree"}
_MODULES = (
    "torch", "lightning_fabric", "implicit.als", "sklearn.decomposition", "habitus.cli.app", "habitus.pipeline",
    "habitus.encoders.gru_autoencoder", "habitus.encoders.next_event", "habitus.encoders.als", "habitus.encoders.statistics",
    "habitus.encoders.hybrid_factors", "habitus.nn.training", "habitus.cli.show", "habitus.cli.scores",
)  # fmt: skip


class Count:
    """What has been done to the file system below `root`; at the n-th, counted from one that has `after` in it, the process dies,
    or what is called `gone` does."""

    def __init__(self, root: str, until: int | None = None, notes: str | None = None, after: str = "", gone: str | None = None) -> None:
        self.root, self.until, self.done, self.after, self.gone = root, until, 0, after, gone
        self.notes = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) if notes else None

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        opened = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        within = event in ("os.remove", "os.rmdir") and arguments[-1] != -1  # by `shutil.rmtree`, which names what is in an open folder
        if not (opened or event in _CHANGES) or not (within or str(arguments[0]).startswith(self.root)):
            return
        line = f"{event} {str(arguments[0]).removeprefix(self.root)}\n"
        self.done += bool(self.done or self.after in line)
        if self.notes is not None:
            os.write(self.notes, line.encode())
        if self.done == self.until and self.gone is None:
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.done == self.until:
            subprocess.run(["rm", "-rf", self.gone], check=True)


def work(job: dict[str, Any]) -> None:
    """Be `habitus WORDS`, to the end or until killed."""
    if job.get("largest_file"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["largest_file"], job["largest_file"]))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for name, value in job.get("constants", {}).items():
        module, _, constant = name.rpartition(".")
        setattr(importlib.import_module(module), constant, value)
    sys.addaudithook(Count(job["root"], **{name: job[name] for name in ("until", "notes", "after", "gone") if name in job}))
    sys.argv = ["habitus", *job["words"]]
    from habitus.cli import main

    main()


def forked(job: dict[str, Any]) -> int:
    """The exit status of a copy that does the job; as `subprocess` has it, minus the signal where one has ended it."""
    sys.stdout.flush()
    said, words = os.pipe()
    copy = os.fork()
    if not copy:
        os.dup2(words, 1), os.dup2(words, 2)
        status = 70
        try:
            work(job)
            status = 0
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
        except BaseException:  # what a user would see as a traceback
            traceback.print_exc()
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(status)  # what the copy has inherited is not its own to put away
    if job.get("seconds") is not None:
        time.sleep(job["seconds"])
        os.kill(copy, signal.SIGKILL)
    os.close(words)
    with open(said, "rb") as pipe:
        Path(job["said"]).write_bytes(pipe.read())
    return os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1])


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    for module in _MODULES:
        importlib.import_module(module)
    threads = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    assert [name for name in threads if not name.startswith("jemalloc")] == threads[:1], "a copy of a process with threads may hang"
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        print(json.dumps(forked(json.loads(line))), flush=True)

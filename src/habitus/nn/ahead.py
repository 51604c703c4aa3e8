"""Getting the next thing ready while this one is worked on. Knows nothing of what the things are."""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

Thing = TypeVar("Thing")
_LOOK = 0.1  # seconds after which a thread that waits looks whether it is still wanted


def ahead(things: Iterable[Thing], count: int = 2) -> Iterator[Thing]:
    """The things in their order, up to `count` of them made beforehand by a thread of their own.

    What goes wrong in making one is raised where that one would have come. The thread ends when the iterator is closed.
    """
    ready: queue.Queue[tuple[Thing | None, BaseException | None, bool]] = queue.Queue(count)
    wanted = threading.Event()
    wanted.set()

    def put(one: tuple[Thing | None, BaseException | None, bool]) -> bool:
        while wanted.is_set():
            try:
                ready.put(one, timeout=_LOOK)
                return True
            except queue.Full:
                continue
        return False

    def make() -> None:
        try:
            for thing in things:
                if not put((thing, None, False)):
                    return
        except BaseException as error:  # raised again, in the thread that waits for it
            put((None, error, True))
        else:
            put((None, None, True))

    maker = threading.Thread(target=make, name="habitus-ahead", daemon=True)
    maker.start()
    try:
        while True:
            thing, error, over = ready.get()
            if error is not None:
                raise error
            if over:
                return
            yield thing  # type: ignore[misc]  # only an end or an error comes without a thing
    finally:
        wanted.clear()
        maker.join()

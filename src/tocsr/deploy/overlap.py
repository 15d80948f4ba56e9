"""Files in order, where the next is read and the last is written while one is worked on."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from tocsr.errors import TocsrError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

Item = TypeVar("Item")
Given = TypeVar("Given")
Made = TypeVar("Made")


def overlapped(
    items: Iterable[Item],
    read: Callable[[Item], Given],
    work: Callable[[Item, Given], Made],
    write: Callable[[Item, Made], None],
    is_large: Callable[[Item, Given], bool],
) -> Generator[tuple[Item, Future[None]]]:
    """Reads in one thread, works in this one and writes in another, an item ahead and one behind.

    Args:
        items: Taken one ahead.
        read: What an item is made from.
        work: Makes it.
        write: Writes it.
        is_large: Whether an item waits until the one before is written, so that the memory holds
            only one of them.

    Yields:
        Each item in order, with a future whose result is there once it is written, or whose
        exception is the `TocsrError` or `OSError` of whichever part failed. It is to be waited for.
        An item that failed before it could be written is yielded before the next is worked on.
    """
    with ThreadPoolExecutor(1, "read") as reader, ThreadPoolExecutor(1, "write") as writer:
        behind: list[tuple[Item, Future[None]]] = []
        for item, reading in _read_ahead(items, read, reader):
            try:
                given = reading.result()
                if is_large(item, given):
                    yield from behind
                    behind = []
                made = work(item, given)
            except (TocsrError, OSError) as error:
                failed: Future[None] = Future()
                failed.set_exception(error)
                yield from [*behind, (item, failed)]
                behind = []
                continue
            yield from behind
            behind = [(item, writer.submit(write, item, made))]
        yield from behind


def _read_ahead(
    items: Iterable[Item], read: Callable[[Item], Given], reader: ThreadPoolExecutor
) -> Iterator[tuple[Item, Future[Given]]]:
    """Each item with what is read of it, the next one's reading begun.

    The first, which nothing can overlap with, is read in this thread: an interrupt reaches it.
    """
    ahead: list[tuple[Item, Future[Given]]] = []
    for item in items:
        if ahead:
            ahead.append((item, reader.submit(read, item)))
            yield ahead.pop(0)
        else:
            ahead.append((item, _read_now(read, item)))
    yield from ahead


def _read_now(read: Callable[[Item], Given], item: Item) -> Future[Given]:
    done: Future[Given] = Future()
    try:
        done.set_result(read(item))
    except (TocsrError, OSError) as error:
        done.set_exception(error)
    return done

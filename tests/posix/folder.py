"""One large folder that is listed while entries come and go: who is there all the time is listed once, and where a listing
stopped another can go on.

`folder.py [ENTRIES]`
"""

import ctypes
import os
import pathlib
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from mounted import Mount

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.opendir.restype = LIBC.readdir.restype = ctypes.c_void_p
LIBC.telldir.restype = ctypes.c_long
NAME_OFFSET = 19


class Listing:
    """opendir(3) with positions, which Python does not have."""

    def __init__(self, path: pathlib.Path) -> None:
        self.handle = ctypes.c_void_p(LIBC.opendir(os.fsencode(path)))

    def next(self) -> bytes | None:
        entry = LIBC.readdir(self.handle)
        return ctypes.string_at(entry + NAME_OFFSET) if entry else None

    def tell(self) -> int:
        return LIBC.telldir(self.handle)

    def seek(self, position: int) -> None:
        LIBC.seekdir(self.handle, ctypes.c_long(position))

    def close(self) -> None:
        LIBC.closedir(self.handle)


def churn(folder: pathlib.Path, number: int) -> None:
    new, moved = folder / f"new-{number}", folder / f"moved-{number}"
    new.touch()
    new.rename(moved)
    if number % 2:
        moved.unlink()


def listed_once(folder: pathlib.Path, entries: int) -> None:
    """The listing is left and resumed at each thousandth entry, after the folder has changed."""
    seen: dict[bytes, int] = {}
    listing = Listing(folder)
    while (name := listing.next()) is not None:
        seen[name] = seen.get(name, 0) + 1
        if len(seen) % 1000 == 0:
            churn(folder, len(seen) // 1000)
            position = listing.tell()
            listing.close()
            listing = Listing(folder)
            listing.seek(position)
    listing.close()
    stayed = [name for name in seen if name.startswith(b"entry-")]
    assert len(stayed) == entries, f"{len(stayed)} of {entries} entries were listed"
    twice = [name for name in seen if seen[name] > 1]
    assert not twice, f"listed more than once: {twice[:5]}"


def main() -> int:
    entries = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    failed = 0
    begun = time.monotonic()
    try:
        with Mount("folder") as mount:
            folder = mount.dir / "large"
            folder.mkdir()
            with ThreadPoolExecutor(32) as pool:
                list(pool.map(lambda number: (folder / f"entry-{number:06}").touch(), range(entries)))
            made = time.monotonic()
            listed_once(folder, entries)
            mount.remount()
            listed_once(folder, entries)
            print(f"{entries} entries: made in {made - begun:.0f} s, listed twice in {time.monotonic() - made:.0f} s")
    except AssertionError as error:
        print(f"FAIL {error}")
        failed = 1
    print(f"folder: {1 - failed} passed, {failed} failed")
    return failed


if __name__ == "__main__":
    sys.exit(main())

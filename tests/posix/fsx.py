"""fsx on a mount: random reads, writes, mappings, truncations, holes and copies of one file, each read compared with
what was written. Between rounds the daemon ends and starts again on the same data, and the file must be the same.

`fsx.py SIZE:OPERATIONS:ROUNDS...`, sizes in MiB.
"""

import hashlib
import os
import pathlib
import random
import subprocess
import sys
import time

from mounted import Mount

WEIGHTS = {
    "close_open": 2, "invalidate": 2, "mapread": 10, "mapwrite": 10, "read": 10, "write": 10, "truncate": 4, "fsync": 2,
    "fdatasync": 2, "posix_fallocate": 3, "punch_hole": 5, "sendfile": 5, "posix_fadvise": 2, "copy_file_range": 5,
}
# 1 MiB files see 64 KiB at once, 100 MiB files a MiB.
OPERATION_MOST = {1: 64 << 10, 10: 256 << 10, 100: 1 << 20}


def config(folder: pathlib.Path, size: int) -> pathlib.Path:
    path = folder / f"fsx-{size}.toml"
    weights = "".join(f"{name} = {weight}\n" for name, weight in WEIGHTS.items())
    # An empty range can't be allocated, which fsx takes for a file system without posix_fallocate.
    path.write_text(f"flen = {size << 20}\n[opsize]\nmin = 1\nmax = {OPERATION_MOST.get(size, 64 << 10)}\n[weights]\n{weights}")
    return path


def digest(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def exercise(mount: Mount, size: int, operations: int, seed: int) -> None:
    """One round; the file must outlive the daemon."""
    tool = os.path.join(os.environ["NOKV_CACHE"], "bin", "fsx")
    path = mount.dir / f"fsx-{size}"
    artifacts = mount.base / "artifacts"
    artifacts.mkdir(exist_ok=True)
    command = [tool, "-f", config(mount.base, size), "-N", str(operations), "-S", str(seed), "-P", artifacts, path]
    begun = time.monotonic()
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False)
    if run.returncode:
        raise AssertionError(f"fsx, {size} MiB, seed {seed}:\n{run.stdout[-6000:]}")
    before = digest(path)
    mount.remount()
    if digest(path) != before:
        raise AssertionError(f"fsx, {size} MiB, seed {seed}: another content after the daemon started again")
    print(f"{size} MiB, {operations} operations, seed {seed}: {time.monotonic() - begun:.0f} s", flush=True)


def main() -> int:
    passed = failed = 0
    for plan in sys.argv[1:] or ["1:3000:2", "10:3000:1"]:
        size, operations, rounds = map(int, plan.split(":"))
        try:
            with Mount("fsx") as mount:
                for _ in range(rounds):
                    exercise(mount, size, operations, random.randrange(1 << 32))
                    passed += 1
        except AssertionError as error:
            print(f"FAIL {error}", flush=True)
            failed += 1
    print(f"fsx: {passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

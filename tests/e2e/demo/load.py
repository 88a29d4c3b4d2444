"""Copies the dataset of the image into the volume, each file fsynced, and says how fast: load.py FROM TO."""

import os
import pathlib
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor

source, target = (pathlib.Path(arg) for arg in sys.argv[1:3])


def copy(path: pathlib.Path) -> int:
    to = target / path.relative_to(source)
    with open(path, "rb") as read, open(to, "wb") as write:
        shutil.copyfileobj(read, write)
        write.flush()
        os.fsync(write.fileno())
    return to.stat().st_size


files = sorted(path for path in source.rglob("*") if path.is_file())
for folder in sorted({path.parent for path in files}):
    (target / folder.relative_to(source)).mkdir(parents=True, exist_ok=True)
start = time.monotonic()
with ThreadPoolExecutor(16) as pool:
    size = sum(pool.map(copy, files))
seconds = time.monotonic() - start
print(f"loaded {len(files)} files, {size / 2**20:.1f} MiB, in {seconds:.1f} s: {len(files) / seconds:.0f} files/s", flush=True)

"""Creates fsynced files in one directory with 1 and with N clients and prints the ratio: one_directory.py DIR [N] [SECONDS].

Each client is a process. Boundary: mounted path; durability: fsync of every file; cache: cold names.
"""

import multiprocessing
import os
import sys
import tempfile
import time

DATA = b"x" * 4096


def client(folder: str, number: int, end: float, counts) -> None:
    made = 0
    while time.monotonic() < end:
        # System calls only: Python's own files ask the terminal driver about each one.
        file = os.open(f"{folder}/{number}-{made}", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        os.write(file, DATA)
        os.fsync(file)
        os.close(file)
        made += 1
    counts.put(made)


def rate(folder: str, clients: int, seconds: float) -> float:
    counts = multiprocessing.Queue()
    end = time.monotonic() + seconds
    processes = [multiprocessing.Process(target=client, args=(folder, n, end, counts)) for n in range(clients)]
    for process in processes:
        process.start()
    total = sum(counts.get() for _ in processes)
    for process in processes:
        process.join()
    return total / seconds


def main() -> None:
    base = sys.argv[1]
    clients = int(sys.argv[2]) if len(sys.argv) > 2 else 64
    seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 10
    one = rate(tempfile.mkdtemp(dir=base), 1, seconds)
    many = rate(tempfile.mkdtemp(dir=base), clients, seconds)
    print(f"1 client {one:.0f} files/s, {clients} clients {many:.0f} files/s, ratio {many / one:.1f}")


if __name__ == "__main__":
    main()

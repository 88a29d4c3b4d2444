"""The same calls on two filesystems: a mount of ours and an ext4 on a loop device. Both must answer the same."""

import contextlib
import ctypes
import errno
import os
import pathlib
import stat
import subprocess
import tempfile

LIBC = ctypes.CDLL(None, use_errno=True)
AT_FDCWD = -100
# What is read of a file to compare it: all of a small one, and around the end of the first chunk (64 MiB).
WINDOWS = [(0, 1 << 20), ((64 << 20) - 300_000, 600_000)]


def checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result


def renameat2(old: bytes, new: bytes, flags: int) -> None:
    checked(LIBC.renameat2(AT_FDCWD, old, AT_FDCWD, new, flags))


def link(old: bytes, new: bytes, follow: bool) -> None:
    """Python's own follows a symbolic link in no case."""
    checked(LIBC.linkat(AT_FDCWD, old, AT_FDCWD, new, 0x400 if follow else 0))


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    checked(LIBC.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)))


class Timespec(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]


def utimensat(path: bytes, moments: list[tuple[int, int]], follow: bool) -> None:
    checked(LIBC.utimensat(AT_FDCWD, path, (Timespec * 2)(*(Timespec(*moment) for moment in moments)), 0 if follow else 0x100))


def futimens(fd: int, moments: list[tuple[int, int]]) -> None:
    checked(LIBC.futimens(fd, (Timespec * 2)(*(Timespec(*moment) for moment in moments))))


@contextlib.contextmanager
def user(uid: int):
    """Effective ids of this process. Only root can come back, so they are always reset."""
    if uid:
        os.setegid(uid)
        os.seteuid(uid)
    try:
        yield
    finally:
        if uid:
            os.seteuid(0)
            os.setegid(0)


@contextlib.contextmanager
def ext4():
    """A fresh ext4 that behaves like our mounts where both allow a choice: no device nodes, no set-id, no read times."""
    with tempfile.TemporaryDirectory(prefix="nokv-ext4-") as folder:
        os.chmod(folder, 0o755)
        image, mount = pathlib.Path(folder, "image"), pathlib.Path(folder, "mnt")
        mount.mkdir()
        with open(image, "wb") as file:
            file.truncate(2 << 30)
        subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
        subprocess.run(["mount", "-o", "loop,noatime,nosuid,nodev", image, mount], check=True)
        try:
            yield mount
        finally:
            subprocess.run(["umount", "-l", mount], check=True)


def has_fine_times(folder: pathlib.Path) -> bool:
    """Whether two changes right after each other have different times."""
    probe = folder / "probe"
    probe.touch()
    seen = set()
    for _ in range(20):
        probe.chmod(0o600)
        seen.add(probe.stat().st_ctime_ns)
    probe.unlink()
    return len(seen) == 20


def outcome(call):
    """What a call answers: its value or its errno."""
    try:
        return call()
    except OSError as error:
        return errno.errorcode[error.errno]


def shape(info: os.stat_result) -> tuple:
    """What must agree of a stat. Sizes of directories, blocks and inode numbers are each filesystem's own."""
    size = None if stat.S_ISDIR(info.st_mode) else info.st_size
    return (oct(info.st_mode), info.st_nlink, info.st_uid, info.st_gid, size, info.st_rdev)


def times(info: os.stat_result) -> tuple[int, int, int]:
    return (info.st_atime_ns, info.st_mtime_ns, info.st_ctime_ns)


def content(fd: int) -> list[bytes]:
    return [os.pread(fd, length, offset) for offset, length in WINDOWS]


def data_ranges(fd: int) -> bytes:
    """A file's start as a copy that looks for holes makes it. Where holes are is each filesystem's choice."""
    size = min(os.fstat(fd).st_size, 1 << 20)
    copy = bytearray(size)
    at = 0
    while at < size:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break
        end = os.lseek(fd, at, os.SEEK_HOLE)
        if at >= size:
            break
        copy[at:min(end, size)] = os.pread(fd, min(end, size) - at, at)
        at = end
    return bytes(copy)


def listing(path: bytes) -> list[tuple[bytes, bool, bool]]:
    with os.scandir(path) as entries:
        return sorted((entry.name, entry.is_dir(follow_symlinks=False), entry.is_symlink()) for entry in entries)


def tree(root: bytes, path: bytes = b".") -> list[tuple]:
    """All that is below a folder, with content and attributes."""
    found = []
    for name, is_dir, is_link in listing(os.path.join(root, path)):
        at = os.path.join(path, name)
        full = os.path.join(root, at)
        info = os.lstat(full)
        what = None
        if is_link:
            what = os.readlink(full)
        elif stat.S_ISREG(info.st_mode):
            with open(full, "rb") as file:
                what = (content(file.fileno()), data_ranges(file.fileno()))
        attributes = sorted((key, os.getxattr(full, key, follow_symlinks=False)) for key in os.listxattr(full, follow_symlinks=False))
        found.append((at, shape(info), what, attributes))
        if is_dir:
            found.extend(tree(root, at))
    return found

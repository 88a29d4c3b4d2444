"""A Hypothesis state machine: random calls of two users on a mount of ours and on ext4 must answer the same, leave the
same tree and change the same times. What may differ is in docs/semantics.md.

`machine.py [EXAMPLES STEPS [SEED]]`; with NOKV_SHRINK set it takes minutes to find the shortest form of what differs.
"""

import itertools
import mmap
import os
import random
import shutil
import stat
import sys
import traceback

from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

import pair
from mounted import Mount
from pair import outcome, shape, times, user

USER = 1000
GROUP_OF_NEITHER = 2000
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 0x10
NOREPLACE, EXCHANGE = 1, 2
NOW, OMIT = (1 << 30) - 1, (1 << 30) - 2

users = st.sampled_from([0, USER])
names = st.sampled_from([b"a", b"b", b"c", b"d", b"caf\xe9", b"\xff" * 255])
# The nth path that there is; a name in the nth folder; a path as it is.
there = st.tuples(st.just("there"), st.integers(0, 40))
inside = st.tuples(st.just("inside"), st.integers(0, 40), names)
anything = st.tuples(st.just("path"), st.one_of(
    st.builds(os.path.join, names, names), st.builds(os.path.join, names, names, names), st.just(b"n" * 256),
))


def weighted(*choices):
    return st.sampled_from([choice for choice, weight in choices for _ in range(weight)]).flatmap(lambda choice: choice)


old_paths = weighted((there, 8), (inside, 1), (anything, 1))
new_paths = weighted((there, 2), (inside, 7), (anything, 1))
targets = st.one_of(names, names, st.builds(os.path.join, names, names), st.just(b"."), st.just(b"t" * 4095), st.just(b"gone"))
modes = st.sampled_from([0, 0o600, 0o644, 0o666, 0o755, 0o777, 0o777, 0o777, 0o1777, 0o2755, 0o2775, 0o2770, 0o4711, 0o6777])
owners = st.sampled_from([-1, 0, USER, GROUP_OF_NEITHER])
offsets = st.sampled_from([0, 1, 100, 4096, 5000, 65_536, 131_072, 200_000, (64 << 20) - 100])
lengths = st.sampled_from([0, 1, 10, 511, 4096, 5000, 70_000, 140_000])
ranges = st.sampled_from([0, 1, 100, 4096, 10_000, 131_072, 64 << 20])
slots = st.integers(0, 5)
keys = st.sampled_from([b"user.a", b"user.a", b"user.b", b"user.b", b"trusted.c", b"security.d", b"user.", b"other.e", b"user." + b"k" * 251])
values = st.sampled_from([b"", b"v", b"\0\xff" * 20])
access_flags = st.sampled_from([os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR])
open_flags = st.lists(
    st.sampled_from([os.O_CREAT, os.O_CREAT, os.O_EXCL, os.O_TRUNC, os.O_APPEND, os.O_DSYNC, os.O_NOFOLLOW, os.O_DIRECTORY]),
    max_size=3,
)
# ext4 can't tell fractions of its earliest second.
seconds = st.sampled_from([1 - (1 << 31), -2, -1, 0, 1, 1_700_000_000, 1 << 33])
nanoseconds = st.sampled_from([0, 1, 300_000_000, 999_999_999, NOW, OMIT])
moments = st.tuples(seconds, nanoseconds)
has_files = precondition(lambda machine: machine.files)


def filled(length: int, number: int) -> bytes:
    return bytes([number % 255 + 1]) * length


class Machine(RuleBasedStateMachine):
    # Set by main: the mount, and the roots of both filesystems.
    mount = None
    roots = ()
    numbers = itertools.count()
    # Whether each change of a file on ext4 has a time of its own.
    fine_times = True

    @initialize()
    def begin(self) -> None:
        self.number = next(self.numbers)
        self.files = []
        self.differs = False
        # A new file whose creation may not be durable yet.
        self.young = None
        self.bases = [os.path.join(root, b"%d" % self.number) for root in self.roots]
        for base in self.bases:
            os.mkdir(base)
            os.chmod(base, 0o777)
            os.mkdir(os.path.join(base, b"dir"))
            os.chmod(os.path.join(base, b"dir"), 0o777)
        self.open(("path", b"a"), os.O_RDWR, [os.O_CREAT], 0o666, USER)
        self.open(("path", b"dir/b"), os.O_RDWR, [os.O_CREAT], 0o6777, 0)
        self.pwrite(0, 100, 70_000, 7, USER)

    def resolve(self, place) -> bytes:
        """The path that a place stands for in the tree as it is."""
        kind, *rest = place
        if kind == "path":
            return rest[0]
        found = sorted(
            (folder, name) for folder, folders, files in os.walk(self.bases[1]) for name in (folders if kind == "inside" else folders + files)
        )
        paths = [os.path.relpath(os.path.join(folder, name), self.bases[1]) for folder, name in found] or [b"."]
        if kind == "there":
            return paths[rest[0] % len(paths)]
        return os.path.normpath(os.path.join([b".", *paths][rest[0] % (len(paths) + 1)], rest[1]))

    def teardown(self) -> None:
        if not hasattr(self, "bases"):
            return
        self.close_all()
        try:
            if not self.differs:
                self.same_trees()
        finally:
            for base in self.bases:
                shutil.rmtree(base)

    def close_all(self) -> None:
        for fds in self.files:
            for fd in fds:
                os.close(fd)
        self.files = []

    def same_trees(self) -> None:
        ours, theirs = (pair.tree(base) for base in self.bases)
        for mine, other in zip(ours, theirs):
            assert mine == other, f"the trees differ:\n ours {mine!r:.3000}\n ext4 {other!r:.3000}"
        assert len(ours) == len(theirs), f"the trees differ: {ours!r:.3000}\n{theirs!r:.3000}"

    def same(self, call, watched=(), fds=None, uid=0) -> None:
        """Makes a call on both sides. Its answers must be the same, and so must be which times of the watched paths, their
        folders and the open file have changed, and what stat tells of them."""
        answers = []
        for side, base in enumerate(self.bases):
            looks = [lambda path=path: os.lstat(os.path.join(base, path)) for path in self.with_parents(watched)]
            if fds:
                looks.append(lambda: os.fstat(fds[side]))
            before = [outcome(look) for look in looks]
            with user(uid):
                answer = outcome(lambda: call(side))
            after = [outcome(look) for look in looks]
            seen = [(self.changed(*moment), now if isinstance(now, str) else shape(now)) for moment, now in zip(zip(before, after), after)]
            answers.append((answer, seen))
        agree = answers[0] == answers[1] or self.young and self.with_ticks(*answers)
        self.differs = not agree
        assert agree, f"at {watched}\n ours {answers[0]!r:.2000}\n ext4 {answers[1]!r:.2000}"

    @staticmethod
    def with_ticks(ours, theirs) -> bool:
        """The same, but for times that did not move: a change that comes while the one before is not durable has its time."""
        moved = all(
            mine == other or mine is not None and other is not None and all(a <= b for a, b in zip(mine, other))
            for (mine, _), (other, _) in zip(ours[1], theirs[1])
        )
        return moved and ours[0] == theirs[0] and [now for _, now in ours[1]] == [now for _, now in theirs[1]]

    def settle(self) -> None:
        if self.young in self.files:
            os.fsync(self.young[0])
        self.young = None

    @staticmethod
    def sync(folder: bytes) -> None:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    @staticmethod
    def with_parents(watched) -> list[bytes]:
        return list(dict.fromkeys(itertools.chain.from_iterable((path, os.path.dirname(path) or b".") for path in watched)))

    def changed(self, before, after):
        if not self.fine_times or isinstance(before, str) or isinstance(after, str) or before.st_ino != after.st_ino:
            return None
        return tuple(old != new for old, new in zip(times(before), times(after)))

    def on_path(self, call, place, uid: int = 0, *others) -> None:
        paths = [self.resolve(at) for at in (place, *others)]
        self.same(lambda side: call(*(os.path.join(self.bases[side], at) for at in paths)), paths, uid=uid)
        self.settle()

    def on_file(self, call, slot: int, uid: int = 0) -> None:
        fds = self.files[slot % len(self.files)]
        self.same(lambda side: call(fds[side]), fds=fds, uid=uid)
        self.settle()

    # ---- Open files ----

    @rule(path=new_paths, access=access_flags, flags=open_flags, mode=modes, uid=users)
    def open(self, path, access, flags, mode, uid):
        for flag in flags:
            access |= flag
        if access & os.O_CREAT:
            access &= ~os.O_DIRECTORY
        opened = [-1, -1]
        path = self.resolve(path)

        def call(side):
            opened[side] = os.open(os.path.join(self.bases[side], path), access | os.O_NONBLOCK | os.O_CLOEXEC, mode)
            return "opened"

        try:
            self.same(call, (path,), uid=uid)
            if access & os.O_CREAT and min(opened) >= 0:
                self.young = opened
        finally:
            if min(opened) >= 0 and stat.S_ISREG(os.fstat(opened[0]).st_mode) and len(self.files) < 6:
                self.files.append(opened)
            else:
                for fd in opened:
                    if fd >= 0:
                        os.close(fd)

    @has_files
    @rule(slot=slots)
    def close(self, slot):
        for fd in self.files.pop(slot % len(self.files)):
            os.close(fd)

    @has_files
    @rule(slot=slots, offset=offsets, length=lengths)
    def pread(self, slot, offset, length):
        self.on_file(lambda fd: os.pread(fd, length, offset), slot)

    @has_files
    @rule(slot=slots, offset=offsets, length=lengths, number=st.integers(0, 250), uid=users)
    def pwrite(self, slot, offset, length, number, uid):
        self.on_file(lambda fd: os.pwrite(fd, filled(length, number), offset), slot, uid)

    @has_files
    @rule(slot=slots, length=lengths)
    def read(self, slot, length):
        self.on_file(lambda fd: os.read(fd, length), slot)

    @has_files
    @rule(slot=slots, length=lengths, number=st.integers(0, 250), uid=users)
    def write(self, slot, length, number, uid):
        self.on_file(lambda fd: os.write(fd, filled(length, number)), slot, uid)

    @has_files
    @rule(slot=slots, offset=st.integers(-10, 300_000), whence=st.sampled_from([os.SEEK_SET, os.SEEK_CUR, os.SEEK_END]))
    def lseek(self, slot, offset, whence):
        self.on_file(lambda fd: os.lseek(fd, offset, whence), slot)

    @has_files
    @rule(slot=slots)
    def read_by_data_ranges(self, slot):
        """After it the position is where the last search for a hole left it, which each filesystem chooses."""
        self.on_file(lambda fd: (pair.data_ranges(fd), os.lseek(fd, 0, os.SEEK_SET)), slot)

    @has_files
    @rule(slot=slots, beyond=st.sampled_from([0, 1, 1 << 30]), whence=st.sampled_from([os.SEEK_DATA, os.SEEK_HOLE]))
    def seek_beyond_the_end(self, slot, beyond, whence):
        self.on_file(lambda fd: os.lseek(fd, os.fstat(fd).st_size + beyond, whence), slot)

    @has_files
    @rule(slot=slots, size=st.one_of(offsets, st.just(-1)), uid=users)
    def ftruncate(self, slot, size, uid):
        self.on_file(lambda fd: os.ftruncate(fd, size), slot, uid)

    @has_files
    @rule(slot=slots)
    def fsync(self, slot):
        self.on_file(os.fsync, slot)

    @has_files
    @rule(slot=slots)
    def fdatasync(self, slot):
        self.on_file(os.fdatasync, slot)

    @has_files
    @rule(slot=slots, mode=st.sampled_from([0, KEEP_SIZE]), offset=offsets, length=ranges, uid=users)
    def allocate(self, slot, mode, offset, length, uid):
        self.on_file(lambda fd: pair.fallocate(fd, mode, offset, length), slot, uid)

    @has_files
    @rule(slot=slots, offset=offsets, length=ranges, uid=users)
    def punch_hole(self, slot, offset, length, uid):
        self.on_file(lambda fd: pair.fallocate(fd, PUNCH_HOLE | KEEP_SIZE, offset, length), slot, uid)

    @has_files
    @rule(slot=slots, keep=st.sampled_from([0, KEEP_SIZE]), offset=offsets, length=ranges, uid=users)
    def zero_range(self, slot, keep, offset, length, uid):
        self.on_file(lambda fd: pair.fallocate(fd, ZERO_RANGE | keep, offset, length), slot, uid)

    @has_files
    @rule(slot=slots, mode=st.sampled_from([PUNCH_HOLE, PUNCH_HOLE | ZERO_RANGE | KEEP_SIZE, 0x40 | PUNCH_HOLE]))
    def fallocate_wrongly(self, slot, mode):
        self.on_file(lambda fd: pair.fallocate(fd, mode, 0, 4096), slot)

    @has_files
    @rule(slot=slots, at=st.integers(0, 300_000), length=lengths, number=st.integers(0, 250), flush=st.booleans())
    def map_and_write(self, slot, at, length, number, flush):
        def call(fd):
            size = min(os.fstat(fd).st_size, 1 << 20)
            if size == 0:
                return "empty"
            try:
                with mmap.mmap(fd, size) as memory:
                    start = at % size
                    end = min(size, start + length)
                    memory[start:end] = filled(end - start, number)
                    if flush:
                        memory.flush()
                    return memory[max(0, start - 10):end + 10]
            except PermissionError:
                return "refused"

        fds = self.files[slot % len(self.files)]
        # When a mapping's write changes the times is each filesystem's choice.
        self.same(lambda side: call(fds[side]))

    @has_files
    @rule(slot=slots, at=st.integers(0, 300_000), length=lengths)
    def map_and_read(self, slot, at, length):
        def call(fd):
            size = min(os.fstat(fd).st_size, 1 << 20)
            if size == 0:
                return "empty"
            try:
                with mmap.mmap(fd, size, prot=mmap.PROT_READ) as memory:
                    return memory[at % size:at % size + length]
            except PermissionError:
                return "refused"

        self.on_file(call, slot)

    @has_files
    @rule(slot=slots, other=slots, length=lengths, offset_in=offsets, offset_out=offsets)
    def copy_file_range(self, slot, other, length, offset_in, offset_out):
        sources, sinks = (self.files[which % len(self.files)] for which in (slot, other))
        self.same(lambda side: os.copy_file_range(sources[side], sinks[side], length, offset_in, offset_out), fds=sinks)

    @has_files
    @rule(slot=slots, other=slots, length=lengths, offset=offsets)
    def sendfile(self, slot, other, length, offset):
        sources, sinks = (self.files[which % len(self.files)] for which in (slot, other))
        if sources is not sinks:
            self.same(lambda side: os.sendfile(sinks[side], sources[side], offset, length), fds=sinks)

    @has_files
    @rule(slot=slots)
    def drop_pages(self, slot):
        self.on_file(lambda fd: os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED), slot)

    @has_files
    @rule(slot=slots, mode=modes, uid=users)
    def fchmod(self, slot, mode, uid):
        self.on_file(lambda fd: os.fchmod(fd, mode), slot, uid)

    @staticmethod
    def who(owner, group, uid) -> int:
        """A change that names nobody takes set-id bits away. Someone else's is refused by ext4 and does nothing here."""
        return 0 if owner == group == -1 else uid

    @has_files
    @rule(slot=slots, owner=owners, group=owners, uid=users)
    def fchown(self, slot, owner, group, uid):
        self.on_file(lambda fd: os.fchown(fd, owner, group), slot, self.who(owner, group, uid))

    @has_files
    @rule(slot=slots, atime=moments, mtime=moments, uid=users)
    def futimens(self, slot, atime, mtime, uid):
        def call(fd):
            pair.futimens(fd, [atime, mtime])
            return self.as_set(os.fstat(fd), atime, mtime)

        self.on_file(call, slot, uid)

    @has_files
    @rule(slot=slots, name=new_paths)
    def link_an_open_file(self, slot, name):
        """Through /proc, as linkat with AT_SYMLINK_FOLLOW does for a file without a name."""
        fds, at = self.files[slot % len(self.files)], self.resolve(name)
        self.same(
            lambda side: pair.link(f"/proc/self/fd/{fds[side]}".encode(), os.path.join(self.bases[side], at), True),
            (at,), fds,
        )

    @rule(path=old_paths, block=st.integers(0, 40), blocks=st.integers(1, 20), number=st.integers(0, 250))
    def direct(self, path, block, blocks, number):
        def call(at):
            fd = os.open(at, os.O_RDWR | os.O_DIRECT | os.O_NONBLOCK)
            try:
                buffer = mmap.mmap(-1, blocks * 4096)
                buffer.write(filled(blocks * 4096, number))
                written = os.pwrite(fd, buffer, block * 4096)
                back = os.preadv(fd, [buffer], (block // 2) * 4096)
                return written, back, buffer[:back]
            finally:
                os.close(fd)

        self.on_path(call, path)

    # ---- Names ----

    @rule(path=new_paths, mode=modes, uid=users)
    def mkdir(self, path, mode, uid):
        self.on_path(lambda at: os.mkdir(at, mode), path, uid)

    @rule(path=old_paths, uid=users)
    def rmdir(self, path, uid):
        self.on_path(os.rmdir, path, uid)

    @rule(path=old_paths, uid=users)
    def unlink(self, path, uid):
        self.on_path(os.unlink, path, uid)

    @rule(old=old_paths, new=new_paths, uid=users)
    def rename(self, old, new, uid):
        self.on_path(os.rename, old, uid, new)

    @rule(old=old_paths, new=new_paths, flags=st.sampled_from([NOREPLACE, EXCHANGE, NOREPLACE | EXCHANGE]), uid=users)
    def rename_with_flags(self, old, new, flags, uid):
        self.on_path(lambda source, sink: pair.renameat2(source, sink, flags), old, uid, new)

    @rule(old=old_paths, new=new_paths, follow=st.booleans(), uid=users)
    def link(self, old, new, follow, uid):
        self.on_path(lambda source, sink: pair.link(source, sink, follow), old, uid, new)

    @rule(to=targets, path=new_paths, uid=users)
    def symlink(self, to, path, uid):
        self.on_path(lambda at: os.symlink(to, at), path, uid)

    @rule(path=old_paths, uid=users)
    def readlink(self, path, uid):
        self.on_path(os.readlink, path, uid)

    @rule(path=new_paths, kind=st.sampled_from([stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK]), mode=modes, uid=users)
    def mknod(self, path, kind, mode, uid):
        device = os.makedev(259, 70_000) if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0
        self.on_path(lambda at: os.mknod(at, kind | mode, device), path, uid)

    @rule(path=old_paths, uid=users)
    def list_folder(self, path, uid):
        self.on_path(pair.listing, path, uid)

    @rule(path=old_paths, uid=users)
    def sync_folder(self, path, uid):
        self.on_path(self.sync, path, uid)

    # ---- Attributes ----

    @rule(path=old_paths, mode=modes, uid=users)
    def chmod(self, path, mode, uid):
        self.on_path(lambda at: os.chmod(at, mode), path, uid)

    @rule(path=old_paths, owner=owners, group=owners, uid=users)
    def chown(self, path, owner, group, uid):
        self.on_path(lambda at: os.chown(at, owner, group), path, self.who(owner, group, uid))

    @rule(path=old_paths, owner=owners, group=owners, uid=users)
    def lchown(self, path, owner, group, uid):
        self.on_path(lambda at: os.lchown(at, owner, group), path, self.who(owner, group, uid))

    @staticmethod
    def as_set(info, atime, mtime):
        """The times that were given."""
        given = ((atime, info.st_atime_ns), (mtime, info.st_mtime_ns))
        return [found for (_, part), found in given if part not in (NOW, OMIT)]

    @rule(path=old_paths, atime=moments, mtime=moments, follow=st.booleans(), uid=users)
    def utimensat(self, path, atime, mtime, follow, uid):
        def call(at):
            pair.utimensat(at, [atime, mtime], follow)
            return self.as_set(os.stat(at, follow_symlinks=follow), atime, mtime)

        self.on_path(call, path, uid)

    @rule(path=old_paths, size=st.one_of(offsets, st.just(-1)), uid=users)
    def truncate(self, path, size, uid):
        self.on_path(lambda at: os.truncate(at, size), path, uid)

    @rule(path=old_paths, uid=users)
    def stat(self, path, uid):
        self.on_path(lambda at: shape(os.stat(at)), path, uid)

    @rule(path=old_paths, uid=users)
    def lstat(self, path, uid):
        self.on_path(lambda at: shape(os.lstat(at)), path, uid)

    @rule(path=old_paths, mode=st.integers(0, 7), uid=users)
    def access(self, path, mode, uid):
        self.on_path(lambda at: os.access(at, mode, effective_ids=True), path, uid)

    @rule(path=old_paths, key=keys, value=values, flags=st.sampled_from([0, os.XATTR_CREATE, os.XATTR_REPLACE]), follow=st.booleans(), uid=users)
    def setxattr(self, path, key, value, flags, follow, uid):
        # ext4 takes the same value again for no change.
        value += b"%d" % next(self.numbers)
        self.on_path(lambda at: os.setxattr(at, key, value, flags, follow_symlinks=follow), path, uid)

    @rule(path=old_paths, key=keys, follow=st.booleans(), uid=users)
    def getxattr(self, path, key, follow, uid):
        self.on_path(lambda at: os.getxattr(at, key, follow_symlinks=follow), path, uid)

    @rule(path=old_paths, follow=st.booleans(), uid=users)
    def listxattr(self, path, follow, uid):
        self.on_path(lambda at: sorted(os.listxattr(at, follow_symlinks=follow)), path, uid)

    @rule(path=old_paths, key=keys, follow=st.booleans(), uid=users)
    def removexattr(self, path, key, follow, uid):
        self.on_path(lambda at: os.removexattr(at, key, follow_symlinks=follow), path, uid)

    # ---- The whole filesystem ----

    @rule(path=old_paths)
    def statvfs(self, path):
        def call(at):
            info = os.statvfs(at)
            assert 0 < info.f_bavail <= info.f_bfree <= info.f_blocks and info.f_frsize > 0
            assert 0 < info.f_ffree <= info.f_files
            return info.f_namemax

        self.on_path(call, path)

    @rule()
    def compare(self):
        self.same_trees()

    @rule(now=st.sampled_from([True, False, False]))
    def remount(self, now):
        """The daemon ends and starts again on the same data."""
        if not now:
            return
        self.close_all()
        self.mount.remount()
        self.same_trees()


def main() -> int:
    examples, steps = (int(number) for number in (sys.argv[1:3] or (100, 50)))
    number = int(sys.argv[3]) if len(sys.argv) > 3 else random.randrange(1 << 32)
    print(f"{examples} examples of {steps} steps, seed {number}", flush=True)
    os.umask(0)
    os.setgroups([])
    failed = 0
    with Mount("machine") as mount, pair.ext4() as theirs:
        Machine.mount, Machine.roots = mount, (os.fsencode(mount.dir), os.fsencode(theirs))
        for root in Machine.roots:
            os.chmod(root, 0o755)
        Machine.fine_times = pair.has_fine_times(theirs)
        if not Machine.fine_times:
            print("this kernel's ext4 (before 6.13) has times of milliseconds: which times change is not compared", flush=True)
        seed(number)(Machine)
        phases = [Phase.generate, *([Phase.shrink] if os.environ.get("NOKV_SHRINK") else [])]
        try:
            run_state_machine_as_test(Machine, settings=settings(
                max_examples=examples, stateful_step_count=steps, phases=phases, deadline=None, database=None, print_blob=False,
                suppress_health_check=list(HealthCheck), verbosity=Verbosity.normal,
            ))
        except Exception as error:  # A divergence, or Hypothesis could not repeat one.
            print(f"FAIL with seed {number}:\n{''.join(traceback.format_exception(error))}", flush=True)
            failed = 1
    print(f"machine: {examples - failed} passed, {failed} failed")
    return failed


if __name__ == "__main__":
    sys.exit(main())

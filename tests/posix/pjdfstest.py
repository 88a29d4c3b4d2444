"""pjdfstest as root on a mount, with a second filesystem for what crosses devices: nothing may fail."""

import contextlib
import grp
import os
import pathlib
import pwd
import re
import shutil
import subprocess
import sys
import tempfile

from mounted import Mount

# The C library does not know LINK_MAX of FUSE filesystems.
SKIPPED_MOST = 1
CASES_LEAST = 398
LINE = re.compile(r"^(\S+)\s+(ok|FAILED|skipped)$")
USERS = ["nobody", "daemon"]


@contextlib.contextmanager
def tmpfs():
    with tempfile.TemporaryDirectory(prefix="nokv-second-") as folder:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", folder], check=True)
        try:
            yield folder
        finally:
            subprocess.run(["umount", folder], check=True)


def config(folder: pathlib.Path, allow_remount: bool) -> pathlib.Path:
    entries = [[user, grp.getgrgid(pwd.getpwnam(user).pw_gid).gr_name] for user in USERS]
    path = folder / "pjdfstest.toml"
    path.write_text(
        "[features]\nposix_fallocate = {}\nrename_ctime = {}\nutime_now = {}\nutimensat = {}\n"
        f"[settings]\nnaptime = 0.01\nallow_remount = {str(allow_remount).lower()}\n"
        f"[dummy_auth]\nentries = {entries}\n"
    )
    return path


def without_helper(folder: pathlib.Path) -> dict[str, str]:
    """A mount(8) for the suite: it gives FUSE filesystems to a helper that can't remount; the kernel can."""
    tools = folder / "bin"
    tools.mkdir()
    wrapper = tools / "mount"
    wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("mount")} -i "$@"\n')
    wrapper.chmod(0o755)
    return dict(os.environ, PATH=f"{tools}:{os.environ['PATH']}")


def cases(mount: Mount, environment: dict[str, str], second: str, allow_remount: bool, patterns: list[str]) -> dict[str, str]:
    tool = os.path.join(os.environ["NOKV_CACHE"], "bin", "pjdfstest")
    command = [tool, "-c", config(mount.base, allow_remount), "-p", mount.dir, "-s", second, *patterns]
    run = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    print(run.stdout, flush=True)
    found = map(LINE.match, re.sub(r"\x1b\[[0-9;]*m", "", run.stdout).splitlines())
    outcomes = {match[1]: match[2] for match in found if match}
    if run.returncode and "FAILED" not in outcomes.values():
        outcomes["the suite itself"] = "FAILED"
    return outcomes


def main() -> int:
    with Mount("pjdfstest") as mount, tmpfs() as second:
        environment = without_helper(mount.base)
        outcomes = cases(mount, environment, second, False, sys.argv[1:])
        # On their own: other cases leave files open, and then no filesystem can be made read-only.
        outcomes |= cases(mount, environment, second, True, ["erofs"])
    counted = list(outcomes.values())
    passed, failed, skipped = (counted.count(word) for word in ("ok", "FAILED", "skipped"))
    if not sys.argv[1:] and (skipped > SKIPPED_MOST or len(outcomes) < CASES_LEAST):
        print(f"FAIL {skipped} cases are skipped (at most {SKIPPED_MOST}), {len(outcomes)} ran (at least {CASES_LEAST})")
        failed += 1
    print(f"pjdfstest: {passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

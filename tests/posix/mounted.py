"""A real mount of this build: `nokv-fs dev` in a folder of its own, which can be stopped and started again."""

import ctypes
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile

END = 120
PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Lets the daemon unmount and end with this process, however that ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def binary() -> str:
    return os.environ.get("NOKV_FS", os.path.join(os.environ["CARGO_TARGET_DIR"], "debug", "nokv-fs"))


class Mount:
    def __init__(self, name: str) -> None:
        self.base = pathlib.Path(tempfile.mkdtemp(prefix=f"nokv-{name}-"))
        self.base.chmod(0o755)
        self.dir = self.base / "mnt"
        self.log = self.base / "log"
        self.daemon = None
        self.start()

    def __enter__(self) -> "Mount":
        return self

    def __exit__(self, kind, *_) -> None:
        self.stop(clean=kind is None)
        if kind is None:
            shutil.rmtree(self.base)
        else:
            print(f"the daemon's log and data stay in {self.base}", flush=True)

    def start(self) -> None:
        with open(self.log, "ab") as log:
            command = [binary(), "dev", str(self.dir), "--data", str(self.base / "data")]
            self.daemon = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL, preexec_fn=end_with_parent)
        line = self.daemon.stdout.readline()
        if not line.startswith(b"ready"):
            raise RuntimeError(f"the mount did not come up:\n{self.log.read_text()[-2000:]}")
        self.device = os.stat(self.dir).st_dev

    def stop(self, clean: bool = True) -> None:
        """Ends the daemon; what is not `clean` may have processes that hang in the mount, which are let go first."""
        if self.daemon is None:
            return
        if not clean:
            abort = pathlib.Path(f"/sys/fs/fuse/connections/{os.minor(self.device)}/abort")
            if abort.exists():
                abort.write_text("1")
        self.daemon.terminate()
        try:
            code = self.daemon.wait(END)
        except subprocess.TimeoutExpired:
            self.daemon.kill()
            code = self.daemon.wait()
        self.daemon.stdout.close()
        self.daemon = None
        if not clean:
            subprocess.run(["umount", "-l", self.dir], stderr=subprocess.DEVNULL, check=False)
        elif code != 0 or os.path.ismount(self.dir):
            raise RuntimeError(f"the daemon ended with {code}:\n{self.log.read_text()[-2000:]}")

    def remount(self) -> None:
        self.stop()
        self.start()

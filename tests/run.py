"""Runs the stages of `make test`, one after the other, and closes with one line of counts.

A stage is a name and a shell command. Its output goes to a log file; when it fails, the lines that matter are shown
again at the very end. Stage names as arguments run only those.
"""

import os
import pathlib
import re
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
CACHE = pathlib.Path(os.environ.get("NOKV_CACHE", pathlib.Path.home() / ".cache" / "nokv"))
LOGS = pathlib.Path(os.environ.get("NOKV_LOGS", CACHE / "logs"))

# (name, command, seconds). Clippy has a target folder of its own, so that lint and tests never wait for each other.
STAGES = [
    ("deps", "tests/deps.sh", 600),
    ("fmt", "cargo fmt --all -- --check && git diff --check", 60),
    ("clippy", "CARGO_TARGET_DIR=$NOKV_CHECK_DIR cargo clippy --workspace --all-targets -- -D warnings", 1800),
    ("build", "cargo build --workspace --bins && cargo test --workspace --no-run", 2700),
    ("tools", "wait-for-tools", 2700),
    ("rust", "cargo test --workspace --no-fail-fast", 1500),
    ("posix", "tests/posix/run.sh", 900),
    ("crash", "cargo test --workspace --features nokvfs-server/failpoints --test failpoints", 1200),
    ("charts", "charts/test.sh", 300),
    ("docs", "cd docs && npm ci --no-audit --no-fund --silent && npm run build", 300),
    ("e2e", "tests/e2e/run.sh", 1500),
]
COUNTS = [
    re.compile(r"^test result: \w+\. (?P<passed>\d+) passed; (?P<failed>\d+) failed; (?P<skipped>\d+) ignored"),
    re.compile(r"^(?:\w+: )?(?P<passed>\d+) passed, (?P<failed>\d+) failed(?:, (?P<skipped>\d+) skipped)?$"),
]
TROUBLE = re.compile(r"^(error|warning: unused|FAIL|FAILED|not ok|thread '.*' panicked|---- .* stdout ----|test .* FAILED|    [a-z_:]+$)")


class Tools(threading.Thread):
    """Builds the cluster's Go tools and the POSIX suites beside the Rust build."""

    def __init__(self, environment: dict[str, str]) -> None:
        super().__init__(daemon=True)
        self.environment = environment
        self.code = None
        self.start()

    def run(self) -> None:
        with open(LOGS / "tools-build.log", "w") as log:
            command = ["nice", "bash", "-c", "tests/e2e/tools/build.sh && tests/posix/tools.sh"]
            self.code = subprocess.call(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env=self.environment)

    def outcome(self, limit: float) -> int:
        self.join(limit)
        if self.code != 0:
            print((LOGS / "tools-build.log").read_text()[-3000:])
        return 1 if self.code is None else self.code


def counts(log: pathlib.Path) -> tuple[int, int, int]:
    passed = failed = skipped = 0
    for line in log.read_text(errors="replace").splitlines():
        for pattern in COUNTS:
            if found := pattern.match(line.strip()):
                passed += int(found["passed"])
                failed += int(found["failed"])
                skipped += int(found["skipped"] or 0)
    return passed, failed, skipped


def trouble(log: pathlib.Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    marked = [line for line in lines if TROUBLE.match(line)][:60]
    return "\n".join(["  lines that stand out:", *marked, "  the end of the log:", *lines[-60:]])


def main() -> int:
    LOGS.mkdir(parents=True, exist_ok=True)
    target = os.environ.get("CARGO_TARGET_DIR", str(CACHE / "target"))
    environment = dict(
        os.environ, CARGO_TARGET_DIR=target, NOKV_CHECK_DIR=target + "-check", NOKV_CACHE=str(CACHE), CARGO_TERM_COLOR="never",
    )
    chosen = [stage for stage in STAGES if not sys.argv[1:] or stage[0] in sys.argv[1:]]
    unknown = set(sys.argv[1:]) - {stage[0] for stage in STAGES}
    if unknown:
        print(f"no such stage: {', '.join(sorted(unknown))}; there are {', '.join(s[0] for s in STAGES)}")
        return 2
    tools = None
    total = [0, 0, 0]
    broken = []
    begun = time.monotonic()
    for name, command, limit in chosen:
        start = time.monotonic()
        log = LOGS / f"{name}.log"
        if name == "tools":
            code = (tools or Tools(environment)).outcome(limit)
            log.write_text("")
        else:
            with open(log, "w") as out:
                try:
                    code = subprocess.call(["bash", "-c", command], cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment, timeout=limit)
                except subprocess.TimeoutExpired:
                    out.write(f"error: the stage did not end within {limit} s\n")
                    code = 124
        if name == "deps" and code == 0 and any(stage[0] == "tools" for stage in chosen):
            tools = Tools(environment)
        passed, failed, skipped = counts(log)
        if code and not failed:
            failed = 1
        if not code and not passed:
            passed = 1
        total = [total[0] + passed, total[1] + failed, total[2] + skipped]
        print(f"{name:8} {time.monotonic() - start:6.0f} s  {passed} passed, {failed} failed, {skipped} skipped", flush=True)
        if code:
            broken.append((name, log))
            if name in ("deps", "build", "tools"):
                break
    for name, log in broken:
        print(f"\n== {name} failed; its log is {log}\n{trouble(log)}")
    print(f"\nall stages: {time.monotonic() - begun:.0f} s")
    print(f"{total[0]} passed, {total[1]} failed, {total[2]} skipped")
    return 1 if broken or total[1] else 0


if __name__ == "__main__":
    sys.exit(main())

# Locks on command: one line in, one line out. Calls libc itself, so that nothing is tried again.
import ctypes, errno, fcntl, os, signal, struct, subprocess, sys, threading

libc = ctypes.CDLL(None, use_errno=True)
files, children = {}, []
TYPES = {"sh": fcntl.F_RDLCK, "ex": fcntl.F_WRLCK, "un": fcntl.F_UNLCK}
NAMES = {value: name for name, value in TYPES.items()}
FLOCKS = {"sh": fcntl.LOCK_SH, "ex": fcntl.LOCK_EX, "un": fcntl.LOCK_UN}
OFD_SETLK = 37
signal.signal(signal.SIGALRM, lambda *_: None)


def check(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "")


def posix(command, file, kind, start, length):
    lock = ctypes.create_string_buffer(struct.pack("hhqqi4x", TYPES[kind], 0, int(start), int(length), 0))
    check(libc.fcntl(files[file], command, lock))
    kind, _, start, length, pid = struct.unpack("hhqqi4x", lock.raw[: struct.calcsize("hhqqi4x")])
    return NAMES[kind] if kind == fcntl.F_UNLCK else f"{NAMES[kind]} {start} {length} {pid}"


def run(op, *words):
    if op == "open":
        files[words[0]] = os.open(words[1], os.O_RDWR | os.O_CREAT)
    elif op == "close":
        os.close(files.pop(words[0]))
    elif op == "dup":
        files[words[1]] = os.dup(files[words[0]])
    elif op == "lock":
        posix(fcntl.F_SETLK, *words)
    elif op == "wait":
        posix(fcntl.F_SETLKW, *words)
    elif op == "ofd":
        posix(OFD_SETLK, *words)
    elif op == "get":
        return posix(fcntl.F_GETLK, *words)
    elif op == "flock":
        check(libc.flock(files[words[0]], FLOCKS[words[1]] | (fcntl.LOCK_NB if words[2:] else 0)))
    elif op == "many":
        for at in range(int(words[1])):
            posix(fcntl.F_SETLK, words[0], "ex", at * 2, 1)
    elif op == "child":
        children.append(subprocess.Popen(["sleep", "60"], pass_fds=[files[words[0]]]))
    elif op == "end":
        children[0].kill()
        children.pop(0).wait()
    elif op == "alarm":
        signal.setitimer(signal.ITIMER_REAL, float(words[0]))
    elif op == "restart":
        signal.siginterrupt(signal.SIGALRM, False)
    elif op == "thread":
        # Waits aside: only its end shows.
        threading.Thread(target=posix, args=(fcntl.F_SETLKW, *words), daemon=True).start()
    elif op == "count":
        # Read, add, write, all under the lock, the file open all the time.
        for _ in range(int(words[1])):
            posix(fcntl.F_SETLKW, words[0], "ex", 0, 0)
            number = int(os.pread(files[words[0]], 20, 0) or b"0")
            os.pwrite(files[words[0]], b"%020d" % (number + 1), 0)
            posix(fcntl.F_SETLK, words[0], "un", 0, 0)
    return "ok"


for line in sys.stdin:
    try:
        answer = run(*line.split())
    except OSError as error:
        # It has two names.
        answer = errno.errorcode.get(error.errno, str(error.errno)).replace("EDEADLOCK", "EDEADLK")
    print(answer, flush=True)

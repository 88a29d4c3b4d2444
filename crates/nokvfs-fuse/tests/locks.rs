//! Locks through real mounts of one volume, by processes of their own.

mod mounted;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use mounted::{Volume, end_of};
use nokvfs_object::Operation;

/// Nothing takes nearly so long.
const PATIENCE: Duration = Duration::from_secs(20);
/// So long a process that must wait is seen to wait.
const A_WHILE: Duration = Duration::from_millis(300);

/// A process that locks on command.
struct Locker {
    child: Child,
    commands: Option<ChildStdin>,
    answers: Receiver<String>,
}

impl Locker {
    fn start() -> Self {
        let mut child = Command::new("python3")
            .args(["-c", include_str!("mounted/locker.py")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let commands = child.stdin.take();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Locker { child, commands, answers }
    }

    /// One that has opened a file as `f`.
    fn on(path: &Path) -> Self {
        let mut locker = Locker::start();
        assert_eq!(locker.run(&format!("open f {}", path.display())), "ok");
        locker
    }

    /// Begins a command.
    fn begin(&mut self, command: &str) {
        writeln!(self.commands.as_mut().unwrap(), "{command}").unwrap();
    }

    /// The answer of a command that has begun.
    fn answer(&self) -> String {
        self.answers.recv_timeout(PATIENCE).expect("no answer in time")
    }

    fn run(&mut self, command: &str) -> String {
        self.begin(command);
        self.answer()
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args(["-s", signal, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// As /proc tells it: R, S, D, T.
    fn state(&self) -> char {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
    }

    fn is_waiting(&self) -> bool {
        self.answers.recv_timeout(A_WHILE) == Err(RecvTimeoutError::Timeout)
    }
}

impl Drop for Locker {
    fn drop(&mut self) {
        // It ends with its input, unless it waits for something.
        drop(self.commands.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks again until it is so.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what}: not in {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn ranges_exclude_across_mounts_and_are_split_merged_and_converted() {
    let volume = Volume::new();
    let (one, two) = (volume.mount(), volume.mount());
    let (mut a, mut b) = (Locker::on(&one.path("f")), Locker::on(&two.path("f")));
    assert_eq!(a.run("lock f ex 10 10"), "ok");
    assert_eq!(b.run("lock f sh 19 1"), "EAGAIN");
    assert_eq!(b.run("lock f ex 20 0"), "ok");
    assert_eq!(b.run("get f sh 0 0"), "ex 10 10 0", "of another mount: no process of this machine");
    assert_eq!(a.run("get f sh 0 0"), "ex 20 0 0");
    // Downgrade of the middle, and what is left on both sides.
    assert_eq!(a.run("lock f sh 14 2"), "ok");
    assert_eq!(b.run("lock f sh 14 2"), "ok");
    assert_eq!(b.run("lock f sh 13 1"), "EAGAIN");
    assert_eq!(a.run("lock f ex 14 2"), "EAGAIN", "someone else reads it, too");
    assert_eq!(b.run("lock f un 14 1"), "ok");
    assert_eq!(a.run("lock f ex 14 1"), "ok");
    assert_eq!(b.run("get f ex 0 15"), "ex 10 5 0");
    // Processes of one mount exclude each other as well, and see each other's number.
    let mut c = Locker::on(&one.path("f"));
    assert_eq!(c.run("lock f sh 10 1"), "EAGAIN");
    assert_eq!(c.run("get f sh 10 1"), format!("ex 10 5 {}", a.child.id()));
    assert_eq!(a.run("lock f un 0 0"), "ok");
    assert_eq!(c.run("get f ex 0 14"), "un");
    assert_eq!(c.run("lock f ex 0 14"), "ok");
}

#[test]
fn a_close_gives_all_of_a_process_back_and_so_does_its_death() {
    let volume = Volume::new();
    let (one, two) = (volume.mount(), volume.mount());
    let (mut a, mut b) = (Locker::on(&one.path("f")), Locker::on(&two.path("f")));
    a.run("lock f ex 0 10");
    a.run("dup f g");
    a.run("lock g ex 20 10");
    a.run(&format!("open h {}", one.path("f").display()));
    assert_eq!(b.run("lock f sh 0 1"), "EAGAIN");
    // Any descriptor of the file, as POSIX has it.
    assert_eq!(a.run("close h"), "ok");
    assert_eq!(b.run("lock f ex 0 0"), "ok");
    assert_eq!(a.run("lock f ex 0 1"), "EAGAIN");
    b.child.kill().unwrap();
    b.child.wait().unwrap();
    until("the dead one's lock goes", || a.run("lock f ex 0 1") == "ok");
}

#[test]
fn flock_is_of_the_open_file_and_does_not_see_fcntl() {
    let volume = Volume::new();
    let (one, two) = (volume.mount(), volume.mount());
    let (mut a, mut b) = (Locker::on(&one.path("f")), Locker::on(&two.path("f")));
    assert_eq!(a.run("flock f ex nb"), "ok");
    assert_eq!(b.run("flock f sh nb"), "EAGAIN");
    // The other family, on all of the file.
    assert_eq!(b.run("lock f ex 0 0"), "ok");
    assert_eq!(b.run("lock f un 0 0"), "ok");
    // A duplicate and a child have the same open file: the lock stays until the last of them goes.
    a.run("dup f g");
    a.run("child f");
    a.run("close f");
    assert_eq!(b.run("flock f sh nb"), "EAGAIN");
    a.run("close g");
    assert_eq!(b.run("flock f sh nb"), "EAGAIN");
    a.run("end");
    until("the child's end gives it back", || b.run("flock f sh nb") == "ok");
    // Another open of the file is another holder, in the same process, too.
    a.run(&format!("open f {}", one.path("f").display()));
    a.run(&format!("open g {}", one.path("f").display()));
    assert_eq!(a.run("flock f sh nb"), "ok");
    assert_eq!(a.run("flock g ex nb"), "EAGAIN");
    assert_eq!(b.run("flock f un"), "ok");
    assert_eq!(a.run("flock f ex nb"), "ok");
    // Any duplicate unlocks.
    a.run("dup f h");
    assert_eq!(a.run("flock h un"), "ok");
    assert_eq!(b.run("flock f ex nb"), "ok");
}

#[test]
fn locks_of_an_open_file_go_with_it() {
    let volume = Volume::new();
    let (one, two) = (volume.mount(), volume.mount());
    let (mut a, mut b) = (Locker::on(&one.path("f")), Locker::on(&two.path("f")));
    assert_eq!(a.run("ofd f ex 0 10"), "ok");
    a.run(&format!("open g {}", one.path("f").display()));
    // Another close of the process does not matter to it, another lock does.
    assert_eq!(a.run("close g"), "ok");
    assert_eq!(b.run("lock f sh 0 1"), "EAGAIN");
    assert_eq!(a.run("close f"), "ok");
    until("the last close gives it back", || b.run("lock f sh 0 1") == "ok");
}

#[test]
fn who_waited_first_gets_it_first() {
    let volume = Volume::new();
    let (one, two) = (volume.mount(), volume.mount());
    let mut holder = Locker::on(&one.path("f"));
    for (wait, unlock) in [("wait f ex 5 1", "lock f un 0 0"), ("flock f ex", "flock f un")] {
        assert_eq!(holder.run(wait), "ok");
        let mut waiters: Vec<_> = [&two, &one, &two].into_iter().map(|mount| Locker::on(&mount.path("f"))).collect();
        for (at, waiter) in waiters.iter_mut().enumerate() {
            waiter.begin(wait);
            until("it waits", || volume.engine.figures().lock_waits == at as u64 + 1);
        }
        assert_eq!(holder.run(unlock), "ok");
        for at in 0..waiters.len() {
            assert_eq!(waiters[at].answer(), "ok");
            assert!(waiters[at + 1..].iter().all(Locker::is_waiting));
            assert_eq!(waiters[at].run(unlock), "ok");
        }
    }
}

#[test]
fn a_killed_waiter_dies_and_leaves_the_lock_to_the_next() {
    let volume = Volume::new();
    let (one, two) = (volume.mount(), volume.mount());
    let mut holder = Locker::on(&one.path("f"));
    assert_eq!(holder.run("lock f ex 0 0"), "ok");
    let (mut killed, mut next) = (Locker::on(&two.path("f")), Locker::on(&two.path("f")));
    killed.begin("wait f ex 0 0");
    until("it waits", || volume.engine.figures().lock_waits == 1);
    next.begin("wait f ex 0 0");
    until("it waits", || volume.engine.figures().lock_waits == 2);
    killed.child.kill().unwrap();
    assert!(end_of(&mut killed.child, Duration::from_secs(5)).is_some(), "still blocked 5 s after SIGKILL");
    assert!(next.is_waiting());
    assert_eq!(holder.run("lock f un 0 0"), "ok");
    assert_eq!(next.answer(), "ok");
    assert_eq!(volume.engine.figures().locks, 1);
    drop(next);
    until("nothing is left", || volume.engine.figures().locks == 0);
}

#[test]
fn a_signal_with_a_handler_interrupts_a_wait() {
    let volume = Volume::new();
    let (one, two) = (volume.mount(), volume.mount());
    let (mut holder, mut waiter) = (Locker::on(&one.path("f")), Locker::on(&two.path("f")));
    // More than once: after the first the kernel knows that it need not ask us to interrupt anything.
    for wait in ["wait f ex 0 0", "flock f ex", "wait f sh 3 1"] {
        assert_eq!(holder.run("flock f ex"), "ok");
        assert_eq!(holder.run("lock f ex 0 0"), "ok");
        assert_eq!(waiter.run("alarm 0.2"), "ok");
        let begun = Instant::now();
        assert_eq!(waiter.run(wait), "EINTR");
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        assert_eq!(holder.run("lock f un 0 0"), "ok");
        assert_eq!(holder.run("flock f un"), "ok");
        // Nothing is left of it, and it can wait again.
        until("nobody waits", || volume.engine.figures().lock_waits == 0);
        assert_eq!(holder.run("lock f ex 0 0"), "ok");
        assert_eq!(holder.run("lock f un 0 0"), "ok");
        assert_eq!(waiter.run("wait f ex 0 0"), "ok");
        assert_eq!(waiter.run("lock f un 0 0"), "ok");
    }
}

#[test]
fn a_wait_goes_on_after_signals_that_do_not_end_it() {
    let volume = Volume::new();
    let (one, two) = (volume.mount(), volume.mount());
    let (mut holder, mut waiter) = (Locker::on(&one.path("f")), Locker::on(&two.path("f")));
    assert_eq!(holder.run("lock f ex 0 0"), "ok");
    waiter.run("restart");
    waiter.run("alarm 0.1");
    waiter.begin("wait f ex 0 0");
    std::thread::sleep(Duration::from_millis(500));
    until("it waits again", || volume.engine.figures().lock_waits == 1);
    waiter.signal("STOP");
    until("it is stopped", || waiter.state() == 'T');
    assert_eq!(volume.engine.figures().lock_waits, 0);
    waiter.signal("CONT");
    until("it waits again", || volume.engine.figures().lock_waits == 1);
    // Blocked or ignored ones are none of its business.
    waiter.signal("CHLD");
    assert!(waiter.is_waiting());
    assert_eq!(holder.run("lock f un 0 0"), "ok");
    assert_eq!(waiter.answer(), "ok");
}

#[test]
fn a_process_dies_whichever_of_its_threads_waits() {
    let volume = Volume::new();
    let (one, two) = (volume.mount(), volume.mount());
    let mut holder = Locker::on(&one.path("f"));
    assert_eq!(holder.run("lock f ex 0 0"), "ok");
    for (signal, wait) in [("TERM", "thread f ex 0 0"), ("KILL", "thread f ex 0 0"), ("TERM", "wait f ex 0 0")] {
        let mut waiter = Locker::on(&two.path("f"));
        waiter.begin(wait);
        until("it waits", || volume.engine.figures().lock_waits == 1);
        waiter.signal(signal);
        assert!(end_of(&mut waiter.child, Duration::from_secs(5)).is_some(), "blocked 5 s after SIG{signal}");
        until("it waits no more", || volume.engine.figures().lock_waits == 0);
    }
    assert_eq!(volume.engine.figures().locks, 1);
}

#[test]
fn a_process_dies_while_its_writes_are_published_for_a_lock() {
    let volume = Volume::new();
    let (one, two) = (volume.mount(), volume.mount());
    let mut killed = Locker::on(&one.path("f"));
    assert_eq!(killed.run("write f bytes 0"), "ok");
    let stall = volume.store.stall(Operation::Put, 1);
    killed.begin("wait f sh 0 0");
    assert!(volume.runtime.block_on(stall.reached()));
    killed.child.kill().unwrap();
    // Once for the lock, once more for the close.
    assert!(end_of(&mut killed.child, Duration::from_secs(8)).is_some(), "still blocked 8 s after SIGKILL");
    stall.release();
    // What it wrote comes, and nothing of its lock stays.
    let mut next = Locker::on(&two.path("f"));
    until("it is published", || {
        assert_eq!(next.run("wait f ex 0 0"), "ok");
        let read = next.run("read f 5 0");
        assert_eq!(next.run("lock f un 0 0"), "ok");
        read == "bytes"
    });
    until("nothing is left", || volume.engine.figures().locks == 0);
}

#[test]
fn a_circle_of_waiters_is_refused() {
    let volume = Volume::new();
    let (one, two) = (volume.mount(), volume.mount());
    let (mut a, mut b) = (Locker::on(&one.path("f")), Locker::on(&two.path("f")));
    a.run("lock f ex 0 1");
    b.run("lock f ex 1 1");
    a.begin("wait f ex 1 1");
    until("it waits", || volume.engine.figures().lock_waits == 1);
    assert_eq!(b.run("wait f sh 0 1"), "EDEADLK");
    assert_eq!(b.run("lock f un 0 0"), "ok");
    assert_eq!(a.answer(), "ok");
}

#[test]
fn a_thousand_locks_are_kept_and_go_at_once() {
    let volume = Volume::new();
    let (one, two) = (volume.mount(), volume.mount());
    let (mut a, mut b) = (Locker::on(&one.path("f")), Locker::on(&two.path("f")));
    assert_eq!(a.run("many f 1000"), "ok");
    assert_eq!(volume.engine.figures().locks, 1000);
    assert_eq!(b.run("lock f sh 1998 1"), "EAGAIN");
    assert_eq!(b.run("lock f sh 1999 1"), "ok");
    // A file has room for 4,096.
    a.run(&format!("open g {}", one.path("g").display()));
    assert_eq!(a.run("many g 4096"), "ok");
    assert_eq!(a.run("lock g ex 100001 1"), "ENOLCK");
    assert_eq!(a.run("close g"), "ok");
    assert_eq!(a.run("close f"), "ok");
    assert_eq!(volume.engine.figures().locks, 1);
}

#[test]
fn what_is_written_under_a_lock_is_read_under_the_next() {
    let volume = Volume::new();
    let (one, two) = (volume.mount(), volume.mount());
    const ROUNDS: usize = 15;
    let mut lockers: Vec<_> =
        [&one, &two, &one, &two].into_iter().map(|mount| Locker::on(&mount.path("counter"))).collect();
    for locker in &mut lockers {
        locker.begin(&format!("count f {ROUNDS}"));
    }
    for locker in &lockers {
        assert_eq!(locker.answer(), "ok");
    }
    let count = std::fs::read_to_string(one.path("counter")).unwrap();
    assert_eq!(count.parse::<usize>().unwrap(), 4 * ROUNDS);
    assert_eq!(volume.engine.figures().locks, 0);
}

#[test]
fn a_lock_shows_what_others_wrote_also_beside_unpublished_writes() {
    let volume = Volume::new();
    let (one, two) = (volume.mount(), volume.mount());
    std::fs::write(one.path("f"), "old".repeat(100)).unwrap();
    let (mut a, mut b) = (Locker::on(&one.path("f")), Locker::on(&two.path("f")));
    assert_eq!((a.run("read f 3 0"), b.run("read f 3 0")), ("old".into(), "old".into()));
    assert_eq!(a.run("write f mine 100"), "ok");
    assert_eq!(b.run("lock f ex 0 3"), "ok");
    assert_eq!(b.run("write f new 0"), "ok");
    assert_eq!(b.run("write f end 300"), "ok");
    assert_eq!(b.run("lock f un 0 3"), "ok");
    assert_eq!(a.run("lock f ex 0 3"), "ok");
    assert_eq!(a.run("read f 6 0"), "newold");
    assert_eq!(a.run("read f 6 299"), "dend");
    assert_eq!(a.run("read f 4 100"), "mine");
    assert_eq!(a.run("lock f un 0 3"), "ok");
    assert_eq!(b.run("lock f sh 100 3"), "ok");
    assert_eq!(b.run("read f 4 100"), "mine");
}

#[test]
fn the_tools_of_every_day_work() {
    let volume = Volume::new();
    let (one, two) = (volume.mount(), volume.mount());
    let mut holder = Locker::on(&one.path("f"));
    assert_eq!(holder.run("flock f ex"), "ok");
    let flock =
        |dir: &Path| Command::new("flock").args(["-n", "-E", "9"]).arg(dir).arg("true").status().unwrap().code();
    assert_eq!((flock(&one.path("f")), flock(&two.path("f"))), (Some(9), Some(9)));
    // Given back by the end of each, before the next begins.
    assert_eq!(holder.run("flock f un"), "ok");
    for _ in 0..20 {
        assert_eq!(flock(&one.path("f")), Some(0));
    }
    let lockf = "import fcntl, sys\nf = open(sys.argv[1], 'r+')\nfcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)\nprint(open(sys.argv[1]).read())";
    assert_eq!(mounted::python(lockf, &[&two.path("f")]), "\n");
    assert_eq!(holder.run("lock f ex 0 0"), "ok");
}

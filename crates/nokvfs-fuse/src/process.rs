//! What `/proc` tells of the process behind a request.

use std::fs;
use std::io;
use std::time::Duration;

/// How often the signals of a thread that waits for a lock are looked at.
const LOOK: Duration = Duration::from_millis(200);

/// `PF_EXITING` of linux/sched.h: the task is past the point where it runs user code.
const PF_EXITING: u64 = 4;
const SIGKILL_BIT: u64 = 1 << (libc::SIGKILL - 1);

/// Whether a thread is being killed, so that nobody will use the answer it waits for.
///
/// A fatal signal puts SIGKILL into each thread's own pending set. A thread that is exiting has taken it out again; then
/// the signal that was sent to the process is still in the shared set. (A process that exits by itself has none there and
/// is waited for: its close must be durable too.)
pub(crate) fn is_dying(thread: u32) -> bool {
    let Ok(status) = fs::read_to_string(format!("/proc/{thread}/status")) else { return false };
    let own = signals(&status, "SigPnd:");
    let shared = signals(&status, "ShdPnd:");
    if (own | shared) & SIGKILL_BIT != 0 {
        return true;
    }
    shared != 0 && fs::read_to_string(format!("/proc/{thread}/stat")).is_ok_and(|stat| flags(&stat) & PF_EXITING != 0)
}

/// Whether a thread can be seen, so that its signals can.
pub(crate) fn is_visible(thread: u32) -> bool {
    thread != 0 && fs::exists(format!("/proc/{thread}/status")).is_ok_and(|found| found)
}

/// Ends once a signal is pending that the thread handles or dies of, so that the kernel makes EINTR of our answer.
///
/// A signal for the whole process counts for its main thread, which is the one that Linux gives it to unless that
/// blocks it, and only if it is still there at the next look: another thread that happened to run may be taking it.
/// (EINTR without a pending signal would reach the program as errno 512.)
pub(crate) async fn interrupted(thread: u32) {
    let mut shared_before = 0;
    loop {
        tokio::time::sleep(LOOK).await;
        let status = match fs::read_to_string(format!("/proc/{thread}/status")) {
            Ok(status) => status,
            // It is gone, so it has its answer already.
            Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH) => {
                return;
            }
            Err(_) => continue,
        };
        let (own, shared) = waking_signals(&status, thread);
        if own != 0 || shared & shared_before != 0 || is_dying(thread) {
            return;
        }
        shared_before = shared;
    }
}

/// Signals that are pending and neither blocked nor ignored: of the thread itself, and of its process if it is the main
/// thread.
pub(crate) fn waking_signals(status: &str, thread: u32) -> (u64, u64) {
    let wakes = !(signals(status, "SigBlk:") | signals(status, "SigIgn:"));
    let process = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    let is_main = process.and_then(|number| number.trim().parse().ok()) == Some(thread);
    let shared = if is_main { signals(status, "ShdPnd:") } else { 0 };
    (signals(status, "SigPnd:") & wakes, shared & wakes)
}

/// Supplementary groups of a thread; none if it is not visible.
pub(crate) fn groups(thread: u32) -> Vec<u32> {
    let Ok(status) = fs::read_to_string(format!("/proc/{thread}/status")) else { return Vec::new() };
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or("");
    line.split_whitespace().filter_map(|group| group.parse().ok()).collect()
}

fn signals(status: &str, field: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}

/// The seventh field after the command's name, which may itself hold spaces and parentheses.
fn flags(stat: &str) -> u64 {
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    fields.split_whitespace().nth(6).and_then(|flags| flags.parse().ok()).unwrap_or(0)
}

//! An HTTP proxy in front of an S3 store that does what networks and stores do.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is answered with this status, and not carried out.
    Status(u16),
    /// The connection ends before the request is passed on.
    Reset,
    /// It is carried out, and the connection ends instead of an answer.
    LostAnswer,
    /// The answer comes late.
    Late(Duration),
    /// The answer comes, and the connection stays half open for a while.
    SlowClose(Duration),
    /// A byte of the answer's body is another.
    Flip,
    /// The answer ends early.
    Truncate,
}

/// Each `nth` request meets the fault.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub fault: Fault,
    pub nth: u64,
}

pub struct Proxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    plan: Mutex<Option<Plan>>,
    requests: AtomicU64,
    faults: AtomicU64,
}

impl Proxy {
    /// Serves until the process ends.
    pub fn start(target: &str) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared::default());
        let (target, serving) = (target.to_owned(), Arc::clone(&shared));
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let (target, shared) = (target.clone(), Arc::clone(&serving));
                // An error ends the connection, as it should.
                std::thread::spawn(move || drop(serve(&near, &target, &shared)));
            }
        });
        Proxy { address, shared }
    }

    pub fn plan(&self, plan: Option<Plan>) {
        *self.shared.plan.lock().expect("whole") = plan;
    }

    /// How many requests met a fault since the last question.
    pub fn take_faults(&self) -> u64 {
        self.shared.faults.swap(0, Ordering::Relaxed)
    }
}

impl Shared {
    fn fault(&self) -> Option<Fault> {
        let plan = (*self.plan.lock().expect("whole"))?;
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        (number % plan.nth == plan.nth - 1).then(|| {
            self.faults.fetch_add(1, Ordering::Relaxed);
            plan.fault
        })
    }
}

/// The head of a message and its body.
type Message = (Vec<u8>, Vec<u8>);

/// Reads a message whose length its head tells; `None` at the end.
fn message(from: &mut BufReader<&TcpStream>, head_only: bool) -> io::Result<Option<Message>> {
    let (mut head, mut len) = (Vec::new(), 0);
    loop {
        let start = head.len();
        if from.read_until(b'\n', &mut head)? == 0 {
            return Ok(None);
        }
        let line = String::from_utf8_lossy(&head[start..]).to_ascii_lowercase();
        if let Some(text) = line.strip_prefix("content-length:") {
            len = text.trim().parse().map_err(io::Error::other)?;
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; if head_only { 0 } else { len }];
    from.read_exact(&mut body)?;
    Ok(Some((head, body)))
}

fn serve(near: &TcpStream, target: &str, shared: &Shared) -> io::Result<()> {
    let far = TcpStream::connect(target)?;
    let (mut asks, mut answers) = (BufReader::new(near), BufReader::new(&far));
    let (mut to_near, mut to_far) = (near, &far);
    while let Some((head, body)) = message(&mut asks, false)? {
        let fault = shared.fault();
        match fault {
            Some(Fault::Reset) => return Ok(()),
            Some(Fault::Status(status)) => {
                write!(to_near, "HTTP/1.1 {status} No\r\ncontent-length: 0\r\nretry-after: 0\r\n\r\n")?;
                continue;
            }
            _ => {}
        }
        to_far.write_all(&head)?;
        to_far.write_all(&body)?;
        let Some((head, mut body)) = message(&mut answers, head.starts_with(b"HEAD"))? else { return Ok(()) };
        match fault {
            Some(Fault::LostAnswer) => return Ok(()),
            Some(Fault::Late(pause)) => std::thread::sleep(pause),
            Some(Fault::Flip) => {
                let middle = body.len() / 2;
                body.iter_mut().skip(middle).take(1).for_each(|byte| *byte ^= 0x40);
            }
            Some(Fault::Truncate) => {
                to_near.write_all(&head)?;
                return to_near.write_all(&body[..body.len() / 2]);
            }
            _ => {}
        }
        to_near.write_all(&head)?;
        to_near.write_all(&body)?;
        if let Some(Fault::SlowClose(pause)) = fault {
            near.shutdown(std::net::Shutdown::Write)?;
            std::thread::sleep(pause);
            return Ok(());
        }
    }
    Ok(())
}

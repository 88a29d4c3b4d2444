//! The socket between plugin and mounter: lines with descriptors, and deadlines.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Reply, Request};

/// Longest line. A `Mount` holds three PEM texts (about 6 KiB); a `Mounts` of 256 handles takes about 128 KiB.
pub const MAX_LINE: usize = 256 * 1024;

/// Pause between attempts to connect while the listener's backlog is full.
const BACKLOG_PAUSE: Duration = Duration::from_millis(10);

/// Connections that may wait to be accepted; the plugin calls for one volume at a time, so few ever do.
const BACKLOG: i32 = 64;

/// What can go wrong between plugin and mounter.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Nobody listens.
    #[error("no mounter listens on {path}: is its container running? ({source})")]
    NoListener {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process listens there.
    #[error("another mounter listens on {0}: stop it first")]
    InUse(PathBuf),
    /// The deadline passed.
    #[error("no answer from the other side of the mounter socket before the deadline ({0})")]
    Deadline(&'static str),
    /// The other side ended the connection.
    #[error("the other side of the mounter socket ended the connection before a whole message came: see its log")]
    Closed,
    /// A message is longer than [`MAX_LINE`].
    #[error("a message on the mounter socket is longer than {MAX_LINE} bytes")]
    TooLong,
    /// More descriptors came than one message may hold.
    #[error("more than one descriptor came with a message on the mounter socket")]
    Descriptors,
    /// Not a message; plugin and mounter are of different versions.
    #[error("the message on the mounter socket can't be read ({0}): use plugin and mounter of the same version")]
    Malformed(String),
    /// The system refused.
    #[error("mounter socket: {0}")]
    Io(#[from] io::Error),
}

impl From<Errno> for WireError {
    fn from(errno: Errno) -> Self {
        WireError::Io(errno.into())
    }
}

type Result<T> = std::result::Result<T, WireError>;

/// The plugin's side.
#[derive(Debug)]
pub struct MounterClient {
    connection: Connection,
}

impl MounterClient {
    /// Connects to the mounter's socket.
    pub fn connect(path: &Path, deadline: Instant) -> Result<Self> {
        let address = address(path)?;
        let socket = stream_socket()?;
        loop {
            match rustix::net::connect(&socket, &address) {
                Ok(()) => return Ok(MounterClient { connection: Connection::new(socket) }),
                Err(Errno::AGAIN | Errno::INTR) if Instant::now() + BACKLOG_PAUSE < deadline => {
                    std::thread::sleep(BACKLOG_PAUSE);
                }
                Err(Errno::AGAIN | Errno::INTR) => return Err(WireError::Deadline("connect")),
                Err(errno) => return Err(WireError::NoListener { path: path.to_path_buf(), source: errno.into() }),
            }
        }
    }

    /// Sends a request, with a descriptor where it needs one.
    pub fn send_with_fd(&mut self, request: &Request, fd: Option<BorrowedFd<'_>>, deadline: Instant) -> Result<()> {
        self.connection.send(request, fd, deadline)
    }

    /// Waits for the reply.
    pub fn receive(&mut self, deadline: Instant) -> Result<Reply> {
        Ok(self.connection.receive(deadline)?.0)
    }

    /// Connects, asks once and waits for the reply.
    pub fn call(path: &Path, request: &Request, fd: Option<BorrowedFd<'_>>, deadline: Instant) -> Result<Reply> {
        let mut client = Self::connect(path, deadline)?;
        client.send_with_fd(request, fd, deadline)?;
        client.receive(deadline)
    }
}

/// The mounter's side.
#[derive(Debug)]
pub struct MounterListener {
    socket: OwnedFd,
    path: PathBuf,
}

impl MounterListener {
    /// Listens on `path`, readable by the own user only. A socket file that a dead mounter left is replaced.
    pub fn bind(path: &Path) -> Result<Self> {
        let address = address(path)?;
        if path.symlink_metadata().is_ok() {
            match rustix::net::connect(&stream_socket()?, &address) {
                Err(Errno::CONNREFUSED) => std::fs::remove_file(path)?,
                Ok(()) | Err(Errno::AGAIN) => return Err(WireError::InUse(path.to_path_buf())),
                Err(errno) => return Err(errno.into()),
            }
        }
        let socket = stream_socket()?;
        // The mode of a Unix socket that is not bound yet becomes the file's: it is never open to others, even briefly.
        rustix::fs::fchmod(&socket, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?;
        rustix::net::bind(&socket, &address)?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(MounterListener { socket, path: path.to_path_buf() })
    }

    /// Waits for the next connection; `None` when the deadline passes without one.
    pub fn accept(&self, deadline: Instant) -> Result<Option<Connection>> {
        loop {
            match rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(socket) => return Ok(Some(Connection::new(socket))),
                Err(Errno::AGAIN) => {
                    if !wait(self.socket.as_fd(), PollFlags::IN, deadline)? {
                        return Ok(None);
                    }
                }
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for MounterListener {
    fn drop(&mut self) {
        // A file that stays behind is recognised as dead by the next bind.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// One connection: a request, then its reply.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
}

impl Connection {
    fn new(socket: OwnedFd) -> Self {
        Connection { socket }
    }

    /// The mounter's side: waits for the request and the descriptor that may come with it.
    pub fn recv_with_fd(&mut self, deadline: Instant) -> Result<(Request, Option<OwnedFd>)> {
        self.receive(deadline)
    }

    /// The mounter's side: answers the request.
    pub fn reply(&mut self, reply: &Reply, deadline: Instant) -> Result<()> {
        self.send(reply, None, deadline)
    }

    fn send<M: Serialize>(&mut self, message: &M, fd: Option<BorrowedFd<'_>>, deadline: Instant) -> Result<()> {
        let mut line = serde_json::to_vec(message).map_err(|e| WireError::Malformed(e.to_string()))?;
        line.push(b'\n');
        if line.len() > MAX_LINE {
            return Err(WireError::TooLong);
        }
        let mut sent = 0;
        while sent < line.len() {
            // The descriptor goes with the first byte, once.
            let fds = fd.filter(|_| sent == 0).map(|fd| [fd]);
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if let Some(fds) = &fds {
                control.push(SendAncillaryMessage::ScmRights(fds));
            }
            match rustix::net::sendmsg(&self.socket, &[IoSlice::new(&line[sent..])], &mut control, SendFlags::NOSIGNAL)
            {
                Ok(count) => sent += count,
                Err(Errno::AGAIN) => {
                    if !wait(self.socket.as_fd(), PollFlags::OUT, deadline)? {
                        return Err(WireError::Deadline("send"));
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(WireError::Closed),
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    fn receive<M: DeserializeOwned>(&mut self, deadline: Instant) -> Result<(M, Option<OwnedFd>)> {
        let mut line = Vec::new();
        let mut fd = None;
        loop {
            let mut chunk = [0; 8192];
            let count = match self.receive_chunk(&mut chunk, &mut fd) {
                Ok(count) => count,
                Err(WireError::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => {
                    if !wait(self.socket.as_fd(), PollFlags::IN, deadline)? {
                        return Err(WireError::Deadline("receive"));
                    }
                    continue;
                }
                Err(WireError::Io(e)) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            if count == 0 {
                return Err(WireError::Closed);
            }
            let end = chunk[..count].iter().position(|byte| *byte == b'\n');
            line.extend_from_slice(&chunk[..end.unwrap_or(count)]);
            if line.len() >= MAX_LINE {
                return Err(WireError::TooLong);
            }
            if end.is_some() {
                let message = serde_json::from_slice(&line).map_err(|e| WireError::Malformed(e.to_string()))?;
                return Ok((message, fd));
            }
        }
    }

    fn receive_chunk(&self, chunk: &mut [u8], fd: &mut Option<OwnedFd>) -> Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = match rustix::net::recvmsg(
            &self.socket,
            &mut [IoSliceMut::new(chunk)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        ) {
            Err(Errno::CONNRESET) => return Err(WireError::Closed),
            other => other?,
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                for received in fds {
                    if fd.replace(received).is_some() {
                        return Err(WireError::Descriptors);
                    }
                }
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(WireError::Descriptors);
        }
        Ok(received.bytes)
    }
}

fn stream_socket() -> Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}

fn address(path: &Path) -> Result<SocketAddrUnix> {
    SocketAddrUnix::new(path).map_err(|errno| {
        WireError::Io(io::Error::new(
            io::Error::from(errno).kind(),
            format!("{} can't name a socket (107 bytes at most)", path.display()),
        ))
    })
}

/// Waits until the socket is ready; false when the deadline passes first.
fn wait(socket: BorrowedFd<'_>, events: PollFlags, deadline: Instant) -> Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::from_borrowed_fd(socket, events)], Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

//! Unix sockets for gRPC.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;

/// Owner and group: the sidecars of the controller run as another user of the pod's group.
const MODE: u32 = 0o660;

/// Listens on `path`. A socket that an earlier process left is replaced; anything else in its place is not.
pub async fn listen(path: &Path) -> io::Result<UnixListenerStream> {
    match path.symlink_metadata() {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!("{} is there and no socket", path.display()),
            ));
        }
        Ok(_) if tokio::net::UnixStream::connect(path).await.is_ok() => {
            let message = format!("another process listens on {}: stop it first", path.display());
            return Err(io::Error::new(io::ErrorKind::AddrInUse, message));
        }
        Ok(_) => std::fs::remove_file(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(MODE))?;
    Ok(UnixListenerStream::new(listener))
}

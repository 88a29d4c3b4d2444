//! A tree that shows at its place all at once.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use nokvfs_client::Fs;
use nokvfs_types::RenameMode;

/// A place beside the destination, under a name that begins with a dot.
pub struct Staged {
    path: PathBuf,
    to: PathBuf,
}

impl Staged {
    /// A place that nothing is at. What an earlier process of the same number left there goes.
    pub async fn new(fs: &Fs, to: &Path) -> anyhow::Result<Staged> {
        let name = to.file_name().with_context(|| format!("{} has no name of its own", to.display()))?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".put-{}", std::process::id()));
        ensure!(hidden.len() <= 255, "{} is too long a name to be put at once", name.to_string_lossy());
        let path = to.with_file_name(hidden);
        if fs.lstat(&path).await.is_ok() {
            fs.remove_all(&path).await?;
        }
        Ok(Staged { path, to: to.to_owned() })
    }

    /// Where to copy to.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Shows what was copied. What was there goes after that.
    pub async fn publish(self, fs: &Fs) -> anyhow::Result<()> {
        match fs.lstat(&self.to).await {
            Ok(_) => {
                fs.rename(&self.path, &self.to, RenameMode::Exchange).await?;
                self.drop(fs).await
            }
            Err(error) if error.is_not_found() => Ok(fs.rename(&self.path, &self.to, RenameMode::NoReplace).await?),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes what is at the hidden place.
    pub async fn drop(self, fs: &Fs) -> anyhow::Result<()> {
        fs.remove_all(&self.path).await.with_context(|| format!("removing {}", self.path.display()))?;
        Ok(())
    }
}

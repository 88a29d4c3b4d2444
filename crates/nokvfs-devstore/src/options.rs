//! Construction options.

use std::fmt;
use std::path::PathBuf;

use crate::DevStoreError;

/// What a trial store serves, and to whom.
#[derive(Clone)]
pub struct DevStoreOptions {
    /// Directory of the data; made if absent. Its file system must have O_TMPFILE (ext4, xfs, btrfs, tmpfs).
    pub dir: PathBuf,
    /// The one bucket.
    pub bucket: String,
    /// The one access key id.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
}

impl fmt::Debug for DevStoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DevStoreOptions").field("dir", &self.dir).field("bucket", &self.bucket).finish_non_exhaustive()
    }
}

impl DevStoreOptions {
    pub(crate) fn validate(&self) -> Result<(), DevStoreError> {
        if !s3s::path::check_bucket_name(&self.bucket) {
            let reason = format!("3 to 63 of a-z, 0-9, '-' and '.', not {:?}", self.bucket);
            return Err(DevStoreError::Option { option: "bucket", reason });
        }
        for (option, key) in [("access_key", &self.access_key), ("secret_key", &self.secret_key)] {
            if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
                let reason = "is empty or has blanks or line breaks in it".to_owned();
                return Err(DevStoreError::Option { option, reason });
            }
        }
        Ok(())
    }
}

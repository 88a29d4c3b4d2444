//! Bodies of files: reading, read-ahead, bounded writing, staging and compaction, over a
//! [`MetadataService`](nokvfs_meta::service::MetadataService) and an [`ObjectStore`](nokvfs_object::ObjectStore). FUSE and the
//! SDK share this one data path.
//!
//! Owns: the frames inside block objects, the stage of unpublished writes, the cache of read frames, upload ids.
//! Must not: resolve names, own metadata layout, know an object provider.
//! Invariants: nothing is published before its objects are durable; written bytes leave the stage only once they are in
//! the object store; [`OpenFile::sync`] answers success only when all that was written before is published; stage and
//! cache stay within [`BodyOptions`]; no lock is held across a request.

mod append;
mod codec;
mod compact;
mod errors;
mod fallocate;
mod file;
mod frames;
mod job;
mod options;
mod pack;
mod publish;
mod ranges;
mod read;
mod stage;
mod store;
mod stream;
#[cfg(test)]
mod tests;
mod uploads;
mod write;

pub use codec::{FRAME_PAYLOAD, decode_frames, encode_frames, framed_len};
pub use errors::BodyError;
pub use fallocate::RangeChange;
pub use file::OpenFile;
pub use options::BodyOptions;
pub use store::Bodies;
pub use stream::ReadStream;

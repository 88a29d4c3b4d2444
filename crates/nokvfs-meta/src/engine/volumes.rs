//! Volumes.

use std::time::Duration;

use bytes::Bytes;
use nokvfs_failpoint::failpoint;
use nokvfs_object::ObjectError;
use nokvfs_types::{
    FileKind, InodeId, MetaError, MountId, Token, UploadId, Version, VolumeId, VolumeInfo, VolumeSpec, VolumeState,
    VolumeUsage, owner_key,
};
use sha2::{Digest, Sha256};

use super::snapshots::is_needed;
use super::{Core, Engine, object_error};
use crate::commit::Txn;
use crate::layout::{
    AllocatorRecord, Body, CountersRecord, InodeRecord, Key, KeyPrefix, ServerRecord, VolumeNameRecord, VolumeRecord,
    VolumeUuidRecord,
};
use crate::lineage::Lineage;
use crate::service::{MetaResult, VolumeService};
use crate::store::ReadRecords;

/// Longest name of a volume.
const NAME_MAX: usize = 253;
/// Most volumes of one listing.
const LIST_MAX: u32 = 1000;
/// How long the marker of a volume may take when a session is opened.
const OWNER_WAIT: Duration = Duration::from_secs(5);

#[async_trait::async_trait]
impl VolumeService for Engine {
    async fn create_volume(&self, spec: VolumeSpec) -> MetaResult<(VolumeInfo, Token)> {
        check_spec(&spec)?;
        let core = self.core();
        if let Some((found, _)) = core.store.get::<VolumeNameRecord>(&Key::VolumeName(spec.name.clone()))? {
            return core.same(found.mount, &spec).await;
        }
        let id = VolumeId::random();
        core.claim(id).await?;
        failpoint!("volume.claimed");
        let token = core.token(id, 0)?;
        let token_hash = Sha256::digest(token.0).into();
        let wanted = spec.clone();
        let made = core.committer.submit(move |txn| create(txn, id, &wanted, token_hash)).await;
        match made {
            Ok(None) => {
                failpoint!("volume.made");
                Ok((core.volume_info(id).await?, token))
            }
            Ok(Some(mount)) => {
                core.disown(id).await;
                core.same(mount, &spec).await
            }
            // It may have been made: repeated, the call finds it.
            Err(error @ (MetaError::Unavailable(_) | MetaError::Internal(_))) => Err(error),
            Err(error) => {
                core.disown(id).await;
                Err(error)
            }
        }
    }

    async fn volume(&self, id: VolumeId) -> MetaResult<VolumeInfo> {
        self.core().volume_info(id).await
    }

    async fn list_volumes(&self, after: Option<&str>, limit: u32) -> MetaResult<Vec<VolumeInfo>> {
        if limit == 0 || limit > LIST_MAX {
            return Err(MetaError::Invalid(format!("list 1 to {LIST_MAX} volumes at once, not {limit}")));
        }
        let core = self.core();
        let after = after.filter(|after| !after.is_empty()).map(|name| Key::VolumeName(name.to_owned()));
        let counts = core.sessions.counts();
        let (infos, version) = core.store.view(|reads| {
            let mut mounts = Vec::new();
            reads.scan::<VolumeNameRecord>(
                &KeyPrefix::volume_names(),
                after.as_ref(),
                limit as usize,
                |_, found, _| {
                    mounts.push(found.mount);
                },
            )?;
            let mut infos = Vec::with_capacity(mounts.len());
            let mut newest = Version(0);
            for mount in mounts {
                let Some((record, version)) = reads.get::<VolumeRecord>(&Key::Volume(mount))? else { continue };
                let counters = reads.get::<CountersRecord>(&Key::Counters(mount))?;
                newest = newest.max(version).max(counters.map_or(Version(0), |(_, version)| version));
                let sessions = counts.get(&mount).copied().unwrap_or(0);
                infos.push(info(mount, record, counters.map(|(counters, _)| counters), sessions));
            }
            Ok((infos, newest))
        })?;
        core.shown(version).await?;
        Ok(infos)
    }

    async fn set_quota(&self, id: VolumeId, bytes: u64, inodes: u64) -> MetaResult<VolumeInfo> {
        let core = self.core();
        core.committer
            .submit(move |txn| {
                let reference: VolumeUuidRecord = txn.get(&Key::VolumeUuid(id))?.ok_or(MetaError::NotFound)?;
                let key = Key::Volume(reference.mount);
                let mut record: VolumeRecord = txn.get(&key)?.ok_or(MetaError::NotFound)?;
                record.spec.quota_bytes = bytes;
                record.spec.quota_inodes = inodes;
                txn.put(&key, &record)
            })
            .await?;
        core.volume_info(id).await
    }

    async fn delete_volume(&self, id: VolumeId) -> MetaResult<()> {
        let core = self.core();
        core.committer
            .submit(move |txn| {
                let Some(reference) = txn.get::<VolumeUuidRecord>(&Key::VolumeUuid(id))? else { return Ok(()) };
                let key = Key::Volume(reference.mount);
                let Some(mut record) = txn.get::<VolumeRecord>(&key)? else { return Ok(()) };
                if record.state != VolumeState::Active {
                    return Ok(());
                }
                if !txn.is_empty(&KeyPrefix::sessions_of(reference.mount))? {
                    return Err(MetaError::Busy(
                        "the volume is mounted; unmount it everywhere, or wait until lost mounts have expired".into(),
                    ));
                }
                // Deleted, it has no name, and is there for its snapshots and those who build on it.
                record.state = match is_needed(txn, reference.mount, &record)? {
                    true => VolumeState::Hidden,
                    false => VolumeState::Deleting,
                };
                if record.state == VolumeState::Hidden {
                    record.prune = txn.version();
                    txn.delete(&Key::VolumeName(record.spec.name.clone()))?;
                }
                txn.put(&key, &record)
            })
            .await?;
        failpoint!("volume.deleting");
        core.wake.volumes.notify_one();
        core.wake.history.notify_one();
        Ok(())
    }
}

impl Core {
    /// A volume by its identity.
    pub(crate) fn find_volume(&self, id: VolumeId) -> MetaResult<Option<(MountId, VolumeRecord)>> {
        let Some((reference, _)) = self.store.get::<VolumeUuidRecord>(&Key::VolumeUuid(id))? else { return Ok(None) };
        let record = self.store.get::<VolumeRecord>(&Key::Volume(reference.mount))?;
        Ok(record.map(|(record, _)| (reference.mount, record)))
    }

    /// What a volume is now.
    pub(crate) async fn volume_info(&self, id: VolumeId) -> MetaResult<VolumeInfo> {
        let (reference, _) = self.store.get::<VolumeUuidRecord>(&Key::VolumeUuid(id))?.ok_or(MetaError::NotFound)?;
        self.mount_info(reference.mount).await
    }

    async fn mount_info(&self, mount: MountId) -> MetaResult<VolumeInfo> {
        let (record, mut version) = self.store.get::<VolumeRecord>(&Key::Volume(mount))?.ok_or(MetaError::NotFound)?;
        let counters = self.store.get::<CountersRecord>(&Key::Counters(mount))?;
        version = version.max(counters.map_or(Version(0), |(_, version)| version));
        self.shown(version).await?;
        let sessions = u32::try_from(self.sessions.of(mount).len()).unwrap_or(u32::MAX);
        Ok(info(mount, record, counters.map(|(counters, _)| counters), sessions))
    }

    /// Answers a creation with the volume that has the name.
    async fn same(&self, mount: MountId, spec: &VolumeSpec) -> MetaResult<(VolumeInfo, Token)> {
        let (record, version) = self
            .store
            .get::<VolumeRecord>(&Key::Volume(mount))?
            .ok_or_else(|| MetaError::Busy(format!("volume {} has just been deleted; try again", spec.name)))?;
        self.shown(version).await?;
        if record.state == VolumeState::Deleting {
            return Err(MetaError::Busy(format!("a volume {} is being deleted; try again later", spec.name)));
        }
        let with_quota =
            VolumeSpec { quota_bytes: record.spec.quota_bytes, quota_inodes: record.spec.quota_inodes, ..spec.clone() };
        if with_quota != record.spec {
            return Err(MetaError::Exists);
        }
        let token = self.token(record.id, record.token_epoch)?;
        Ok((self.mount_info(mount).await?, token))
    }

    /// Puts the marker that makes a volume's objects ours.
    pub(super) async fn claim(&self, id: VolumeId) -> MetaResult<()> {
        let ours = Bytes::from(self.server.uuid.to_string().into_bytes());
        let put = self.objects.put_if_absent(&owner_key(id), ours).await;
        if put.map_err(|error| object_error(&error))? {
            self.owned.lock().insert(id);
            return Ok(());
        }
        self.check_marker(id).await
    }

    /// Refuses a volume whose marker is another server's. One without a marker is gone or was never used.
    pub(crate) async fn check_marker(&self, id: VolumeId) -> MetaResult<()> {
        match self.objects.get(&owner_key(id), None).await {
            Ok(found) if found == self.server.uuid.to_string().as_bytes() => {
                self.owned.lock().insert(id);
                Ok(())
            }
            Ok(found) => Err(foreign(id, &found)),
            Err(ObjectError::NotFound(_)) => Ok(()),
            Err(error) => Err(object_error(&error)),
        }
    }

    /// Whether a volume's objects are another server's: this one runs on metadata of an earlier time.
    pub(crate) async fn is_foreign(&self, id: VolumeId) -> MetaResult<bool> {
        if self.owned.lock().contains(&id) {
            return Ok(false);
        }
        match self.check_marker(id).await {
            Err(MetaError::Unauthorized(reason)) => {
                tracing::error!(volume = %id, reason, "objects are left to their owner");
                Ok(true)
            }
            answer => answer.map(|()| false),
        }
    }

    /// Refuses a volume whose objects are another server's: two servers on one copy of the metadata would delete each
    /// other's. A store that does not answer holds no session up; the next one looks again.
    pub(crate) async fn check_owner(&self, id: VolumeId) -> MetaResult<()> {
        if self.owned.lock().contains(&id) {
            return Ok(());
        }
        match tokio::time::timeout(OWNER_WAIT, self.claim(id)).await {
            Ok(Err(error @ MetaError::Unauthorized(_))) => Err(error),
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                tracing::warn!(volume = %id, %error, "the owner of a volume's objects could not be checked");
                Ok(())
            }
            Err(_) => {
                tracing::warn!(volume = %id, "the owner of a volume's objects could not be checked in time");
                Ok(())
            }
        }
    }

    /// Removes the marker of a volume that was not made.
    pub(super) async fn disown(&self, id: VolumeId) {
        self.owned.lock().remove(&id);
        if let Err(error) = self.objects.delete(&[owner_key(id)]).await {
            tracing::warn!(volume = %id, %error, "the marker object of a volume that was not made stays behind");
        }
    }
}

fn foreign(id: VolumeId, found: &[u8]) -> MetaError {
    MetaError::Unauthorized(format!(
        "the objects of volume {id} belong to metadata server {}; give this server its own bucket or prefix, or remove \
         the object {} if that server is gone for good",
        String::from_utf8_lossy(found),
        owner_key(id)
    ))
}

fn info(mount: MountId, record: VolumeRecord, counters: Option<CountersRecord>, sessions: u32) -> VolumeInfo {
    let usage = counters
        .map_or_else(VolumeUsage::default, |counters| VolumeUsage { bytes: counters.bytes, inodes: counters.inodes });
    let origins = Lineage::new(mount, &record, None).origins();
    VolumeInfo { id: record.id, mount, spec: record.spec, state: record.state, usage, sessions, origins }
}

/// Refuses what can't name a volume or a snapshot.
pub(super) fn check_name(name: &str) -> MetaResult<()> {
    let bytes = name.as_bytes();
    let ends = [bytes.first(), bytes.last()].into_iter().flatten().all(u8::is_ascii_alphanumeric);
    let allowed = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    if bytes.is_empty() || bytes.len() > NAME_MAX || !ends || !bytes.iter().all(allowed) {
        return Err(MetaError::Invalid(format!(
            "{name:?} can't be a name: 1 to {NAME_MAX} of a-z, 0-9, '-' and '.', a letter or digit at both ends"
        )));
    }
    Ok(())
}

fn check_spec(spec: &VolumeSpec) -> MetaResult<()> {
    check_name(&spec.name)?;
    if spec.root_mode > 0o7777 {
        return Err(MetaError::Invalid(format!("root mode {:o} has more than 12 bits", spec.root_mode)));
    }
    Ok(())
}

/// Makes a volume; answers the one that has the name already, if there is one.
fn create(txn: &mut Txn<'_>, id: VolumeId, spec: &VolumeSpec, token_hash: [u8; 32]) -> MetaResult<Option<MountId>> {
    let name = Key::VolumeName(spec.name.clone());
    if let Some(found) = txn.get::<VolumeNameRecord>(&name)? {
        return Ok(Some(found.mount));
    }
    let record = VolumeRecord {
        id,
        spec: spec.clone(),
        state: VolumeState::Active,
        token_hash,
        token_epoch: 0,
        pinned: Version(0),
        prune: Version(0),
        first_upload: UploadId(1),
        bases: Vec::new(),
        formers: Vec::new(),
    };
    let allocators = AllocatorRecord { next_inode: InodeId::ROOT.0 + 1, next_upload: record.first_upload.0 };
    let counters = CountersRecord { inodes: 1, ..CountersRecord::default() };
    let mount = insert(txn, Made { record, allocators, counters })?;
    let now = txn.now();
    let root = InodeRecord {
        kind: FileKind::Directory,
        mode: spec.root_mode,
        uid: spec.root_uid,
        gid: spec.root_gid,
        nlink: 2,
        size: 0,
        mapped: 0,
        rdev: 0,
        atime: now,
        mtime: now,
        ctime: now,
        btime: now,
        parent: InodeId::ROOT,
        xattr_bytes: 0,
        body: Body::None,
    };
    txn.put(&Key::Inode(mount, InodeId::ROOT), &root)?;
    Ok(None)
}

/// A volume to be.
pub(super) struct Made {
    pub record: VolumeRecord,
    pub allocators: AllocatorRecord,
    pub counters: CountersRecord,
}

/// Gives a volume a number, and that number its name and identity.
pub(super) fn insert(txn: &mut Txn<'_>, made: Made) -> MetaResult<MountId> {
    txn.check_room()?;
    let mut server: ServerRecord =
        txn.get(&Key::Server)?.ok_or_else(|| MetaError::Corrupt("the server's own record is missing".into()))?;
    let mount = MountId(server.next_mount);
    server.next_mount += 1;
    txn.put(&Key::Server, &server)?;
    txn.put(&Key::VolumeName(made.record.spec.name.clone()), &VolumeNameRecord { mount })?;
    txn.put(&Key::VolumeUuid(made.record.id), &VolumeUuidRecord { mount })?;
    txn.put(&Key::Volume(mount), &made.record)?;
    txn.put(&Key::Counters(mount), &made.counters)?;
    txn.put(&Key::Allocator(mount), &made.allocators)?;
    Ok(mount)
}

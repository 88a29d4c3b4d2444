//! A disk that loses power: what was synced stays, of the rest any part.

use std::collections::BTreeMap;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::disk::{Event, File};

/// How a disk loses what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// As ext4 (ordered) and XFS do: what was appended stays up to some byte, names come and go in order and are durable
    /// with any fsync. What was overwritten is torn by sectors.
    Ordered,
    /// As POSIX allows: any sectors of what was appended, zeroes between them; names only by fsync of their directory.
    Any,
}

/// Random numbers (splitmix64).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

#[derive(Clone, Copy, Debug)]
enum Change<'e> {
    Truncate(u64),
    Write(u64, &'e [u8]),
}

#[derive(Clone, Debug)]
enum Naming {
    Create(PathBuf, File),
    Mkdir(PathBuf),
    Rename(PathBuf, PathBuf),
    Unlink(PathBuf),
}

#[derive(Default)]
struct Content<'e> {
    durable: Vec<u8>,
    pending: Vec<Change<'e>>,
}

/// The disk as a recording leaves it.
pub struct Disk<'e> {
    loss: Loss,
    files: BTreeMap<File, Content<'e>>,
    names: BTreeMap<PathBuf, Option<File>>,
    pending: Vec<Naming>,
    /// The last number whose caller was told.
    pub told: u64,
}

impl<'e> Disk<'e> {
    pub fn new(loss: Loss) -> Self {
        Disk { loss, files: BTreeMap::new(), names: BTreeMap::new(), pending: Vec::new(), told: 0 }
    }

    pub fn apply(&mut self, event: &'e Event) {
        match event {
            Event::Create(path, file) => {
                self.files.insert(*file, Content::default());
                self.pending.push(Naming::Create(path.clone(), *file));
            }
            Event::Mkdir(path) => self.pending.push(Naming::Mkdir(path.clone())),
            Event::Rename(from, to) => self.pending.push(Naming::Rename(from.clone(), to.clone())),
            Event::Unlink(path) => self.pending.push(Naming::Unlink(path.clone())),
            Event::Truncate(file, len) => self.change(*file, Change::Truncate(*len)),
            Event::Write(file, at, bytes) => self.change(*file, Change::Write(*at, bytes)),
            Event::Sync(file) => {
                if let Some(content) = self.files.get_mut(file) {
                    for change in std::mem::take(&mut content.pending) {
                        whole(&mut content.durable, change);
                    }
                }
                if self.loss == Loss::Ordered {
                    self.settle_names(|_| true);
                }
            }
            Event::SyncDir(dir) => {
                let ordered = self.loss == Loss::Ordered;
                self.settle_names(|path| ordered || path.parent() == Some(dir));
            }
            Event::Told(number) => self.told = self.told.max(*number),
        }
    }

    fn change(&mut self, file: File, change: Change<'e>) {
        self.files.entry(file).or_default().pending.push(change);
    }

    fn settle_names(&mut self, which: impl Fn(&Path) -> bool) {
        for naming in std::mem::take(&mut self.pending) {
            let path = match &naming {
                Naming::Create(path, _) | Naming::Mkdir(path) | Naming::Rename(path, _) | Naming::Unlink(path) => path,
            };
            if which(path) {
                name(&mut self.names, &naming);
            } else {
                self.pending.push(naming);
            }
        }
    }

    /// Cuts the power, and writes what is left of `root` to `to`.
    pub fn cut(&self, random: &mut Random, root: &Path, to: &Path) {
        let mut names = self.names.clone();
        let kept = random.below(self.pending.len() as u64 + 1) as usize;
        self.pending[..kept].iter().for_each(|naming| name(&mut names, naming));
        for (path, file) in names {
            let Ok(inner) = path.strip_prefix(root) else { continue };
            let path = to.join(inner);
            // Whose directory was lost is lost, too.
            if !path.parent().is_some_and(Path::is_dir) {
                continue;
            }
            match file.and_then(|file| self.files.get(&file)) {
                Some(content) => write_sparse(&path, &self.torn(content, random)),
                None => drop(std::fs::create_dir(&path)),
            }
        }
    }

    fn torn(&self, content: &Content<'_>, random: &mut Random) -> Vec<u8> {
        let mut bytes = content.durable.clone();
        // In eighths; all and nothing are as likely as something between.
        let keep = [0, 4, 7, 8][random.below(4) as usize];
        let sector = [512, 4096][random.below(2) as usize];
        for change in &content.pending {
            match *change {
                // What follows relies on it.
                Change::Truncate(_) if random.below(8) >= keep => break,
                Change::Truncate(_) => whole(&mut bytes, *change),
                Change::Write(at, new) => {
                    if !write_torn(&mut bytes, at, new, (sector, keep), self.loss, random) {
                        break;
                    }
                }
            }
        }
        bytes
    }
}

/// Writes some sectors. `false`: the file ended before the end of the write, and no later write is behind it.
fn write_torn(
    bytes: &mut Vec<u8>,
    at: u64,
    new: &[u8],
    (sector, keep): (u64, u64),
    loss: Loss,
    random: &mut Random,
) -> bool {
    let mut from = 0;
    while from < new.len() {
        let start = at + from as u64;
        let len = ((sector - start % sector) as usize).min(new.len() - from);
        if random.below(8) < keep {
            whole(bytes, Change::Write(start, &new[from..from + len]));
        } else if start + len as u64 > bytes.len() as u64 && loss == Loss::Ordered {
            return false;
        }
        from += len;
    }
    true
}

fn whole(bytes: &mut Vec<u8>, change: Change<'_>) {
    match change {
        Change::Truncate(len) => bytes.resize(len as usize, 0),
        Change::Write(at, new) => {
            let end = at as usize + new.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[at as usize..end].copy_from_slice(new);
        }
    }
}

fn name(names: &mut BTreeMap<PathBuf, Option<File>>, naming: &Naming) {
    match naming {
        Naming::Create(path, file) => drop(names.insert(path.clone(), Some(*file))),
        Naming::Mkdir(path) => drop(names.insert(path.clone(), None)),
        Naming::Rename(from, to) => {
            if let Some(file) = names.remove(from) {
                names.insert(to.clone(), file);
            }
        }
        Naming::Unlink(path) => drop(names.remove(path)),
    }
}

pub fn write_sparse(path: &Path, bytes: &[u8]) {
    let mut file = std::fs::File::create(path).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    for (number, page) in bytes.chunks(4096).enumerate() {
        if page.iter().any(|byte| *byte != 0) {
            file.seek(SeekFrom::Start(number as u64 * 4096)).unwrap();
            file.write_all(page).unwrap();
        }
    }
}

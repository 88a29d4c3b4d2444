//! What the process that is ended does, step by step, and what a volume holds after each.

use std::collections::BTreeMap;

/// One thing that its caller waits for.
#[derive(Clone, Debug)]
pub enum Step {
    /// Makes the volume and opens a session.
    Begin,
    Mkdir(&'static str),
    /// Answered before it is durable (RFC 2).
    Create(&'static str),
    /// Writes so many bytes of a pattern and syncs: one publish.
    Write(&'static str, usize, u8),
    /// The same for several files at once, from a session of its own that ends then.
    Pack(&'static [&'static str], u8),
    /// So many small pieces with gaps: the chunk is rewritten.
    Scatter(&'static str, usize),
    Truncate(&'static str, usize),
    /// Writes whole blocks and gives them up.
    GiveUp(&'static str),
    Rename(&'static str, &'static str),
    Link(&'static str, &'static str),
    Unlink(&'static str),
    Rmdir(&'static str),
    Symlink(&'static str),
    Xattr(&'static str),
    /// Another client takes the session over.
    TakeOver,
    /// The server ends and starts again; the client finds it.
    Restart,
    /// The disk refuses writes for a moment.
    DiskTrouble,
    /// A session with an upload that nobody publishes, and that is never heard of again.
    Silence,
    /// Makes a volume, uses it and deletes it.
    Volume,
    /// Waits until nothing is left to collect.
    Quiet,
    /// Ends the session and closes the server.
    End,
}

impl Step {
    /// Answered before it can't be lost any more.
    pub fn is_early(&self) -> bool {
        matches!(self, Step::Create(_))
    }

    /// Happens as a whole.
    pub fn is_atomic(&self) -> bool {
        !matches!(self, Step::Pack(..))
    }
}

pub const PACKED: [&str; 4] = ["d/p1", "d/p2", "d/p3", "d/p4"];

pub fn steps() -> Vec<Step> {
    let mut steps = vec![Step::Begin, Step::Mkdir("d"), Step::Create("d/a"), Step::Write("d/a", 3000, 1)];
    steps.extend(PACKED.map(Step::Create));
    steps.extend([
        Step::Pack(&PACKED, 2),
        Step::Create("d/big"),
        Step::Write("d/big", 5 << 20, 3),
        Step::Write("d/p1", 200, 4),
        Step::Create("d/s"),
        Step::Scatter("d/s", 300),
        Step::Truncate("d/big", (1 << 20) + 7),
        Step::Restart,
        Step::Rename("d/a", "d/a2"),
        Step::Link("d/a2", "l"),
        Step::Symlink("d/y"),
        Step::Xattr("d/a2"),
        Step::TakeOver,
        Step::GiveUp("d/big"),
        Step::Rename("d/p2", "d/p3"),
        Step::DiskTrouble,
        Step::Silence,
        Step::Unlink("d/p3"),
        Step::Unlink("d/p1"),
        Step::Unlink("d/p4"),
        Step::Unlink("l"),
        Step::Unlink("d/big"),
        Step::Mkdir("e"),
        Step::Rmdir("e"),
        Step::Volume,
        Step::Quiet,
        Step::Create("last"),
        Step::Write("last", 100_000, 9),
        Step::End,
    ]);
    steps
}

/// What is seen of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Dir,
    /// Content, and the value of the attribute.
    File(Vec<u8>, Option<Vec<u8>>),
    Symlink,
}

/// What is seen of a volume; `None`: there is none.
pub type Tree = Option<BTreeMap<String, Seen>>;

pub fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|at| (at / 3 % 251) as u8 ^ seed).collect()
}

/// A piece of [`Step::Scatter`].
pub const PIECE: usize = 100;
pub const GAP: usize = 8192;

/// What each step leaves, the start included.
pub fn trees(steps: &[Step]) -> Vec<Tree> {
    let mut trees = vec![None];
    for step in steps {
        let tree = after(trees.last().expect("one"), step);
        trees.push(tree);
    }
    trees
}

fn after(before: &Tree, step: &Step) -> Tree {
    let mut tree = before.clone().unwrap_or_default();
    let content = |path: &str, change: &dyn Fn(&mut Vec<u8>), tree: &mut BTreeMap<String, Seen>| {
        let Some(Seen::File(content, _)) = tree.get_mut(path) else { panic!("{path}") };
        change(content);
    };
    match step {
        Step::Mkdir(path) => drop(tree.insert((*path).into(), Seen::Dir)),
        Step::Create(path) => drop(tree.insert((*path).into(), Seen::File(Vec::new(), None))),
        Step::Symlink(path) => drop(tree.insert((*path).into(), Seen::Symlink)),
        Step::Write(path, len, seed) => content(path, &|bytes| lay(bytes, 0, &pattern(*len, *seed)), &mut tree),
        Step::Pack(paths, seed) => {
            for path in *paths {
                content(path, &|bytes| lay(bytes, 0, &pattern(2000, *seed)), &mut tree);
            }
        }
        Step::Scatter(path, count) => {
            let scatter =
                |bytes: &mut Vec<u8>| (0..*count).for_each(|at| lay(bytes, at * GAP, &pattern(PIECE, at as u8)));
            content(path, &scatter, &mut tree);
        }
        Step::Truncate(path, len) => content(path, &|bytes| bytes.resize(*len, 0), &mut tree),
        Step::Rename(from, to) => {
            let moved = tree.remove(*from).expect("there");
            tree.insert((*to).into(), moved);
        }
        Step::Link(from, to) => {
            let linked = tree[*from].clone();
            tree.insert((*to).into(), linked);
        }
        Step::Unlink(path) | Step::Rmdir(path) => drop(tree.remove(*path)),
        Step::Xattr(_) => {
            // Both names of the file show it.
            for path in ["d/a2", "l"] {
                let Some(Seen::File(_, value)) = tree.get_mut(path) else { panic!("{path}") };
                *value = Some(b"value".to_vec());
            }
        }
        Step::Begin
        | Step::GiveUp(_)
        | Step::TakeOver
        | Step::Restart
        | Step::DiskTrouble
        | Step::Silence
        | Step::Volume
        | Step::Quiet
        | Step::End => {}
    }
    Some(tree)
}

fn lay(bytes: &mut Vec<u8>, at: usize, new: &[u8]) {
    bytes.resize(bytes.len().max(at + new.len()), 0);
    bytes[at..at + new.len()].copy_from_slice(new);
}

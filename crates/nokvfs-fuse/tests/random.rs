//! Random operations on one file against a model: writes, reads, truncations, mappings, syncs and closes, all at any
//! offset, through several descriptors.

mod mounted;

use mounted::{Volume, python};

const PROGRAM: &str = r#"
import mmap, os, random, sys
path, seed = sys.argv[1], int(sys.argv[2])
r = random.Random(seed); LIMIT = 700_000
model = bytearray(); fds = [os.open(path, os.O_RDWR | os.O_CREAT) for _ in range(3)]
def grow(size):
    if len(model) < size: model.extend(bytes(size - len(model)))
for step in range(1500):
    fd = r.choice(fds); op = r.random(); at = r.randrange(LIMIT); n = r.choice((1, 100, 5000, 70_000, 200_000))
    if op < .35:
        data = r.randbytes(n); assert os.pwrite(fd, data, at) == n
        grow(at + n); model[at:at + n] = data
    elif op < .65:
        assert os.pread(fd, n, at) == bytes(model[at:at + n]), (seed, step, 'read', at, n)
    elif op < .72:
        size = r.randrange(LIMIT); os.ftruncate(fd, size); del model[size:]; grow(size)
    elif op < .80 and model:
        with mmap.mmap(fd, len(model)) as m:
            at %= len(model); n = min(n, len(model) - at)
            assert m[at:at + n] == bytes(model[at:at + n]), (seed, step, 'map', at, n)
            data = r.randbytes(n); m[at:at + n] = data; model[at:at + n] = data
            if r.random() < .5: m.flush()
    elif op < .86:
        assert os.fstat(fd).st_size == len(model), (seed, step, 'size')
    elif op < .92:
        os.fsync(fd)
    elif op < .94:
        assert os.lseek(fd, 0, os.SEEK_END) == len(model)
    else:
        i = fds.index(fd); os.close(fd); fds[i] = os.open(path, os.O_RDWR)
for fd in fds: os.close(fd)
with open(path, 'rb') as f: assert f.read() == bytes(model), (seed, 'end')
"#;

#[test]
fn a_file_is_what_was_written() {
    let volume = Volume::new();
    let m = volume.mount();
    for seed in ["1", "2", "3"] {
        let path = m.path(format!("f{seed}"));
        python(PROGRAM, &[&path, seed.as_ref()]);
    }
    // The same through another mount, whose kernel has seen nothing of it.
    let other = volume.mount();
    for seed in ["1", "2", "3"] {
        let name = format!("f{seed}");
        assert!(std::fs::read(m.path(&name)).unwrap() == std::fs::read(other.path(&name)).unwrap());
    }
}

/// Blocks at random places, each durable when it is answered: what databases do. The chunk is rewritten again and again.
const SYNCED: &str = r#"
import os, random, sys
r = random.Random(5); BLOCKS = 4096
f = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
model = bytearray(BLOCKS * 4096)
os.ftruncate(f, len(model))
for step in range(2000):
    at = r.randrange(BLOCKS) * 4096; data = r.randbytes(4096)
    assert os.pwrite(f, data, at) == 4096; os.fdatasync(f)
    model[at:at + 4096] = data
    at = r.randrange(BLOCKS) * 4096
    assert os.pread(f, 4096, at) == bytes(model[at:at + 4096]), (step, at)
os.write(1, __import__('hashlib').sha256(model).hexdigest().encode())
"#;

#[test]
fn blocks_that_are_synced_one_by_one_are_what_was_written() {
    let volume = Volume::new();
    let m = volume.mount();
    let digest = python(SYNCED, &[&m.path("db")]);
    let other = volume.mount();
    let read = "import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], 'rb').read()).hexdigest(), end='')";
    assert_eq!(python(read, &[&other.path("db")]), digest);
}

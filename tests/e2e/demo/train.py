"""Trains a small classifier on the images of a volume and keeps a checkpoint in another: train.py DATA CHECKPOINTS EPOCHS.

Label = folder name. Every epoch reads every file again, checks it against the manifest that was made outside the volume,
and prints files per second. The checkpoint is written to a temporary name, fsynced and renamed.
"""

import hashlib
import io
import os
import pathlib
import pickle
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy
from PIL import Image
from sklearn.linear_model import SGDClassifier

data, checkpoints, epochs = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])
manifest = {}
for line in pathlib.Path("/manifest/files").read_text().splitlines():
    digest, name = line.split("  ", 1)
    manifest[name.removeprefix("./")] = digest


def read(name: str) -> tuple[bytes, str]:
    content = (data / name).read_bytes()
    if hashlib.sha256(content).hexdigest() != manifest[name]:
        raise SystemExit(f"{name}: its content is not what was loaded")
    return content, name.split("/")[0]


def features(content: bytes) -> numpy.ndarray:
    image = Image.open(io.BytesIO(content)).convert("RGBA").resize((16, 16))
    return numpy.asarray(image, dtype=numpy.float32).ravel() / 255 - 0.5


found = {str(path.relative_to(data)) for path in data.rglob("*") if path.is_file()}
if found != set(manifest):
    raise SystemExit(f"{len(set(manifest) - found)} files are missing, {len(found - set(manifest))} are too many")
names = sorted(manifest)
labels = sorted({name.split("/")[0] for name in names})
random.Random(0).shuffle(names)
held_out = names[: len(names) // 5]
training = names[len(names) // 5 :]
model = SGDClassifier(loss="log_loss", alpha=1e-4, random_state=0)
tests = None
for epoch in range(1, epochs + 1):
    random.Random(epoch).shuffle(training)
    start = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        loaded = list(pool.map(read, training + held_out))
    seconds = time.monotonic() - start
    vectors = numpy.stack([features(content) for content, _ in loaded])
    classes = numpy.array([label for _, label in loaded])
    split = len(training)
    for at in range(0, split, 64):
        model.partial_fit(vectors[at : min(at + 64, split)], classes[at : min(at + 64, split)], classes=labels)
    accuracy = model.score(vectors[split:], classes[split:])
    print(f"epoch {epoch}: {len(loaded)} files read and verified in {seconds:.1f} s, {len(loaded) / seconds:.0f} files/s, accuracy {accuracy:.3f}", flush=True)
path = checkpoints / "model.pkl"
partial = checkpoints / "model.pkl.part"
with open(partial, "wb") as file:
    pickle.dump(model, file)
    file.flush()
    os.fsync(file.fileno())
os.replace(partial, path)
again = pickle.loads(path.read_bytes())
assert again.score(vectors[split:], classes[split:]) == accuracy
print(f"checkpoint {path.name}: {path.stat().st_size} bytes, read back and equal; chance would be {1 / len(labels):.3f}", flush=True)

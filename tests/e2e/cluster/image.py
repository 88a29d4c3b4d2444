"""Writes a folder as a container image with one layer (docker-archive format): OUT REF ENTRYPOINT_JSON USER ROOT."""

import hashlib
import io
import json
import sys
import tarfile

out, ref, entrypoint, user, root = sys.argv[1:6]


def owned_by_root(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = "root"
    info.mtime = 0
    return info


layer_path = out + ".layer"
with tarfile.open(layer_path, "w") as layer:
    layer.add(root, "", filter=owned_by_root)
digest = hashlib.sha256()
with open(layer_path, "rb") as layer:
    while piece := layer.read(1 << 20):
        digest.update(piece)
config = {
    "architecture": "amd64",
    "os": "linux",
    "config": {"Entrypoint": json.loads(entrypoint), "Env": ["PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"], "User": user},
    "rootfs": {"type": "layers", "diff_ids": ["sha256:" + digest.hexdigest()]},
    "history": [],
}
text = json.dumps(config).encode()
name = hashlib.sha256(text).hexdigest() + ".json"
manifest = json.dumps([{"Config": name, "RepoTags": [ref], "Layers": ["layer.tar"]}]).encode()
with tarfile.open(out, "w") as image:
    for entry, data in ((name, text), ("manifest.json", manifest)):
        info = tarfile.TarInfo(entry)
        info.size = len(data)
        image.addfile(info, io.BytesIO(data))
    image.add(layer_path, "layer.tar")

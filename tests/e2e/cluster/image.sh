#!/usr/bin/env bash
# Makes an image without a container engine and imports it on both nodes.
#   image.sh REF --pause                       the sandbox image
#   image.sh REF ENTRYPOINT_JSON SRC:DST...    the files, plus what the dynamic linker needs of each program
#   image.sh REF ENTRYPOINT_JSON --root DIR    a whole root folder
# Environment: IMAGE_USER, for example 65532:65532.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/env.sh"
ref=$1
shift
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/root"
root=$work/root
if [ "$1" = --pause ]; then
  gcc -Os -static -o "$work/root/pause" "$here/pause.c"
  entry='["/pause"]'
elif [ "$2" = --root ]; then
  entry=$1
  root=$3
else
  entry=$1
  shift
  mkdir -p "$work"/root/{tmp,etc,proc,sys,dev,run,bin,lib,lib64,usr/lib}
  chmod 1777 "$work/root/tmp"
  printf 'root:x:0:0::/:/bin/sh\nnonroot:x:65532:65532::/tmp:/bin/sh\n' > "$work/root/etc/passwd"
  printf 'root:x:0:\nnonroot:x:65532:\n' > "$work/root/etc/group"
  printf 'hosts: files dns\n' > "$work/root/etc/nsswitch.conf"
  [ ! -d /etc/ssl/certs ] || { mkdir -p "$work/root/etc/ssl/certs"; cp -L /etc/ssl/certs/ca-certificates.crt "$work/root/etc/ssl/certs/" 2>/dev/null || true; }
  for file in "$@"; do
    src=${file%%:*}
    dst=$work/root/${file#*:}
    mkdir -p "$(dirname "$dst")"
    cp -L "$src" "$dst"
    for lib in $(ldd "$src" 2>/dev/null | grep -oE '/[^ ]+'); do
      mkdir -p "$work/root$(dirname "$lib")"
      [ -e "$work/root$lib" ] || cp -L "$lib" "$work/root$lib"
    done
  done
fi
python3 "$here/image.py" "$work/image.tar" "$ref" "$entry" "${IMAGE_USER:-}" "$root"
for n in 1 2; do
  wait_for 30 "containerd of node$n" test -S "$RUN/node$n/containerd.sock"
  wait_for 30 "containerd of node$n" ctr -a "$RUN/node$n/containerd.sock" -n k8s.io version
  ctr -a "$RUN/node$n/containerd.sock" -n k8s.io image import "$work/image.tar" >/dev/null
done

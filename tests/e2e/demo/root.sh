#!/usr/bin/env bash
# Makes the root folder of the demo's image once: Debian with Python, scikit-learn and Pillow, the demo's two programs,
# and a real dataset of many small files: the PNGs of an icon package, a folder per label. Prints the folder.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${NOKV_CACHE:-$HOME/.cache/nokv}
root=$cache/demo-root
stamp=$(cat "$here/root.sh" "$here"/*.py | sha256sum | cut -c1-16)
if [ "$(cat "$root/.stamp" 2>/dev/null)" = "$stamp" ]; then
  echo "$root"
  exit 0
fi
suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-bookworm}")
if [ ! -e "$root/.base" ]; then
  rm -rf "$root" "$root.part"
  echo "making the demo's image from Debian packages (once, about two minutes)" >&2
  mmdebstrap --quiet --variant=minbase --include=python3-sklearn,python3-pil,oxygen-icon-theme \
    --aptopt='Acquire::Languages "none"' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    "$suite" "$root.part" >&2
  # The compiler that SciPy's packages bring along is not needed to run.
  rm -rf "$root.part"/usr/include "$root.part"/usr/lib/gcc "$root.part"/usr/lib/python3/dist-packages/pythran "$root.part"/usr/lib/x86_64-linux-gnu/*.a
  rm -rf "$root.part"/usr/bin/*-linux-gnu-* "$root.part"/usr/lib/x86_64-linux-gnu/lib[atlu]*san.so* "$root.part"/dev "$root.part"/var/cache
  mkdir -p "$root.part/dev" "$root.part/dataset"
  icons=$root.part/usr/share/icons/oxygen/base
  for label in actions apps categories devices mimetypes places status; do
    mkdir -p "$root.part/dataset/$label"
    for size in 16x16 22x22 32x32 48x48 64x64; do
      [ -d "$icons/$size/$label" ] || continue
      for file in "$icons/$size/$label"/*.png; do
        [ -e "$file" ] && cp -L "$file" "$root.part/dataset/$label/$size-$(basename "$file")"
      done
    done
  done
  rm -rf "$root.part/usr/share/icons"
  touch "$root.part/.base"
  mv "$root.part" "$root"
fi
mkdir -p "$root/demo"
cp "$here"/*.py "$root/demo/"
(cd "$root/dataset" && find . -type f -print0 | sort -z | xargs -0 sha256sum) > "$cache/demo-manifest"
echo "$stamp" > "$root/.stamp"
echo "$root"

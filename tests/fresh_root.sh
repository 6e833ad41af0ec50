#!/usr/bin/env bash
# Prove the install steps: clone this repository into a bare Debian bookworm made with debootstrap and run ./bootstrap
# there. Needs root, debootstrap and the network. Prints how long each part took.
# usage: tests/fresh_root.sh [run|test] [ROOT_DIR]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
command=${1:-run} root=${2:-/tmp/staticfire-bookworm}
[ "$(id -u)" -eq 0 ] || { echo "fresh_root.sh: needs root to make and enter a Debian root" >&2; exit 77; }
command -v debootstrap >/dev/null || { echo "fresh_root.sh: install debootstrap" >&2; exit 77; }

if [ ! -e "$root/etc/debian_version" ]; then
  debootstrap --variant=minbase --include=git,ca-certificates bookworm "$root" >"$root.log" 2>&1
fi
cp /etc/resolv.conf /etc/hosts "$root/etc/" 2>/dev/null || true
cp -r /usr/local/share/ca-certificates/. "$root/usr/local/share/ca-certificates/" 2>/dev/null || true
chroot "$root" update-ca-certificates >/dev/null 2>&1 || true
rm -rf "$root/src"
git clone --quiet . "$root/src"

mounts=()
leave() { for m in "${mounts[@]}"; do umount -l "$m" 2>/dev/null || true; done; }
trap leave EXIT
for m in proc sys dev dev/shm; do
  mountpoint -q "$root/$m" || { mount --rbind "/$m" "$root/$m" && mounts=("$root/$m" "${mounts[@]}"); }
done

started=$(date +%s)
chroot "$root" env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb LC_ALL=C.UTF-8 \
  bash -c "cd /src && time ./bootstrap $command"
printf 'fresh root, ./bootstrap %s: %d s in all\n' "$command" "$(($(date +%s) - started))"

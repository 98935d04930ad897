#!/bin/bash
# A throwaway system that systemd has booted, with our packages installed: this machine's own files under an overlay in
# memory, and the network namespace of a test's gateway. It ends with this process, and nothing of it stays.
#
# usage: unshare --mount --pid --mount-proc --kill-child systemd_container.sh NAME NETNS PACKAGES FILES [NSPAWN-OPTION...]
#   NAME     of its control groups; the caller removes them
#   NETNS    path of the network namespace
#   PACKAGES our Debian packages, separated by spaces
#   FILES    copied over its root last: a test's own settings
#
# What systemd prints goes to standard output. Must run in namespaces of its own.
set -euo pipefail
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C

name=$1 netns=$2 files=$4
read -ra packages <<< "$3"
shift 4

mount --make-rprivate /
work=/mnt
mount -t tmpfs -o mode=755 none "$work"
mkdir "$work"/{upper,work,root}
mount -t overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/work" overlay "$work/root"

# Triggers of other packages (the manual's index) are not needed here.
mount -t proc proc "$work/root/proc"
mount --bind /dev "$work/root/dev"
mkdir "$work/root/ctacct-packages"
cp "${packages[@]}" "$work/root/ctacct-packages/"
DEBIAN_FRONTEND=noninteractive chroot "$work/root" dpkg --force-unsafe-io --no-triggers --install --recursive /ctacct-packages \
  > "$work/installed" 2>&1 || { cat "$work/installed" >&2; exit 1; }
umount "$work/root/dev" "$work/root/proc"
cp -rT "$files" "$work/root"

options=(--register=no)
if [[ ! -d /run/systemd/system ]]; then
  # No systemd runs here that would make control groups for it.
  options+=(--keep-unit)
  for hierarchy in /sys/fs/cgroup/systemd /sys/fs/cgroup/unified /sys/fs/cgroup; do
    [[ -e $hierarchy/cgroup.procs ]] || continue
    mkdir "$hierarchy/$name"
    echo $$ > "$hierarchy/$name/cgroup.procs"
  done
  mount -t tmpfs none /run/systemd
fi
exec systemd-nspawn --quiet --directory="$work/root" --machine="$name" --boot "${options[@]}" --link-journal=no \
  --console=pipe --network-namespace-path="$netns" --capability=CAP_NET_ADMIN "$@" -- \
  --unit=ctacct-test.target --log-target=console --show-status=no

#!/bin/bash
# A throwaway system that systemd has booted, with our package installed: this machine's own files under an overlay in
# memory, and the network namespace of a test's gateway. It ends with this process, and nothing of it stays.
#
# usage: unshare --mount --pid --mount-proc --kill-child systemd_container.sh NAME NETNS PACKAGE FILES [NSPAWN-OPTION...]
#   NAME     of its control groups; whoever started it removes them
#   NETNS    path of the network namespace
#   PACKAGE  our Debian package
#   FILES    copied over its root at last: a test's own settings
#
# What systemd says goes to standard output. Must be in namespaces of its own.
set -euo pipefail
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C

name=$1 netns=$2 package=$3 files=$4
shift 4

mount --make-rprivate /
work=/mnt
mount -t tmpfs -o mode=755 none "$work"
mkdir "$work"/{upper,work,root}
mount -t overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/work" overlay "$work/root"

# Another package's triggers (the manual's index) have no part in this.
mount -t proc proc "$work/root/proc"
mount --bind /dev "$work/root/dev"
cp "$package" "$work/root/ctacct.deb"
DEBIAN_FRONTEND=noninteractive chroot "$work/root" dpkg --force-unsafe-io --no-triggers --install /ctacct.deb \
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

#!/usr/bin/env bash
# Runs a command in a root of another Debian release, with the sources of HEAD as its folder: what `./dev elsewhere` does.
# Needs root, mmdebstrap, and the mirror of Debian that this machine's apt knows.
#
# usage: debian_root.sh RELEASE COMMAND...
#   RELEASE  bookworm, trixie
#
# The root, and what is installed and built in it, stay in $XDG_CACHE_HOME/ctacct (else /var/tmp/ctacct) for the next run:
# about 6 GB for each release. It is rebuilt after a week. Mounts, processes and control groups end with the command. Its
# time limit is CTACCT_ELSEWHERE_SECONDS.
set -euo pipefail
export LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin

readonly DAYS_MAX=7
readonly SECONDS_MAX=${CTACCT_ELSEWHERE_SECONDS:-7200}
readonly CACHE=${XDG_CACHE_HOME:-/var/tmp}/ctacct

fail() {
  echo "debian_root.sh: $*" >&2
  exit 1
}

# In namespaces of its own. The root becomes this namespace's real one: `ip netns`, systemd-nspawn and tests that make
# an overlay of / need it to be a mount.
if [ "${1:-}" = --inside ]; then
  root=$2
  shift 2
  mount --make-rprivate /
  mount --bind "$root" "$root"
  mount -t proc proc "$root/proc"
  for folder in dev sys; do mount --rbind "/$folder" "$root/$folder"; done
  for folder in run tmp; do mount -t tmpfs -o mode=1777 none "$root/$folder"; done
  chmod 755 "$root/run"
  mkdir "$root/tmp/old"
  cd "$root"
  pivot_root . tmp/old
  umount -l /tmp/old
  rmdir /tmp/old
  cd /root/ctacct
  exec env -i HOME=/root PATH="$PATH" LC_ALL="$LC_ALL" TERM="${TERM:-dumb}" ${CI:+CI="$CI"} "$@"
fi

[ $# -ge 2 ] || { sed -n 's/^# usage: /usage: /p' "$0" >&2; exit 2; }
[ "$(id -u)" -eq 0 ] || fail "needs root: it installs a system into a folder"
release=$1
shift
root=$CACHE/$release
mkdir -p "$CACHE"
exec 9> "$CACHE/$release.lock"
flock -n 9 || fail "$root is in use"

# Made under another name, so that a half-made one is never used.
if [ ! -e "$root" ] || [ -n "$(find "$root" -maxdepth 0 -mtime "+$DAYS_MAX")" ]; then
  here=$(. /etc/os-release && echo "$VERSION_CODENAME")
  rm -rf --one-file-system "$root" "$root.new"
  work=$(mktemp -d /tmp/ctacct-root.XXXXXX)
  trap 'rm -rf --one-file-system "$work" "$root.new"' EXIT
  trap 'exit 130' INT TERM
  # Debian's part of what apt knows here, with its settings for proxies and the like.
  apt-config dump | grep -E '^Acquire::(http|https|Check)' > "$work/apt.conf" || true
  apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)|$(ORIGIN)' 'Created-By: Packages' |
    sed -n 's/|Debian$//p' | sed "s/ $here\b/ $release/" | sort -u > "$work/sources.list"
  [ -s "$work/sources.list" ] || fail "apt knows no mirror of Debian here"
  echo "A clean Debian ($release) in $root"
  mmdebstrap --quiet --mode=root --variant=minbase --skip=cleanup/apt --aptopt="$work/apt.conf" "$release" "$root.new" \
    "$work/sources.list" || fail "no clean Debian can be made: is the mirror that apt names out of reach?"
  touch "$root.new"
  mv "$root.new" "$root"
  rm -rf "$work"
  trap - EXIT
fi

rm -rf --one-file-system "$root/root/ctacct"
mkdir -p "$root/root/ctacct"
(cd "$(dirname "$0")/../.." && git archive HEAD) | tar -x -C "$root/root/ctacct"
exec timeout --kill-after=10 "$SECONDS_MAX" \
  unshare --mount --pid --ipc --uts --fork --mount-proc --kill-child "$0" --inside "$root" "$@"

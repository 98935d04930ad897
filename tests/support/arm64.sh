#!/usr/bin/env bash
# Builds for 64-bit ARM on this machine, and runs unit tests under emulation: what `./dev arm64` does. Needs
# g++-aarch64-linux-gnu, qemu-user, mmdebstrap (root), and the mirror of Debian that this machine's apt knows.
#
# usage: arm64.sh PACKAGE...    the libraries' Debian packages
#
# The libraries and headers of ARM lie unpacked in $XDG_CACHE_HOME/ctacct/arm64-RELEASE (else below /var/tmp/ctacct).
set -euo pipefail
export LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin

fail() {
  echo "arm64.sh: $*" >&2
  exit 1
}

cd "$(dirname "$0")/../.."
release=$(. /etc/os-release && echo "$VERSION_CODENAME")
root=${XDG_CACHE_HOME:-/var/tmp}/ctacct/arm64-$release
if [ ! -e "$root" ]; then
  mkdir -p "$(dirname "$root")"
  rm -rf --one-file-system "$root.new"
  compiler=$(g++ -dumpversion)
  packages=$(printf '%s,' "$@" libc6-dev "libstdc++-${compiler%%.*}-dev")
  apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)|$(ORIGIN)' 'Created-By: Packages' |
    sed -n 's/|Debian$//p' | sort -u |
    mmdebstrap --quiet --mode=root --variant=extract --architectures=arm64 --include="${packages%,}" "$release" "$root.new" - ||
    fail "no libraries of arm64 can be had: is the mirror that apt names out of reach?"
  # A link to a library by its full name would lead out of here.
  find "$root.new" -type l -lname '/*' -printf '%p\t%l\n' | while IFS=$'\t' read -r link target; do
    ln -sfn "$root$target" "$link"
  done
  mkdir "$root.new/ctacct"
  # Bazel asks the compiler where its headers are.
  printf '#!/bin/sh\nexec aarch64-linux-gnu-gcc --sysroot=%s "$@"\n' "$root" > "$root.new/ctacct/gcc"
  printf '#!/bin/sh\nexec qemu-aarch64 -L %s "$@"\n' "$root" > "$root.new/ctacct/run"
  chmod +x "$root.new/ctacct/gcc" "$root.new/ctacct/run"
  mv "$root.new" "$root"
fi
bazel=(--noshow_progress --platform_suffix=-arm64 --repo_env=CC="$root/ctacct/gcc")
bazel build "${bazel[@]}" //engine //engine:spooldump
# Those that need neither the kernel's netlink nor a program of ours: only the test itself runs under the emulation.
bazel test "${bazel[@]}" --run_under="$root/ctacct/run" --test_output=errors --build_tests_only -- \
  //netlink/... //engine/rows/... //engine/spool/... -//engine/spool:spooldump_test -//netlink:event_filter_test

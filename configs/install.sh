#!/bin/sh
# Installs programs, services and settings. Flag files that are there already stay as they are. Starts nothing and changes
# no running system: what it prints does.
#
# usage: install.sh BIN [ROOT]
#   BIN   the folder with engine/engine, engine/spooldump and importer/importer (`bazel info bazel-bin`)
#   ROOT  put before every path; for packages and images
set -eu

case $# in
  1 | 2) ;;
  *)
    echo "usage: install.sh BIN [ROOT]" >&2
    exit 2
    ;;
esac
bin=$1
root=${2:-}
here=$(cd "$(dirname "$0")" && pwd)

install -D -m 755 "$bin/engine/engine" "$root/usr/local/bin/ctacct-engine"
install -D -m 755 "$bin/engine/spooldump" "$root/usr/local/bin/ctacct-spooldump"
install -D -m 755 "$bin/importer/importer" "$root/usr/local/bin/ctacct-importer"
for unit in ctacct-engine ctacct-importer; do
  install -D -m 644 "$here/systemd/$unit.service" "$root/etc/systemd/system/$unit.service"
done
for folder in modules-load.d sysctl.d sysusers.d tmpfiles.d; do
  install -D -m 644 "$here/$folder/ctacct.conf" "$root/etc/$folder/ctacct.conf"
done
for program in engine importer; do
  [ -e "$root/etc/ctacct/$program.flags" ] ||
    install -D -m 644 "$here/$program.flags" "$root/etc/ctacct/$program.flags"
done

cat <<'TEXT'
Installed. Look at /etc/ctacct/engine.flags and /etc/ctacct/importer.flags; then:

  systemd-sysusers && systemd-tmpfiles --create ctacct.conf
  modprobe -a nf_conntrack nf_conntrack_netlink && sysctl -p /etc/sysctl.d/ctacct.conf
  systemctl daemon-reload && systemctl enable --now ctacct-engine ctacct-importer
TEXT

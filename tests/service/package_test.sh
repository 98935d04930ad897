#!/usr/bin/env bash
# Installs our Debian package on a clean, minimal Debian, uses it, upgrades, removes and purges it. `./dev package --check`
# runs it. Needs root, and the mirror of Debian that this machine's apt knows. Nothing of it stays.
#
# usage: package_test.sh DEB CAPTURE
#   DEB      the package
#   CAPTURE  of a gateway, to replay
set -euo pipefail
export LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin

fail() {
  echo "package_test: $*" >&2
  exit 1
}

if [ "${1:-}" != --inside ]; then
  [ $# -eq 2 ] || { echo "usage: package_test.sh DEB CAPTURE" >&2; exit 2; }
  [ "$(id -u)" -eq 0 ] || fail "needs root: it installs a system into a folder"
  work=$(mktemp -d /tmp/ctacct-package.XXXXXX)
  trap 'rm -rf --one-file-system "$work"' EXIT
  trap 'exit 130' INT TERM
  cp "$1" "$work/ctacct.deb"
  cp "$2" "$work/capture.pcap"
  # Mounts and processes end with it.
  unshare --mount --pid --fork --mount-proc --kill-child "$0" --inside "$work"
  exit
fi

work=$2
root=$work/root
mount --make-rprivate /

# Debian's part of what apt knows here, with its settings for proxies and the like.
apt-config dump | grep -E '^Acquire::(http|https)' > "$work/apt.conf" || true
codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)|$(ORIGIN)' 'Created-By: Packages' |
  sed -n 's/|Debian$//p' | sort -u > "$work/sources.list"
[ -s "$work/sources.list" ] || fail "apt knows no mirror of Debian here"
echo "A clean Debian ($codename) by $(wc -l < "$work/sources.list") archives of this machine's apt"
mmdebstrap --quiet --mode=root --variant=minbase --skip=cleanup/apt --aptopt="$work/apt.conf" "$codename" "$root" "$work/sources.list" ||
  fail "no clean Debian can be made: is the mirror that apt names out of reach?"
mount -t proc proc "$root/proc"

inside() { chroot "$root" env DEBIAN_FRONTEND=noninteractive "$@"; }
install() {
  cp "$work/$1" "$root/root/$1"
  inside apt-get install -qq -y --no-install-recommends "/root/$1" > "$work/log" 2>&1 ||
    { cat "$work/log"; fail "apt could not install $1"; }
  rm "$root/root/$1"
}
# What a program says must be this.
expect() {
  local want=$1 got
  shift
  got=$("$@" 2>&1) || true
  [ "$got" = "$want" ] || fail "'$*' says '$got', and should say '$want'"
}
absent() { [ ! -e "$root$1" ] && [ ! -L "$root$1" ] || fail "$1 is there, and should not be"; }
present() { [ -e "$root$1" ] || fail "$1 is not there"; }
version() { inside dpkg-query -W -f '${Version}' ctacct; }

install ctacct.deb
grep -q 'README.Debian says how' "$work/log" || fail "the user is not told where to go on"
first=$(version)
echo "Installed $first with $(inside dpkg-query -f '.\n' -W | wc -l) packages in all"

# Each program runs, has a page of the manual, and completes its flags.
mapfile -t programs < <(inside dpkg -L ctacct | sed -n 's|^/usr/bin/||p')
[ ${#programs[@]} -ge 3 ] || fail "there are no programs"
for program in "${programs[@]}"; do
  expect "ctacct $first" inside "$program" --version
  inside "$program" --help | grep -q '^Flags' || fail "$program --help does not help"
  status=0
  inside "$program" -no-such-flag 2> "$work/error" || status=$?
  [ "$status" = 2 ] && [ "$(wc -l < "$work/error")" = 1 ] || fail "$program takes a flag that it does not have"
  pages=("$root"/usr/share/man/man[18]/"$program".[18].gz "$root/usr/share/bash-completion/completions/$program")
  for page in "${pages[@]}"; do [ -s "$page" ] || fail "$program lacks $page"; done
  zgrep -q -- '-flagfile' "${pages[0]}" || fail "the manual of $program lacks its flags"
  expect -flagfile inside bash -c "set -u; complete() { :; }; . /usr/share/bash-completion/completions/$program
    COMP_WORDS=($program -flagf) COMP_CWORD=1; _ctacct $program -flagf $program; echo \"\${COMPREPLY[*]}\""
done

# A capture becomes the same rows on standard output and by way of the spool.
cp "$work/capture.pcap" "$root/root/"
mkdir "$root/root/spool"
replay=(ctacct-engine -replay=/root/capture.pcap -include-icmp -interval=5)
inside "${replay[@]}" 2> /dev/null | sort > "$work/direct.csv"
inside "${replay[@]}" -output=/root/spool 2> /dev/null
inside sh -c 'ctacct-spooldump /root/spool/*.spool' | sort > "$work/spooled.csv"
[ "$(wc -l < "$work/direct.csv")" -gt 100 ] || fail "the replay has few rows"
cmp "$work/direct.csv" "$work/spooled.csv" || fail "rows by way of the spool are others"
echo "Replayed a capture: $(wc -l < "$work/direct.csv") rows, equal by way of the spool"
# It has a database to miss.
expect 1 inside sh -c 'ctacct-importer -host=/nowhere -db=traffic -watch=/root/spool -once 2> /dev/null; echo $?'

# Users, folders and settings; nothing is enabled.
expect "ctacct ctacct 2770" inside stat -c '%U %G %a' /var/spool/ctacct
expect "root ctacct 1775" inside stat -c '%U %G %a' /run/ctacct-metrics
expect "root 600" inside stat -c '%U %a' /etc/ctacct/pgpass
inside id -nG ctacct-importer | grep -qw ctacct || fail "the importer is not in the engine's group"
for unit in ctacct-engine ctacct-importer; do
  expect disabled inside systemctl is-enabled "$unit"
  expect "" inside systemd-analyze --man=no verify "$unit.service"
done
for file in /usr/lib/sysctl.d/60-ctacct.conf /usr/lib/modules-load.d/ctacct.conf \
  /usr/share/doc/ctacct/{README.Debian,README.md,copyright,changelog.gz} /usr/share/doc/ctacct/examples/{grafana,postgres}; do
  present "$file"
done

# A higher version, in which both flag files have changed. The one that the user has changed, too, stays the user's.
dpkg-deb -R "$work/ctacct.deb" "$work/higher"
sed -i "s/^Version: .*/&+test/" "$work/higher/DEBIAN/control"
for flags in engine importer; do echo "# Of a newer version." >> "$work/higher/etc/ctacct/$flags.flags"; done
dpkg-deb --root-owner-group -b "$work/higher" "$work/higher.deb" > /dev/null
inside systemctl enable ctacct-engine 2> /dev/null
echo "interval=60" >> "$root/etc/ctacct/engine.flags"
echo "Dpkg::Options:: \"--force-confold\";" > "$root/etc/apt/apt.conf.d/confold"
install higher.deb
expect "$first+test" version
[ "$(tail -n 1 "$root/etc/ctacct/engine.flags")" = interval=60 ] || fail "an upgrade has lost the user's flags"
grep -q newer "$root/etc/ctacct/importer.flags" || fail "an upgrade has not brought new flags"
expect enabled inside systemctl is-enabled ctacct-engine
expect disabled inside systemctl is-enabled ctacct-importer
echo "Upgraded to $(version): changed settings stay"

# Removed: settings and rows stay.
echo rows > "$root/var/spool/ctacct/.0123456789abcdef.engine.1.spool"
mkdir -p "$root/var/lib/ctacct"
inside apt-get remove -qq -y ctacct > "$work/log" 2>&1 || { cat "$work/log"; fail "it cannot be removed"; }
for program in "${programs[@]}"; do absent "/usr/bin/$program"; done
absent /lib/systemd/system/ctacct-engine.service
for what in /etc/ctacct/engine.flags /var/lib/ctacct /var/spool/ctacct/.0123456789abcdef.engine.1.spool; do
  present "$what"
done

# Purged: rows that may be nowhere else stay, and that is said.
inside dpkg --purge ctacct > "$work/log" 2>&1 || { cat "$work/log"; fail "it cannot be purged"; }
grep -q '/var/spool/ctacct has files' "$work/log" || fail "a purge does not say that it leaves rows"
present /var/spool/ctacct/.0123456789abcdef.engine.1.spool
absent /var/lib/ctacct
rm "$root/var/spool/ctacct/.0123456789abcdef.engine.1.spool"
install ctacct.deb
mkdir "$root/var/lib/ctacct" "$root/var/spool/ctacct/.ctacct"
touch "$root/var/lib/ctacct/lock" "$root/var/spool/ctacct/.ctacct/checkpoint"
inside dpkg --purge ctacct > "$work/log" 2>&1 || { cat "$work/log"; fail "it cannot be purged"; }
left=$(find "$root" -xdev -name '*ctacct*' ! -path "$root/root/*")
[ -z "$left" ] || fail "a purge leaves $left"
echo "Removed and purged: nothing is left but the users"

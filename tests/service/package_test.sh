#!/usr/bin/env bash
# Installs our Debian packages on a clean, minimal Debian, uses, upgrades, removes and purges them. `./dev package --check`
# runs it. Needs root, and the mirror of Debian that this machine's apt knows. Nothing of it stays.
#
# usage: package_test.sh DEB NAMES_DEB CAPTURE
#   DEB        the package ctacct
#   NAMES_DEB  the package ctacct-names
#   CAPTURE    of a gateway, to replay
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin

fail() {
  echo "package_test: $*" >&2
  exit 1
}

if [ "${1:-}" != --inside ]; then
  [ $# -eq 3 ] || { echo "usage: package_test.sh DEB NAMES_DEB CAPTURE" >&2; exit 2; }
  [ "$(id -u)" -eq 0 ] || fail "needs root: it installs a system into a folder"
  work=$(mktemp -d /tmp/ctacct-package.XXXXXX)
  trap 'rm -rf --one-file-system "$work"' EXIT
  trap 'exit 130' INT TERM
  cp "$1" "$work/ctacct.deb"
  cp "$2" "$work/ctacct-names.deb"
  cp "$3" "$work/capture.pcap"
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
# grep -q would end at once, and its writer with it.
says() { grep "$@" > /dev/null; }
absent() { [ ! -e "$root$1" ] && [ ! -L "$root$1" ] || fail "$1 is there, and should not be"; }
present() { [ -e "$root$1" ] || fail "$1 is not there"; }
version() { inside dpkg-query -W -f '${Version}' ctacct; }
purge() { inside dpkg --purge "$1" > "$work/log" 2>&1 || { cat "$work/log"; fail "$1 cannot be purged"; }; }
# Each program of a package runs, has a page of the manual, and completes its flags.
check_programs() {
  local package=$1 number=$2 program status page pages programs
  mapfile -t programs < <(inside dpkg -L "$package" | sed -n 's|^/usr/bin/||p')
  [ ${#programs[@]} = "$number" ] || fail "$package has ${#programs[@]} programs, and not $number"
  for program in "${programs[@]}"; do
    expect "ctacct ${first%+deb*}" inside "$program" --version
    inside "$program" --help | says '^Flags' || fail "$program --help does not help"
    status=0
    inside "$program" -no-such-flag 2> "$work/error" || status=$?
    [ "$status" = 2 ] && [ "$(wc -l < "$work/error")" = 1 ] || fail "$program takes a flag that it does not have"
    pages=("$root"/usr/share/man/man[18]/"$program".[18].gz "$root/usr/share/bash-completion/completions/$program")
    for page in "${pages[@]}"; do [ -s "$page" ] || fail "$program lacks $page"; done
    zgrep -q -- '-flagfile' "${pages[0]}" || fail "the manual of $program lacks its flags"
    expect -flagfile inside bash -c "set -u; complete() { :; }; . /usr/share/bash-completion/completions/$program
      COMP_WORDS=($program -flagf) COMP_CWORD=1; _ctacct $program -flagf $program; echo \"\${COMPREPLY[*]}\""
  done
}
# Users and folders of both packages; nothing is enabled.
check_service() {
  local unit=$1
  expect "ctacct ctacct 2770" inside stat -c '%U %G %a' /var/spool/ctacct
  [ "$unit" = ctacct-engine ] || inside id -nG "$unit" | says -w ctacct || fail "$unit is not in the engine's group"
  expect disabled inside systemctl is-enabled "$unit"
  expect "" inside systemd-analyze --man=no verify "$unit.service"
}

first=$(dpkg-deb --field "$work/ctacct.deb" Version)
case $first in *+deb"$(. "$root/etc/os-release" && echo "$VERSION_ID")") ;; *) fail "$first is not a version for this release" ;; esac

# Names alone.
# From a repository, which nobody has changed since it was signed.
export GNUPGHOME=$work/gnupg
mkdir -m 700 "$GNUPGHOME"
gpg --batch --quiet --passphrase '' --quick-generate-key test@example.org default default never 2> /dev/null
"$here/../../configs/debian/repository.sh" test@example.org "$root/srv/ctacct" "$work/ctacct.deb" "$work/ctacct-names.deb"
gpg --batch --export test@example.org > "$root/etc/apt/keyrings/ctacct.gpg"
echo "deb [signed-by=/etc/apt/keyrings/ctacct.gpg] file:/srv/ctacct $codename main" > "$root/etc/apt/sources.list.d/ctacct.list"
inside apt-get update -qq || fail "apt does not take the repository"
inside apt-get install -qq -y --no-install-recommends ctacct-names > "$work/log" 2>&1 || { cat "$work/log"; fail "apt could not install from the repository"; }
echo "Installed ctacct-names from a signed repository"
inside apt-get download -qq ctacct > /dev/null 2>&1 || fail "ctacct is not in the repository"
echo "# changed" >> "$root/srv/ctacct/dists/$codename/main/binary-$(dpkg --print-architecture)/Packages"
rm "$root"/srv/ctacct/dists/"$codename"/main/binary-*/Packages.gz "$root"/var/lib/apt/lists/_srv_ctacct*
if inside apt-get update -qq > "$work/log" 2>&1 && ! grep -q '^[EW]:' "$work/log"; then fail "apt takes a repository that was changed"; fi
rm -r "$root/etc/apt/sources.list.d/ctacct.list" "$root/etc/apt/keyrings/ctacct.gpg" "$root/srv/ctacct" "$root"/ctacct_*.deb
inside apt-get update -qq
check_programs ctacct-names 1
check_service ctacct-names
for file in /etc/ctacct/names.flags /usr/share/doc/ctacct-names/{names.md,copyright}; do present "$file"; done
echo '10.60.1.0/24,team 1' > "$root/etc/ctacct/teams.csv"
inside ctacct-names -file=/etc/ctacct/teams.csv -output=/var/spool/ctacct -once -user=ctacct-names
grep -q "^10.60.1.0/24	team 1	file" "$root/var/spool/ctacct/current.names" || fail "names are not in the spool"
purge ctacct-names
[ "$(find "$root/var/spool/ctacct" -type f | wc -l)" = 1 ] || fail "a purge has removed names"
rm -r "$root/var/spool/ctacct" "$root/etc/ctacct/teams.csv"
rmdir "$root/etc/ctacct"
echo "Installed, used and purged ctacct-names alone"

install ctacct.deb
grep -q 'README.Debian says how' "$work/log" || fail "the user is not told where to go on"
expect "$first" version
echo "Installed $first with $(inside dpkg-query -f '.\n' -W | wc -l) packages in all"

check_programs ctacct 6
absent /usr/bin/ctacct-names

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
# Without a database it must fail.
expect 1 inside sh -c 'ctacct-importer -host=/nowhere -db=traffic -watch=/root/spool -once 2> /dev/null; echo $?'

# Users, folders and settings, with names or without.
for unit in ctacct-engine ctacct-importer; do check_service "$unit"; done
expect "root ctacct 1775" inside stat -c '%U %G %a' /run/ctacct-metrics
expect "root 600" inside stat -c '%U %a' /etc/ctacct/pgpass
install ctacct-names.deb
check_service ctacct-names
for file in /usr/lib/sysctl.d/60-ctacct.conf /usr/lib/modules-load.d/ctacct.conf \
  /usr/share/doc/ctacct/{README.Debian,README.md,copyright,changelog.gz} /usr/share/doc/ctacct/examples/{grafana,postgres}; do
  present "$file"
done
dead=$(cd "$root/usr/share/doc" && grep -roE --include='*.md' '\]\([^)#]+' ctacct ctacct-names |
  while IFS=: read -r file link; do
    case $link in "]("http*) continue ;; esac
    [ -e "$(dirname "$file")/${link#"]("}" ] || echo "$file: $link"
  done)
[ -z "$dead" ] || fail "links that lead nowhere: $dead"

# A higher version, in which both flag files have changed. The file that the user has changed stays the user's.
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

# Of names only a copy goes, as long as the other package is there.
echo names > "$root/var/spool/ctacct/current.names"
purge ctacct-names
absent /var/spool/ctacct/current.names
check_service ctacct-importer

# Removed: settings and rows stay.
echo rows > "$root/var/spool/ctacct/.0123456789abcdef.engine.1.spool"
echo names > "$root/var/spool/ctacct/current.names"
mkdir -p "$root/var/lib/ctacct"
inside apt-get remove -qq -y ctacct > "$work/log" 2>&1 || { cat "$work/log"; fail "it cannot be removed"; }
[ -z "$(find "$root/usr/bin" -name 'ctacct*')" ] || fail "its programs are still there"
absent /usr/lib/systemd/system/ctacct-engine.service
for what in /etc/ctacct/engine.flags /var/lib/ctacct /var/spool/ctacct/.0123456789abcdef.engine.1.spool; do
  present "$what"
done

# Purged: rows that may be nowhere else stay, and the user is informed.
purge ctacct
grep -q '/var/spool/ctacct has files' "$work/log" || fail "a purge does not say that it leaves rows"
present /var/spool/ctacct/.0123456789abcdef.engine.1.spool
absent /var/lib/ctacct
rm "$root/var/spool/ctacct/.0123456789abcdef.engine.1.spool"
install ctacct.deb
install ctacct-names.deb
mkdir "$root/var/lib/ctacct" "$root/var/spool/ctacct/.ctacct"
echo names > "$root/var/spool/ctacct/current.names"
touch "$root/var/lib/ctacct/lock" "$root/var/spool/ctacct/.ctacct/checkpoint"
purge ctacct
# Names go on.
for file in /etc/ctacct/pgpass /etc/ctacct/engine.flags /var/spool/ctacct/.ctacct; do absent "$file"; done
present /var/spool/ctacct/current.names
check_service ctacct-names
purge ctacct-names
left=$(find "$root" -xdev -name '*ctacct*' ! -path "$root/root/*")
[ -z "$left" ] || fail "a purge leaves $left"
echo "Removed and purged: nothing is left but the users"

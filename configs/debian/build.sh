#!/usr/bin/env bash
# Makes the Debian package of what Bazel has built; `./dev package` calls it by Bazel.
#
# usage: build.sh OUT DOCUMENTS CONFIGS PROGRAM...
#   OUT        the package, for others than Debian's tools to find: without version and architecture in its name
#   DOCUMENTS  files for /usr/share/doc/ctacct, separated by spaces
#   CONFIGS    files of configs/, likewise
#   PROGRAM    PATH:NAME:SECTION:WHAT: a built program, its name and manual section when installed, and what it is
#
# In the temporary folder there is then a source tree as Debian's tools want it: debian/ is configs/debian, the rest lies
# where debian/rules and the lists written here put it.
set -euo pipefail
export LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin

out=$PWD/$1 documents=$2 configs=$3
shift 3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tree=$work/ctacct
mkdir -p "$tree/doc" "$tree/examples"

for file in $configs; do
  case $file in
    configs/debian/*) install -D -m "$(stat -L -c %a "$file")" "$file" "$tree/${file#configs/}" ;;
    configs/*/*) install -D -m 644 "$file" "$tree/examples/${file#configs/}" ;;
    *) install -D -m 644 "$file" "$tree/${file#configs/}" ;;
  esac
done
for file in $documents; do install -D -m 644 "$file" "$tree/doc/$file"; done
cd "$tree/debian"
chmod 755 rules
mkdir -p source
echo '3.0 (native)' > source/format
# Those folders of configs/ whose files systemd reads; what is left are examples.
mv "$tree/examples/systemd" "$tree/units"
for what in sysusers tmpfiles; do mv "$tree/examples/$what.d/ctacct.conf" "ctacct.$what"; done
mv "$tree/examples/sysctl.d/ctacct.conf" "$tree/60-ctacct.conf"
mv "$tree/examples/modules-load.d/ctacct.conf" "$tree/ctacct.conf"
rmdir "$tree"/examples/*.d
cat > install <<'TEXT'
units/* lib/systemd/system
*.flags etc/ctacct
60-ctacct.conf usr/lib/sysctl.d
ctacct.conf usr/lib/modules-load.d
TEXT
ls "$tree/doc" | sed 's|^|doc/|' > docs
ls "$tree/examples" | sed 's|^|examples/|' > examples

# The manual is what --help says, and what debian/man adds to it.
manual() {
  local name=$1 section=$2 what=$3
  # In the form that help2man knows, and without what depends on the machine that builds.
  cat > "$work/$name" <<TEXT
#!/bin/sh
"$tree/bin/$name" "\$@" | sed -e 's/^ctacct [0-9]/$name &/; s/^\([^ ]* \)ctacct /\1/' -e 's/^usage: [a-z]*/Usage: $name/' \
  -e '/^  -[a-z0-9-]*\$/{N; s/\n */  /}; / default: /s/ (default [0-9]*)\$//'
TEXT
  chmod 755 "$work/$name"
  help2man --no-info --section="$section" --name="$what" --include="man/common.h2m" --opt-include="man/$name.h2m" \
    --output="man/$name.$section" "$work/$name"
  echo "debian/man/$name.$section" >> manpages
}
for program in "$@"; do
  IFS=: read -r path name section what <<< "$program"
  install -D -m 755 "$OLDPWD/$path" "$tree/bin/$name"
  echo "bin/$name usr/bin" >> install
  manual "$name" "$section" "$what"
  echo "complete -o default -F _ctacct $name" >> ctacct.bash-completion
  first=${first:-$name}
  [ "$name" = "$first" ] ||
    echo "usr/share/bash-completion/completions/$first usr/share/bash-completion/completions/$name" >> links
done
mv ctacct.bash-completion "$tree/$first"
echo "$first usr/share/bash-completion/completions" >> install

cd "$tree"
# Without a package of symbols: these are made by building the same version again.
export DEB_BUILD_OPTIONS=noautodbgsym
dpkg-buildpackage --build=binary --unsigned-source --unsigned-changes --no-check-builddeps > "$work/log" 2>&1 ||
  { cat "$work/log" >&2; exit 1; }
mv "$work"/ctacct_*.deb "$out"

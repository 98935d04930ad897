#!/usr/bin/env bash
# Makes the Debian packages of what Bazel has built; `./dev package` calls it by Bazel.
#
# usage: build.sh FOLDER DOCUMENTS CONFIGS PROGRAM...
#   FOLDER     for ctacct.deb and ctacct-names.deb, named without version and architecture so that Bazel can find them
#   DOCUMENTS  files for /usr/share/doc/ctacct, separated by spaces
#   CONFIGS    files of configs/, separated by spaces
#   PROGRAM    PATH:NAME:SECTION:WHAT: a built program, its name and manual section when installed, and what it is
#
# The temporary folder then contains a source tree as Debian's tools expect it: debian/ is configs/debian, the rest is where
# debian/rules and the lists written here put it.
set -euo pipefail
export LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin

folder=$PWD/$1 documents=$2 configs=$3
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
# A package is for the release that it was built on: its dependencies have the names of that release. The package for the
# next release has a higher version, so that an upgrade of the system replaces it.
release=$(. /etc/os-release && echo "$VERSION_ID $VERSION_CODENAME")
sed -i "1s/(\([^)]*\)) [a-z]*;/(\1+deb${release% *}) ${release#* };/" changelog
mkdir -p source
echo '3.0 (native)' > source/format
# The folders of configs/ whose files systemd reads; the rest are examples.
mv "$tree/examples/systemd" "$tree/units"
for package in ctacct ctacct-names; do
  for what in sysusers tmpfiles; do mv "$tree/examples/$what.d/$package.conf" "$package.$what"; done
done
mv "$tree/examples/sysctl.d/ctacct.conf" "$tree/60-ctacct.conf"
mv "$tree/examples/modules-load.d/ctacct.conf" "$tree/ctacct.conf"
rmdir "$tree"/examples/*.d
# Of links to files that are not in the package, the text remains.
mkdir "$tree/names"
cp "$tree/doc/docs/names.md" "$tree/names"
(
  cd "$tree"
  find doc -name '*.md' -exec sed -i -E 's#\]\((\.\./)?configs/#](\1../examples/#g' {} +
  find doc names -name '*.md' -exec perl -MFile::Basename -0pi -e \
    's{\[([^]]*)\]\((?!https?:|#)([^)#]*)(#[^)]*)?\)}{-e dirname($ARGV) . "/$2" ? $& : $1}ge' {} +
  # The tree has the examples beside the documents, the package within.
  find doc -name '*.md' -exec sed -i -E 's#\]\((\.\./)?\.\./examples/#](\1examples/#g' {} +
)
units=usr/lib/systemd/system
if [ "${release% *}" = 12 ]; then
  units=lib/systemd/system  # debhelper of Debian 12 looks only there.
else
  sed -i '/init\.d-script/d' ctacct.lintian-overrides  # lintian no longer has this tag.
fi
sed 's/^ctacct:/ctacct-names:/; /The compiler stores/,$d' ctacct.lintian-overrides > ctacct-names.lintian-overrides
cat > ctacct.install <<TEXT
units/ctacct-engine.service $units
units/ctacct-importer.service $units
engine.flags etc/ctacct
importer.flags etc/ctacct
60-ctacct.conf usr/lib/sysctl.d
ctacct.conf usr/lib/modules-load.d
TEXT
cat > ctacct-names.install <<TEXT
units/ctacct-names.service $units
names.flags etc/ctacct
TEXT
ls "$tree/doc" | sed 's|^|doc/|' > ctacct.docs
echo names/names.md > ctacct-names.docs
ls "$tree/examples" | sed 's|^|examples/|' > ctacct.examples

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
  echo "debian/man/$name.$section" >> "$package.manpages"
}
completions=usr/share/bash-completion/completions
declare -A first=()  # Of each package; its other programs' completions are links.
for program in "$@"; do
  IFS=: read -r path name section what <<< "$program"
  package=ctacct
  [ "$name" != ctacct-names ] || package=$name
  install -D -m 755 "$OLDPWD/$path" "$tree/bin/$name"
  echo "bin/$name usr/bin" >> "$package.install"
  manual "$name" "$section" "$what"
  if [ -z "${first[$package]:-}" ]; then
    first[$package]=$name
    cp ctacct.bash-completion "$tree/$name"
    echo "$name $completions" >> "$package.install"
  else
    echo "$completions/${first[$package]} $completions/$name" >> "$package.links"
  fi
  echo "complete -o default -F _ctacct $name" >> "$tree/${first[$package]}"
done
rm ctacct.bash-completion  # debhelper would install it.

cd "$tree"
# Without a package of symbols: these are made by building the same version again.
export DEB_BUILD_OPTIONS=noautodbgsym
dpkg-buildpackage --build=binary --unsigned-source --unsigned-changes --no-check-builddeps > "$work/log" 2>&1 ||
  { cat "$work/log" >&2; exit 1; }
for package in ctacct ctacct-names; do mv "$work/$package"_*.deb "$folder/$package.deb"; done

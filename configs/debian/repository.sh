#!/usr/bin/env bash
# Makes a repository of packages that apt can use from a web server or a folder: what `./dev package --repo=KEY` does.
#
# usage: repository.sh KEY FOLDER DEB...
#   KEY     of gpg, with which Release is signed: its fingerprint, or the address in it
#   FOLDER  where the repository is made, or packages of another Debian release are added to it
#   DEB     packages that were built on this Debian release
#
# On the machines that use it, with the key (gpg --export KEY > ctacct.gpg) in /etc/apt/keyrings:
#   deb [signed-by=/etc/apt/keyrings/ctacct.gpg] https://example.org/ctacct CODENAME main
set -euo pipefail

[ $# -ge 3 ] || { sed -n 's/^# usage: /usage: /p' "$0" >&2; exit 2; }
key=$1 folder=$2
shift 2
gpg --batch --list-secret-keys "$key" > /dev/null 2>&1 || { echo "repository.sh: gpg has no secret key $key" >&2; exit 1; }
codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
architecture=$(dpkg --print-architecture)
lists=dists/$codename/main/binary-$architecture
mkdir -p "$folder/pool/$codename" "$folder/$lists"
for deb in "$@"; do
  install -m 644 "$deb" "$folder/pool/$codename/$(dpkg-deb --show --showformat='${Package}_${Version}_${Architecture}.deb' "$deb")"
done
cd "$folder"
apt-ftparchive packages "pool/$codename" > "$lists/Packages"
gzip -9nkf "$lists/Packages"
apt-ftparchive -o APT::FTPArchive::Release::Origin=ctacct -o "APT::FTPArchive::Release::Codename=$codename" \
  -o "APT::FTPArchive::Release::Architectures=$architecture" -o APT::FTPArchive::Release::Components=main \
  release "dists/$codename" > Release.new
mv Release.new "dists/$codename/Release"
gpg --batch --yes --local-user "$key" --clearsign -o "dists/$codename/InRelease" "dists/$codename/Release"
gpg --batch --yes --local-user "$key" --armor --detach-sign -o "dists/$codename/Release.gpg" "dists/$codename/Release"

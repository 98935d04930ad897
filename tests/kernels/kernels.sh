#!/usr/bin/env bash
# Runs tests under Debian's stock kernels, each in an emulated machine (vm.sh): what `./dev kernels` does. Ends with a table
# of kernel, test, result and seconds.
#
# usage: kernels.sh BAZEL_BIN [--ci]
#   BAZEL_BIN  folder of built programs
#   --ci       a selection, and a few minutes; without it everything, and about an hour
#
# The kernels are downloaded, not installed, and unpacked in $XDG_CACHE_HOME/ctacct/kernels (else below /var/tmp/ctacct):
# the newest one that apt knows of each version, 600 MB together.
set -euo pipefail
export LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin

readonly CACHE=${XDG_CACHE_HOME:-/var/tmp}/ctacct/kernels
FOLDER=$(cd "$(dirname "$0")" && pwd)
readonly FOLDER TABLE_FORMAT='%-24s %-34s %-7s %8s %5s\n'
# The stock kernels of Debian 12 and of Debian 13, which Debian 12 also offers.
readonly VERSIONS=(6.1 6.12)

# What crosses the border to the kernel: events, dumps, filters, sockets that outlive the engine, settings, tunnels.
readonly ALL=(
  # First: others keep conntrack's modules in use.
  tests/kernels/site_test:SiteTest.ConntrackIsLoadedAfterTheEngine
  tests/support/gateway_test
  tests/kernels/site_test:-SiteTest.ConntrackIsLoadedAfterTheEngine
  tests/live/kernel_fault_test
  tests/service/service_manager_test
  tests/service/doctor_test
  tests/live/live_test
  tests/live/reliable_test:ReliableTest.MassDestroyWithATinyBufferIsExact:ReliableTest.MassDestroyInLightModeIsExact:ReliableTest.EndsWaitForAnEngineThatIsHeld
)
readonly SELECTION=(
  tests/support/gateway_test:GatewayTest.NothingIsLeftBehind
  tests/kernels/site_test:SiteTest.WireGuard:SiteTest.NamesOfWireGuard:SiteTest.OpenVpn:SiteTest.OpenVpnWithoutItsOwnFlows:SiteTest.CaptureOfNlmon
  tests/live/live_test:LiveTest.ConnectionsOpenOverFiveIntervals:LiveTest.TranslatedFlowsAreTheirOpeners
  tests/live/kernel_fault_test:KernelFaultTest.ARuleMasksTheEnds:KernelFaultTest.FlowsOlderThanTheEngineEndUnreported
  tests/service/service_manager_test:ServiceManagerTest.ARestartMissesNothing
)

fail() {
  echo "kernels.sh: $*" >&2
  exit 1
}

# The name of the newest stock kernel's package of a version, such as linux-image-6.1.0-56-amd64.
package_of() {
  apt-cache search --names-only "^linux-image-${1/./\\.}\.[0-9.]+(-[0-9]+|\+deb[0-9]+)-amd64\$" |
    cut -d' ' -f1 | sort -V | tail -n 1
}

# The folder with a kernel, downloaded if it is not there; older ones of its version are removed.
kernel_folder() {
  local package=$1 version=$2 folder=$CACHE/$1
  if [ ! -d "$folder" ]; then
    rm -rf "$CACHE"/linux-image-"$version".*
    mkdir -p "$CACHE/partial"
    (
      cd "$CACHE/partial"
      apt-get download -qq "$package" 2> /dev/null && dpkg -x "$package"_*.deb new && mv new "$folder"
    ) || fail "$package cannot be downloaded"
    rm -rf "$CACHE/partial"
  fi
  echo "$folder"
}

[ $# -ge 1 ] || { sed -n 's/^# usage: /usage: /p' "$0" >&2; exit 2; }
bin=$1
tests=("${ALL[@]}") seconds=5400
case ${2:-} in
  "") ;;
  --ci) tests=("${SELECTION[@]}") seconds=900 ;;
  *) echo "kernels.sh: --ci or nothing" >&2; exit 2 ;;
esac
mkdir -p "$CACHE"
exec 9> "$CACHE/lock"
flock -n 9 || fail "$CACHE is in use"
work=$(mktemp -d /tmp/ctacct-kernels.XXXXXX)
trap 'kill "${machines[@]}" 2> /dev/null || true; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# All at once: most of the time a test waits for an interval's end.
packages=() machines=()
for version in "${VERSIONS[@]}"; do
  package=$(package_of "$version")
  if [ ! -d "$CACHE/${package:-none}" ]; then
    # A machine may know no packages yet, or only some that the mirror has replaced.
    apt-get update -qq 2> /dev/null || true
    package=$(package_of "$version")
  fi
  [ -n "$package" ] || fail "apt knows no kernel $version here"
  folder=$(kernel_folder "$package" "$version")
  {
    begin=$SECONDS result=ok code=0
    setpriv --pdeathsig TERM "$FOLDER/vm.sh" "$folder" "$seconds" "$FOLDER/inside.sh" "$bin" "${tests[@]}" || {
      code=$?
      result=FAILED
    }
    echo "vm-row $result $((SECONDS - begin)) in_all -"
    exit "$code"
  } > "$work/$package" 2>&1 9>&- &
  packages+=("$package")
  machines+=($!)
done
status=0
for number in "${!packages[@]}"; do
  wait "${machines[number]}" || status=1
  echo "Linux ${packages[number]#linux-image-}"
  grep -v '^vm-row ' "$work/${packages[number]}" || true
done
# shellcheck disable=SC2059
printf "\n$TABLE_FORMAT" kernel test result passed s
for package in "${packages[@]}"; do
  sed -n 's/^vm-row //p' "$work/$package" | while read -r result seconds test passed; do
    # shellcheck disable=SC2059
    printf "$TABLE_FORMAT" "${package#linux-image-}" "$test" "$result" "$passed" "$seconds"
  done
done
exit "$status"

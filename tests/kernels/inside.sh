#!/usr/bin/env bash
# Runs tests in a machine that vm.sh has booted. Prints a line for each, "vm-row RESULT SECONDS TEST PASSED/ALL", and what a
# failed one said.
#
# usage: inside.sh BAZEL_BIN TEST[:FILTER]...
#   BAZEL_BIN  folder of built programs
#   TEST       a test's path below it
#   FILTER     as --gtest_filter
set -uo pipefail

bin=$1
shift
# Where tests started by hand look for programs (tests/support/subprocess.h).
ln -sfn "$bin" bazel-bin
# The machine is emulated: a dump of 200,000 flows takes 12 s.
export CTACCT_SLOWNESS=8
failed=0
for test in "$@"; do
  # Somebody has set this machine up already: no test may need an untouched one.
  modprobe -a nf_conntrack tun
  sysctl -q net.netfilter.nf_conntrack_max=4000000
  filter="*"
  case $test in *:*) filter=${test#*:} test=${test%%:*} ;; esac
  export TEST_TMPDIR=/tmp/ctacct-inside
  mkdir -p "$TEST_TMPDIR"
  begin=$SECONDS
  result=ok
  "bazel-bin/$test" --gtest_filter="$filter" > /tmp/log 2>&1 || result=FAILED
  passed=$(sed -n 's/^\[  PASSED  \] \([0-9]*\) test.*/\1/p' /tmp/log)
  all=$(sed -n 's/^\[==========\] Running \([0-9]*\) test.*/\1/p' /tmp/log)
  # A filter that matches nothing, and tests that skip, are failures.
  [ "${all:-0}" -gt 0 ] && [ "${passed:-0}" = "$all" ] || result=FAILED
  if [ "$result" != ok ]; then
    failed=1
    grep -v '^\[ RUN\|^\[       OK' /tmp/log | tail -c 20000
  fi
  echo "vm-row $result $((SECONDS - begin)) $test ${passed:-0}/${all:-0}"
  rm -rf "$TEST_TMPDIR"
done
exit "$failed"

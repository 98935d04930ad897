#!/bin/bash
# A real gateway on one machine, for tests: three network namespaces joined by veth pairs.
#
#   NAME-client            NAME-gw                       NAME-server
#     to-gw  <-- veth -->  to-client   to-server <-- veth -->  to-gw
#
# The gateway forwards between clients (10.32.0.0/13, 10.48.0.0/13) and servers (10.40.0.0/13, 10.56.0.0/13), all of
# 10.32.0.0/11; each side spans both values of the bit that the mask 255.239.255.0 leaves out. Conntrack is on, with
# counters and timestamps. Nobody has an address: both ends are raw packet sockets (tests/support/traffic_generator), neighbours
# are static, IPv6 is off unless asked for, so no packet appears that nobody sent.
#
# Everything is inside the namespaces except three limits that the kernel keeps once per machine. If they are too small they
# are raised, under a lock, and restored when the last gateway goes down (state: see STATE below).
#
# Exit status: 0 done, 1 failed (nothing is left behind), 2 bad usage, 77 not possible here (not root, a tool is missing).
set -euo pipefail
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C

# Shared by all gateways of this machine: the lock, the old values, one empty file per gateway that is up.
readonly STATE=/run/ctacct-gateways

# If a limit is too small, packets are dropped, and the generator's counts are wrong.
# Two tests of a few 100,000 flows; an entry takes 320 bytes.
readonly CONNTRACK_ENTRIES_MIN=2000000
# Both directions of each entry are in the table; chains beyond 50 entries are dropped as hash attacks.
readonly CONNTRACK_BUCKETS_MIN=524288
# So that a benchmark of millions of flows walks chains about as long as a test's.
readonly CONNTRACK_ENTRIES_PER_BUCKET=4
# Packets a CPU may hold between two veth ends: a generator's burst, when ksoftirqd has to wait for its turn.
readonly BACKLOG_PACKETS_MIN=100000

# Longer than any test: flows end only by their packets or by `conntrack -F`.
readonly LONG_SECONDS=3600
# Flows end within a test. Not 0: an entry must outlive the round trip.
readonly SHORT_SECONDS=2

usage() {
  cat <<'TEXT'
usage: gateway.sh up NAME [--nat] [--ipv6] [--timeouts=long|short|kernel] [--entries=N]
       gateway.sh down NAME
       gateway.sh check

up    makes the namespaces NAME-client, NAME-gw and NAME-server
  --nat       the gateway also translates 10.32.0.0/11 to 100.64.0.0/11, address by address: sources and destinations
              of connections that come from the clients (the generator's --nat answers from there)
  --ipv6      the gateway forwards the same addresses within fd00::/96 as well (and translates them to fd01::/96)
  --timeouts  long (default): flows end by `conntrack -F` only; short: closed TCP, UDP and ICMP flows end after 2 s;
              kernel: its defaults
  --entries   room for so many conntrack entries, at least 2,000,000
down  removes them, half-made ones too, and ends the processes that still run inside
check tells whether gateways can be made here at all
TEXT
}

fail() {
  echo "gateway.sh: $*" >&2
  exit 1
}

bad_usage() {
  echo "gateway.sh: $*; --help tells more" >&2
  exit 2
}

impossible() {
  echo "gateway.sh: $*" >&2
  exit 77
}

# The machine's own limits, raised for as long as a gateway is up. Takes the conntrack entries wanted. Where the machine allows more
# of them, its buckets must do for these.
machine_limits() {
  local entries buckets
  read -r entries < /proc/sys/net/netfilter/nf_conntrack_max
  ((entries > $1)) || entries=$1
  buckets=$((entries / CONNTRACK_ENTRIES_PER_BUCKET))
  echo "net/netfilter/nf_conntrack_max $1"
  echo "net/netfilter/nf_conntrack_buckets $((buckets > CONNTRACK_BUCKETS_MIN ? buckets : CONNTRACK_BUCKETS_MIN))"
  echo "net/core/netdev_max_backlog $BACKLOG_PACKETS_MIN"
}

with_state_locked() {
  mkdir -p "$STATE/up"
  (
    flock -w 30 9 || fail "$STATE/lock: somebody holds it for 30 s"
    "$@"
  ) 9> "$STATE/lock"
}

raise_limits() {
  local path least old
  while read -r path least; do
    read -r old < "/proc/sys/$path"
    if ((old < least)); then
      # The first value seen is the machine's own; a gateway that was killed must not make ours look like it.
      grep -qs "^$path " "$STATE/old" || echo "$path $old" >> "$STATE/old"
      echo "$least" > "/proc/sys/$path"
    fi
  done < <(machine_limits "$2")
  : > "$STATE/up/$1"
}

restore_limits() {
  local path old gateway
  rm -f "$STATE/up/$1"
  # Others may have vanished without `down`. (The namespace is made before its file here, and goes before it.)
  for gateway in "$STATE"/up/*; do
    [[ -e /run/netns/${gateway##*/}-gw ]] || rm -f "$gateway"
  done
  [[ -z "$(ls -A "$STATE/up")" && -e "$STATE/old" ]] || return 0
  while read -r path old; do
    echo "$old" > "/proc/sys/$path"
  done < "$STATE/old"
  rm -f "$STATE/old"
}

# Reads "PATH VALUE" lines, PATH below /proc/sys; /proc shows the settings of the namespace of the process that looks.
set_sysctls() {
  # shellcheck disable=SC2016  # Expanded by the inner shell.
  ip netns exec "$1" /bin/sh -c 'while read -r path value; do echo "$value" > "/proc/sys/$path" || exit 1; done'
}

common_sysctls() {
  cat <<'TEXT'
net/ipv6/conf/all/disable_ipv6 1
net/ipv6/conf/default/disable_ipv6 1
net/ipv4/conf/all/rp_filter 0
net/ipv4/conf/default/rp_filter 0
TEXT
}

gateway_sysctls() {
  cat <<'TEXT'
net/ipv4/ip_forward 1
net/netfilter/nf_conntrack_acct 1
net/netfilter/nf_conntrack_timestamp 1
net/netfilter/nf_conntrack_checksum 0
net/netfilter/nf_conntrack_tcp_be_liberal 1
TEXT
  local seconds=$SHORT_SECONDS name
  case $1 in
    kernel) return ;;
    long) seconds=$LONG_SECONDS ;;
  esac
  # Under short timeouts an established connection still lives: a test decides when it ends.
  echo "net/netfilter/nf_conntrack_tcp_timeout_established $LONG_SECONDS"
  for name in tcp_timeout_fin_wait tcp_timeout_close_wait tcp_timeout_last_ack tcp_timeout_time_wait \
    tcp_timeout_close tcp_timeout_syn_sent tcp_timeout_syn_recv udp_timeout udp_timeout_stream icmp_timeout icmpv6_timeout; do
    echo "net/netfilter/nf_conntrack_$name $seconds"
  done
}

# Far ends get a hardware address that is not theirs: their kernel drops what arrives before looking at it, silently.
links() {
  cat <<TEXT
link add to-client netns $1-gw type veth peer name to-gw netns $1-client
link add to-server netns $1-gw type veth peer name to-gw netns $1-server
TEXT
}

# The loopback's address makes the kernel's table of local addresses, without which it takes no next hop.
gateway_network() {
  cat <<'TEXT'
link set lo up
link set to-client up
link set to-server up
neigh add 169.254.0.1 lladdr 02:ff:00:00:00:01 nud permanent dev to-client
neigh add 169.254.0.2 lladdr 02:ff:00:00:00:02 nud permanent dev to-server
route add 10.32.0.0/13 via 169.254.0.1 dev to-client onlink
route add 10.48.0.0/13 via 169.254.0.1 dev to-client onlink
route add 10.40.0.0/13 via 169.254.0.2 dev to-server onlink
route add 10.56.0.0/13 via 169.254.0.2 dev to-server onlink
route add 100.64.0.0/11 via 169.254.0.2 dev to-server onlink
TEXT
}

# No address of any link, and so no neighbour discovery; the reports of multicast listeners are dropped.
ipv6_sysctls() {
  cat <<'TEXT'
net/ipv6/conf/all/disable_ipv6 0
net/ipv6/conf/default/disable_ipv6 0
net/ipv6/conf/to-client/addr_gen_mode 1
net/ipv6/conf/to-server/addr_gen_mode 1
net/ipv6/conf/all/accept_dad 0
net/ipv6/conf/to-client/accept_dad 0
net/ipv6/conf/to-server/accept_dad 0
net/ipv6/conf/all/forwarding 1
TEXT
}

ipv6_network() {
  cat <<'TEXT'
neigh add fe80::c lladdr 02:ff:00:00:00:01 nud permanent dev to-client
neigh add fe80::5 lladdr 02:ff:00:00:00:02 nud permanent dev to-server
route add fd00::10.32.0.0/109 via fe80::c dev to-client onlink
route add fd00::10.48.0.0/109 via fe80::c dev to-client onlink
route add fd00::10.40.0.0/109 via fe80::5 dev to-server onlink
route add fd00::10.56.0.0/109 via fe80::5 dev to-server onlink
route add fd01::10.32.0.0/107 via fe80::5 dev to-server onlink
TEXT
}

ipv6_rules() {
  cat <<'TEXT'
table ip6 gateway {
  chain forward {
    type filter hook forward priority filter; policy accept;
    ct state invalid,untracked counter drop
  }
  chain output {
    type filter hook output priority filter; policy drop;
    oifname "lo" accept
  }
}
TEXT
  [[ $1 == yes ]] || return 0
  cat <<'TEXT'
table ip6 translation {
  chain prerouting {
    type nat hook prerouting priority dstnat; policy accept;
    iifname "to-client" dnat ip6 prefix to ip6 daddr map { fd00::a20:0/107 : fd01::a20:0/107 }
  }
  chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    oifname "to-server" snat ip6 prefix to ip6 saddr map { fd00::a20:0/107 : fd01::a20:0/107 }
  }
}
TEXT
}

# Conntrack is off in a namespace until a rule asks for it. What it does not account it must not forward either: so a
# packet outside the kernel's counters is a lost packet to the generator, never a silent difference.
gateway_rules() {
  cat <<'TEXT'
table ip gateway {
  chain forward {
    type filter hook forward priority filter; policy accept;
    ct state invalid,untracked counter drop
  }
}
TEXT
  [[ $1 == yes ]] || return 0
  cat <<'TEXT'
table ip translation {
  chain prerouting {
    type nat hook prerouting priority dstnat; policy accept;
    iifname "to-client" dnat ip prefix to ip daddr map { 10.32.0.0/11 : 100.64.0.0/11 }
  }
  chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    oifname "to-server" snat ip prefix to ip saddr map { 10.32.0.0/11 : 100.64.0.0/11 }
  }
}
TEXT
}

# An interface forwards nothing until the kernel's link watcher has seen its other end; that may take it a second.
wait_for_links() {
  local try
  for ((try = 0; try < 100; ++try)); do
    if [[ $(ip -n "$1-gw" -br link show up | grep -c ' UP ') == 2 &&
      $(ip -n "$1-client" -br link show up) == *' UP '* && $(ip -n "$1-server" -br link show up) == *' UP '* ]]; then
      return
    fi
    sleep 0.05
  done
  fail "the links of $1 do not come up"
}

up() {
  local name=$1 nat=$2 timeouts=$3 entries=$4 ipv6=$5 end
  for end in client gw server; do
    [[ ! -e /run/netns/$name-$end ]] || fail "namespace $name-$end exists; gateway.sh down $name removes it"
  done
  # shellcheck disable=SC2064  # The name of now: the trap runs where $name is gone.
  trap "down '$name'; exit 1" EXIT
  for end in client gw server; do
    ip netns add "$name-$end"
    common_sysctls | set_sysctls "$name-$end"
  done
  with_state_locked raise_limits "$name" "$entries"
  links "$name" | ip -batch -
  gateway_sysctls "$timeouts" | set_sysctls "$name-gw"
  if [[ $ipv6 == yes ]]; then
    # The rules first: they drop what the kernel itself would send.
    ipv6_rules "$nat" | ip netns exec "$name-gw" nft -f -
    ipv6_sysctls | set_sysctls "$name-gw"
  fi
  for end in client server; do
    ip -n "$name-$end" link set to-gw up
  done
  gateway_network | ip -n "$name-gw" -batch -
  [[ $ipv6 == no ]] || ipv6_network | ip -n "$name-gw" -6 -batch -
  gateway_rules "$nat" | ip netns exec "$name-gw" nft -f -
  wait_for_links "$name"
  trap - EXIT
}

down() {
  local name=$1 end pids
  for end in client gw server; do
    [[ -e /run/netns/$name-$end ]] || continue
    # A process left inside would keep the namespace, its interfaces and its conntrack entries alive, without a name.
    pids=$(ip netns pids "$name-$end" 2> /dev/null || true)
    # shellcheck disable=SC2086  # One word per process.
    [[ -z $pids ]] || kill -KILL $pids 2> /dev/null || true
    ip netns del "$name-$end" 2> /dev/null || rm -f "/run/netns/$name-$end"
  done
  with_state_locked restore_limits "$name"
}

check() {
  local tool
  ((EUID == 0)) || impossible "network namespaces need root"
  for tool in ip nft conntrack flock unshare; do
    command -v "$tool" > /dev/null || impossible "$tool is not installed"
  done
  # Root of a container may be refused what follows.
  unshare --net true 2> /dev/null || impossible "no network namespaces here"
  modprobe -qa nf_conntrack nf_conntrack_netlink veth 2> /dev/null || true  # Built in, or there already.
  [[ -w /proc/sys/net/netfilter/nf_conntrack_max ]] || impossible "no conntrack here to configure"
}

main() {
  local action=${1:-} name=${2:-} nat=no ipv6=no timeouts=long entries=$CONNTRACK_ENTRIES_MIN argument
  case $action in
    -h | --help)
      usage
      exit 0
      ;;
    check)
      (($# == 1)) || bad_usage "check takes no argument"
      check
      exit 0
      ;;
    up | down) ;;
    '') bad_usage "needs up, down or check" ;;
    *) bad_usage "unknown action '$action'" ;;
  esac
  # Part of file and namespace names.
  [[ $name =~ ^[a-z][a-z0-9-]{0,39}$ ]] || bad_usage "bad NAME '$name': a-z, 0-9 and -, at most 40"
  for argument in "${@:3}"; do
    case $action,$argument in
      up,--nat) nat=yes ;;
      up,--ipv6) ipv6=yes ;;
      up,--timeouts=long | up,--timeouts=short | up,--timeouts=kernel) timeouts=${argument#*=} ;;
      up,--entries=*)
        entries=${argument#*=}
        [[ $entries =~ ^[1-9][0-9]{0,8}$ ]] || bad_usage "bad argument '$argument'"
        ((entries >= CONNTRACK_ENTRIES_MIN)) || entries=$CONNTRACK_ENTRIES_MIN
        ;;
      *) bad_usage "unknown argument '$argument'" ;;
    esac
  done
  check
  if [[ $action == up ]]; then
    up "$name" "$nat" "$timeouts" "$entries" "$ipv6"
  else
    down "$name"
  fi
}

main "$@"

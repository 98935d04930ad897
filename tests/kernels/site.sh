#!/bin/bash
# A small provider on one machine, for tests: a VPN gateway, two to six customers, and the world, a network namespace each.
#
#   one (192.168.1.2) --- gw (192.168.1.1, 192.168.2.1, 198.51.100.1) --- world (198.51.100.2)
#   two (192.168.2.2) ---/
#   ...
#
# With a tunnel all that its customers send goes through it: the gateway has 10.32.0.1 in there, the customers 10.32.0.11,
# 10.32.0.12, and so on. What they send to the world is translated to the gateway's address; what the world sends to port 8080
# there, to one's port 8000.
# Only for a throwaway machine (vm.sh): it loads modules, and what it starts ends with the machine or by `down`.
#
# usage: site.sh up [NUMBER]                  of customers; 2 without it
#        site.sh rules                        the gateway's rules and time-outs once more (`up` has set them)
#        site.sh direct                       two customers without a tunnel
#        site.sh wireguard|openvpn FOLDER [NETWORK CUSTOMER...]
#                                             one and two with a tunnel, or these, in NETWORK instead of 10.32.0; keys, status
#                                             and logs go into the folder
#        site.sh down
set -euo pipefail
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C

readonly PREFIX=ctacct-site-
readonly CUSTOMERS=(one two three four five six)
readonly -A NUMBER=([one]=1 [two]=2 [three]=3 [four]=4 [five]=5 [six]=6)

fail() {
  echo "site.sh: $*" >&2
  exit 1
}
in_ns() { ip netns exec "$PREFIX$1" "${@:2}"; }

link() {  # NAME GATEWAY_ADDRESS ADDRESS
  ip -n "${PREFIX}gw" link add "to-$1" type veth peer name to-gw netns "$PREFIX$1"
  ip -n "${PREFIX}gw" address add "$2/24" dev "to-$1"
  ip -n "${PREFIX}gw" link set "to-$1" up
  ip -n "$PREFIX$1" address add "$3/24" dev to-gw
  ip -n "$PREFIX$1" link set to-gw up
}

wireguard_tunnels() {
  modprobe wireguard
  local name number
  for name in gw "${customers[@]}"; do
    wg genkey > "$folder/$name.key"
    wg pubkey < "$folder/$name.key" > "$folder/$name.pub"
    # Made where it sends from.
    ip -n "$PREFIX$name" link add wg0 type wireguard
    in_ns "$name" wg set wg0 private-key "$folder/$name.key" listen-port 51820
  done
  for name in "${customers[@]}"; do
    number=${NUMBER[$name]}
    in_ns gw wg set wg0 peer "$(cat "$folder/$name.pub")" allowed-ips "$network.1$number/32"
    in_ns "$name" wg set wg0 peer "$(cat "$folder/gw.pub")" allowed-ips 0.0.0.0/0 endpoint "192.168.$number.1:51820"
    ip -n "$PREFIX$name" address add "$network.1$number/24" dev wg0
    ip -n "$PREFIX$name" link set wg0 up
    ip -n "$PREFIX$name" route add default dev wg0
  done
  ip -n "${PREFIX}gw" address add "$network.1/24" dev wg0
  ip -n "${PREFIX}gw" link set wg0 up
}

certificates() {
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=ca -keyout "$folder/ca.key" -out "$folder/ca.crt"
  local name
  for name in gw "${customers[@]}"; do
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$name" -keyout "$folder/$name.key" -out "$folder/$name.csr"
    openssl x509 -req -in "$folder/$name.csr" -CA "$folder/ca.crt" -CAkey "$folder/ca.key" -CAcreateserial -days 30 -out "$folder/$name.crt"
  done
}

openvpn_tunnels() {
  modprobe tun
  certificates 2> "$folder/openssl.log" || fail "no certificates: $(tail -n 3 "$folder/openssl.log")"
  mkdir "$folder/clients"
  local name
  for name in "${customers[@]}"; do echo "ifconfig-push $network.1${NUMBER[$name]} 255.255.255.0" > "$folder/clients/$name"; done
  local common=(--dev tun0 --dev-type tun --proto udp4 --ca "$folder/ca.crt" --verb 3)
  in_ns gw openvpn "${common[@]}" --cert "$folder/gw.crt" --key "$folder/gw.key" --dh none --local 0.0.0.0 --port 1194 --topology subnet \
    --server "$network.0" 255.255.255.0 --client-config-dir "$folder/clients" --push "redirect-gateway local" \
    --status "$folder/status" 1 --status-version 2 --daemon --log "$folder/gw.log"
  for name in "${customers[@]}"; do
    in_ns "$name" openvpn "${common[@]}" --cert "$folder/$name.crt" --key "$folder/$name.key" --client --nobind --connect-retry 1 \
      --remote "192.168.${NUMBER[$name]}.1" 1194 --daemon --log "$folder/$name.log" --writepid "$folder/$name.pid"
  done
  for name in "${customers[@]}"; do
    for ((i = 0; i < 600; ++i)); do
      grep -qs 'Initialization Sequence Completed' "$folder/$name.log" && break
      sleep 0.1
    done
    grep -q 'Initialization Sequence Completed' "$folder/$name.log" || fail "no tunnel of $name: $(tail -n 5 "$folder/$name.log")"
    ip -n "$PREFIX$name" route replace default dev tun0
  done
}

up() {
  local name customers=("${CUSTOMERS[@]:0:$1}")
  for name in gw "${customers[@]}" world; do
    ip netns add "$PREFIX$name"
    ip -n "$PREFIX$name" link set lo up
    in_ns "$name" sysctl -q net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1 \
      net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.default.send_redirects=0
  done
  for name in "${customers[@]}"; do link "$name" "192.168.${NUMBER[$name]}.1" "192.168.${NUMBER[$name]}.2"; done
  link world 198.51.100.1 198.51.100.2
  in_ns gw sysctl -q net.ipv4.ip_forward=1
  rules
}

rules() {
  in_ns gw nft -f - <<'TEXT'
table ip gateway {
  chain prerouting {
    type nat hook prerouting priority dstnat; policy accept;
    iifname "to-world" tcp dport 8080 dnat to 10.32.0.11:8000
  }
  chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    oifname "to-world" masquerade
  }
  chain forward {
    type filter hook forward priority filter; policy accept;
    ct state invalid counter drop
  }
}
TEXT
  in_ns gw sysctl -q net.netfilter.nf_conntrack_acct=1 net.netfilter.nf_conntrack_timestamp=1
  # A flow lives until a test has looked at its counters.
  in_ns gw sh -c 'for file in /proc/sys/net/netfilter/nf_conntrack_*_timeout* /proc/sys/net/netfilter/nf_conntrack_generic_timeout; do
    echo 3600 > "$file"; done'
}

direct() {
  local name
  for name in one two; do ip -n "$PREFIX$name" route add default via "192.168.${NUMBER[$name]}.1"; done
}

down() {
  local name pids
  for name in gw "${CUSTOMERS[@]}" world; do
    [[ -e /run/netns/$PREFIX$name ]] || continue
    pids=$(ip netns pids "$PREFIX$name")
    # shellcheck disable=SC2086  # One word per process.
    [[ -z $pids ]] || kill -KILL $pids 2> /dev/null || true
    ip netns del "$PREFIX$name"
  done
}

case ${1:-},$# in
  up,1 | up,2) up "${2:-2}" ;;
  rules,1) rules ;;
  direct,1) direct ;;
  wireguard,[24-9] | openvpn,[24-9])
    folder=$2 network=${3:-10.32.0} customers=("${@:4}")
    [[ $# -gt 2 ]] || customers=(one two)
    "$1"_tunnels
    ;;
  down,1) down ;;
  *)
    sed -n 's/^# usage: /usage: /p' "$0" >&2
    exit 2
    ;;
esac

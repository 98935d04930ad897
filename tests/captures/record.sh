#!/usr/bin/env bash
# Records tests/captures/gateway.pcap and gateway.sent.csv again, with a real gateway and our own `record`; about 25 s.
# Needs root.
#
# The capture holds TCP (closed by FIN and by reset, and some that stay open over several intervals), UDP and ICMP flows,
# a baseline dump, a dump at each boundary of 5 s, ends by time-out and, at the end, by `conntrack -F`. gateway.sent.csv
# is what the generator sent, by its own count: proto,src,dst,port,packets_src,packets_dst,bytes_src,bytes_dst,
# connection_count.
#
# usage: tests/captures/record.sh ENGINE GENERATOR FOLDER
set -euo pipefail
engine=$1 generator=$2 folder=$3
name=record$$
scratch=$(mktemp -d)
trap 'tests/support/gateway.sh down "$name"; rm -rf "$scratch"' EXIT
tests/support/gateway.sh up "$name" --timeouts=short

ip netns exec "$name-gw" "$engine" -interval=5 -include-icmp -output="$scratch" -record="$folder/gateway.pcap" &
pid=$!
sleep 1
flows=0
play() {  # SECONDS FLAGS...: flows at an even rate
  local seconds=$1 tcp=$2 udp=$3 icmp=$4 open=$5
  "$generator" -gateway="$name" -clients=128 -servers=48 -ports=6 -payload-max=1400 -udp-packets-max=4 -first-flow=$flows \
    -tcp="$tcp" -udp="$udp" -icmp="$icmp" -open-tcp="$open" -rounds="$seconds" -round-seconds=1 \
    -rate=$(((tcp + udp + icmp + open) / seconds + 1)) -expect="$scratch/part$flows.csv"
  flows=$((flows + tcp + udp + icmp + open))
}
play 12 150 150 20 60
play 5 160 90 12 30
play 3 80 100 12 0
ip netns exec "$name-gw" conntrack -F
kill -TERM $pid
wait $pid
grep -hE '^[a-z]+,[0-9]' "$scratch"/part*.csv | sort >"$folder/gateway.sent.csv"

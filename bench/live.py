#!/usr/bin/env -S python3 -B
"""What listening costs a gateway, and what the listener itself costs, live. Root.

Per round, each listener in turn accounts for the same TCP connections (open, 10 packets, close), played at full speed
through a gateway of its own kernel namespaces (tests/support/gateway.sh, flows end 2 s after their close, the rest by
`conntrack -F` at the end). The generator and with it the gateway's forwarding have one CPU, the listener another.

  none            nobody listens
  floor-MODE      bench/floor: the same sockets, filters, threads and dumps as the engine, nothing parsed
  engine-MODE     the engine with its default interval
  ...-no-dumps    floor and engine without the dumps of each interval's end: events alone
  conntrack       conntrack -E >/dev/null
  ulogd2          NFCT to GPRINT to /dev/null, NEW and DESTROY (where ulogd2 is installed)

Runs with dumps begin so that one dump falls into each, about in its middle. Those without dumps, conntrack and ulogd2
take part in the first six rounds only.

Measured: the gateway's connections per second, by the generator's clock; the listener's CPU time (user and system, all
threads) from before the first packet to its exit, per connection; events the kernel dropped. The listeners alternate, each
round begins with another one. Ratios are of two runs of the same round; printed are their median over the rounds and its
95 % interval, of six rounds and more. If that contains 1, no difference was measured. The engine's sums must be those of
the generator for every key, to the packet and byte, or there is no result.
"""
import os
import shutil
import signal
import time

import harness

# Events of one connection that pass the filter: at least and at most. NEW, one or two closing UPDATEs, DESTROY.
EVENTS = {"precise": (3, 4), "light": (1, 1)}
CONNECTIONS_PER_SECOND = 25_000  # About.
ULOGD_CONFIG = """[global]
logfile="/dev/null"
loglevel=8
plugin="{plugins}/ulogd_inpflow_NFCT.so"
plugin="{plugins}/ulogd_output_GPRINT.so"
stack=ct:NFCT,out:GPRINT
[ct]
netlink_socket_buffer_size=134217728
netlink_socket_buffer_maxsize=268435456
event_mask=5
[out]
file="/dev/null"
"""
ULOGD_PLUGINS = "/usr/lib/x86_64-linux-gnu/ulogd"
LISTENERS = ("none", "floor-precise", "engine-precise", "floor-light", "engine-light")
OTHERS = ("floor-precise-no-dumps", "engine-precise-no-dumps", "floor-light-no-dumps", "engine-light-no-dumps",
          "conntrack", "ulogd2")
OTHERS_ROUNDS_MAX = 6


def wait_for_start(args):
    """Until the next dump will come in the middle of the run."""
    half = min(args.interval, args.connections / CONNECTIONS_PER_SECOND) / 2
    time.sleep((-half - time.time()) % args.interval)


def start(gateway, name, spool):
    args = gateway.args
    if name == "none":
        return None
    mode, dumps = "light" if "-light" in name else "precise", not name.endswith("-no-dumps")
    if name.startswith("floor-"):
        listener = gateway.start([args.bin / "bench/floor", f"-mode={mode}", f"-workers={args.workers}", "-src=10.32.0.0/11",
                                  f"-interval={args.interval if dumps else 0}"])
        listener.wait_for("listening")
    elif name == "conntrack":
        listener = gateway.start(["conntrack", "-E", "-b", "134217728"], discard_output=True)
        listener.wait_subscribed()
    elif name == "ulogd2":
        config = gateway.folder / "ulogd.conf"
        config.write_text(ULOGD_CONFIG.format(plugins=ULOGD_PLUGINS))
        listener = gateway.start(["ulogd", "-c", config])
        listener.wait_subscribed()
        time.sleep(0.5)
    else:
        listener = gateway.start_engine(spool, f"-mode={mode}", f"-interval={args.interval if dumps else 3600}")
    if name.startswith(("floor-", "engine-")) and dumps:
        wait_for_start(args)
    return listener


def play_once(gateway, name, run):
    """One listener, one run; its figures."""
    # The kernel's default; the engine sets 1. Flows born while nobody listens then cost no event.
    gateway.in_namespace("sysctl", "-q", "net.netfilter.nf_conntrack_events=2")
    spool = gateway.folder / f"spool{run}"
    listener = start(gateway, name, spool)
    cpu_before = listener.cpu_seconds() if listener else 0
    summary, sent = gateway.play(f"-tcp={gateway.args.connections}")
    gateway.destroy_all_flows()
    figures = {"rate": summary["flows_per_second"]}
    if listener:
        listener.wait_drained()
        figures["drops"] = listener.drops()
        stopped_by = signal.SIGINT if name == "conntrack" else signal.SIGTERM
        cpu = listener.stop(stopped_by) - cpu_before
        figures["cpu_us_per_connection"] = cpu / gateway.args.connections * 1e6
        if name.startswith("floor-"):
            told = listener.text().splitlines()[-1]
            received = harness.json.loads(told)["datagrams"]
            least, most = EVENTS["light" if "-light" in name else "precise"]
            if figures["drops"] or not least <= received / gateway.args.connections <= most:
                raise harness.BenchError(f"{name}: no floor: {received} events received of {gateway.args.connections} connections, "
                                         f"{figures['drops']} dropped by the kernel")
        elif name.startswith("engine-"):
            harness.check_account(gateway, spool, sent, name)
            shutil.rmtree(spool)
    return figures


def compared(runs, other, what):
    """Ratios to another listener's runs, round by round: their median and its interval; None if there is nothing to compare."""
    ratios = [ours[what] / theirs[what] for ours, theirs in zip(runs, other) if ours.get(what) and theirs.get(what)]
    return {"median": harness.median(ratios), "interval": harness.interval_of_median(ratios)} if ratios else None


def run():
    flags = harness.parser(__doc__)
    flags.add_argument("--connections", type=int, default=300_000, help="per run (default: %(default)s, 10 to 20 s)")
    flags.add_argument("--rounds", type=int, default=5)
    flags.add_argument("--interval", type=int, default=15, help="seconds between dumps (default: %(default)s)")
    flags.add_argument("--listeners", default=",".join(LISTENERS + OTHERS), help="comma separated (default: all)")
    args = harness.parse(flags)
    names = args.listeners.split(",")
    if unknown := set(names) - set(LISTENERS + OTHERS):
        flags.error(f"no such listener: {', '.join(sorted(unknown))}")
    if "ulogd2" in names and not (shutil.which("ulogd") and os.path.isdir(ULOGD_PLUGINS)):
        print("ulogd2 is not installed: left out")
        names.remove("ulogd2")
    if str(harness.GENERATOR_CPU) in args.cpus.split(","):
        print(f"listeners may use the generator's CPU {harness.GENERATOR_CPU}, too")
    runs = {name: [] for name in names}
    with harness.Gateway(args, "--timeouts=short") as gateway:
        for number in range(args.rounds):
            for i in range(len(names)):
                name = names[(i + number) % len(names)]
                if name in OTHERS and number >= OTHERS_ROUNDS_MAX:
                    continue
                figures = play_once(gateway, name, f"{number}-{i}")
                runs[name].append(figures)
                line = f"round {number + 1} {name:24} {figures['rate']:7.0f} connections/s"
                if name != "none":
                    line += f"  {figures['cpu_us_per_connection']:6.2f} us CPU/connection, {figures['drops']} dropped"
                print(line, flush=True)
    medians = {name: {what: harness.median([figures.get(what) for figures in runs[name]]) for what in runs[name][0]}
               for name in names}
    ratios = {}
    for name in names:
        floor = runs.get(name.replace("engine-", "floor-") if "-" in name else "floor-precise", [])
        ratios[name] = {"cpu_to_floor": compared(runs[name], floor, "cpu_us_per_connection"),
                        "rate_to_floor": compared(runs[name], floor, "rate"),
                        "rate_to_none": compared(runs[name], runs.get("none", []), "rate")}
    print(f"\n{'median of ' + str(args.rounds):24} {'conn/s':>8} {'of none':>23} {'us/conn':>8} {'of floor':>20} {'dropped':>8}")

    def cell(value, form, width=8):
        return f"{'-' if value is None else format(value, form):>{width}}"

    def with_interval(value, form, width):
        text = "-" if value is None else format(value["median"], form)
        if value and value["interval"]:
            low, high = value["interval"]
            text += f" ({low:{form}} to {high:{form}})"
        return f"{text:>{width}}"
    for name in names:
        figures, against = medians[name], ratios[name]
        print(f"{name:24} {figures['rate']:8.0f} {with_interval(against['rate_to_none'], '.1%', 23)} "
              f"{cell(figures.get('cpu_us_per_connection'), '.2f')} {with_interval(against['cpu_to_floor'], '.2f', 20)} "
              f"{cell(figures.get('drops'), '.0f')}")
    harness.write_json(args, {"connections": args.connections, "rounds": args.rounds, "cpus": args.cpus,
                              "workers": args.workers, "medians": medians, "ratios": ratios, "runs": runs})
    return 0


if __name__ == "__main__":
    harness.main(run)

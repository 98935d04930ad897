#!/usr/bin/env -S python3 -B
"""Dumps of a table of a million flows, and the engine's memory for them, live. Root.

Fills a gateway's conntrack table with UDP flows, starts the engine on it, and then per round:

  engine     the dump at an interval's end, end to end: from the interval's boundary until its rows are on their way to
             the spool (the file header's time of creation less the end of the interval); nothing else runs. Each flow
             is looked up and compared. CPU: of the whole engine, meanwhile.
  floor      bench/floor -dump: recv alone, in the rest of the interval
  conntrack  conntrack -L >/dev/null, also in the rest of the interval

All of them may use all CPUs: the engine reads on one thread and accounts on others.

Also once: the first dump, into an empty flow table, from the start of the engine's process to "accounting live"; and
resident memory of the engine with an empty table and with all flows after the last dump (VmRSS), and its peak (VmHWM). A
checkpoint of all flows is written at each interval's end.
"""
import os
import time

import harness

TRICKLE_FLOWS = 100  # In each interval, so that there is a row and thus a file.
BOUNDARY_MARGIN_SECONDS = 1.0
FILE_SECONDS_MAX = 120


def engine_dump(engine, gateway, spool, interval, first_flow, sent):
    harness.add_sums(sent, gateway.play(f"-udp={TRICKLE_FLOWS}", f"-first-flow={first_flow}")[1])
    boundary = int(time.time() // interval + 1) * interval
    if boundary - time.time() < BOUNDARY_MARGIN_SECONDS:
        raise harness.BenchError(f"an interval of {interval} s is too short for a round; see --interval")
    time.sleep(boundary - BOUNDARY_MARGIN_SECONDS / 2 - time.time())
    cpu = engine.cpu_seconds()
    time.sleep(max(0, boundary - time.time()))
    while time.time() < boundary + FILE_SECONDS_MAX:
        for header in harness.spool_headers(spool):
            if header.interval_end_ns == boundary * 10**9:
                if header.completeness != 0:
                    raise harness.BenchError("an interval is not complete")
                return (header.created_ns - header.interval_end_ns) / 1e9, engine.cpu_seconds() - cpu
        time.sleep(0.01)
    raise harness.BenchError(f"the interval that ended at {boundary} has no spool file")


def run():
    flags = harness.parser(__doc__)
    flags.set_defaults(cpus=f"0-{os.cpu_count() - 1}", workers=min(os.cpu_count(), 4))
    flags.add_argument("--flows", type=int, default=1_000_000)
    flags.add_argument("--rounds", type=int, default=5)
    flags.add_argument("--interval", type=int, help="seconds; a round must fit (default: 20 for each million flows)")
    args = harness.parse(flags)
    interval = args.interval or max(20, 20 * args.flows // 1_000_000)
    # Room for those that trickle, and the kernel counts a little ahead.
    with harness.Gateway(args, f"--entries={args.flows * 11 // 10}") as gateway:
        engine = gateway.start_engine(gateway.folder / "empty")
        empty_bytes = engine.resident_bytes()
        engine.stop()

        gateway.play(f"-udp={args.flows}")
        entries = gateway.entries()
        print(f"{entries} flows in the table", flush=True)

        spool = gateway.folder / "spool"
        start = time.monotonic()
        engine = gateway.start_engine(spool, f"-interval={interval}")
        first_seconds = time.monotonic() - start
        print(f"engine's first dump, with its start: {first_seconds:.2f} s", flush=True)

        sent = harness.sums([])
        runs = {"engine": [], "floor": [], "conntrack": []}
        # What the next boundary's dump finds is warm only in part: none of ours.
        time.sleep(interval - time.time() % interval + interval / 2)
        for number in range(args.rounds):
            runs["engine"].append(engine_dump(engine, gateway, spool, interval, args.flows + number * TRICKLE_FLOWS,
                                              sent))
            floor = gateway.start([args.bin / "bench/floor", "-dump"])
            floor.wait()
            told = harness.json.loads(floor.text())
            if told["entries"] != gateway.entries():
                raise harness.BenchError(f"the floor has seen {told['entries']} of {gateway.entries()} flows")
            runs["floor"].append((told["seconds"], told["cpu_seconds"]))
            before = time.monotonic()
            cpu = gateway.start(["conntrack", "-L"], discard_output=True).wait()
            runs["conntrack"].append((time.monotonic() - before, cpu))
            print(f"round {number + 1} " + ", ".join(f"{who} {figures[-1][0]:.2f} s ({figures[-1][1]:.2f} s CPU)"
                                                     for who, figures in runs.items()), flush=True)
        full_bytes = engine.resident_bytes()
        peak_bytes = engine.resident_bytes(peak=True)
        engine.stop()
        # Those that trickled were counted from zero; what older flows had before the engine came is nobody's.
        harness.check_account(gateway, spool, sent, "engine")
    medians = {who: {"seconds": harness.median([wall for wall, _ in figures]),
                     "cpu_seconds": harness.median([cpu for _, cpu in figures])} for who, figures in runs.items()}
    ratio = medians["engine"]["seconds"] / medians["floor"]["seconds"]
    cpu_ratio = medians["engine"]["cpu_seconds"] / medians["floor"]["cpu_seconds"]
    print(f"\nmedian of {args.rounds}, {entries} flows: engine {medians['engine']['seconds']:.2f} s, floor "
          f"{medians['floor']['seconds']:.2f} s, conntrack -L {medians['conntrack']['seconds']:.2f} s; engine {ratio:.2f} of "
          f"the floor, its CPU {cpu_ratio:.2f}\nresident: {empty_bytes >> 10} KiB empty, {full_bytes >> 10} KiB full: "
          f"{(full_bytes - empty_bytes) / entries:.1f} B per flow, {full_bytes / entries:.1f} B with all else; at its peak "
          f"{peak_bytes >> 10} KiB, {peak_bytes / entries:.1f} B per flow with all else")
    harness.write_json(args, {"flows": entries, "rounds": args.rounds, "workers": args.workers, "medians": medians, "runs": runs,
                              "first_dump_seconds": first_seconds, "ratio": ratio, "cpu_ratio": cpu_ratio,
                              "resident_empty_bytes": empty_bytes, "resident_full_bytes": full_bytes,
                              "bytes_per_flow_more": (full_bytes - empty_bytes) / entries,
                              "bytes_per_flow_in_all": full_bytes / entries, "peak_bytes_per_flow_in_all": peak_bytes / entries})
    return 0


if __name__ == "__main__":
    harness.main(run)

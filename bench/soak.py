#!/usr/bin/env -S python3 -B
"""The engine under full load for ten minutes, live. Root.

Generator runs follow each other without a pause: TCP connections and UDP flows, as fast as it goes, no tuple used twice;
flows die 2 s after their end. The engine has its default interval. Every few seconds its resident memory and the table's
size are noted. At the end all flows are destroyed and the engine is stopped.

The verdict is good if all sums are the generator's for every key, to the packet and byte; no event was dropped; and
memory is flat: the median of the last quarter is at most 5 % or --growth-mib above that of the second quarter. (A leak of
one byte a flow would be more, in ten minutes; in two, tables still grow to their size.) Else exit status 1.
"""
import threading
import time

import harness

SAMPLE_SECONDS_MAX, SAMPLES_MIN = 2, 20
# Distinct tuples for half an hour, then the first ones are dead for long.
CLIENTS = 1024
FLAT_FACTOR = 1.05


def run():
    flags = harness.parser(__doc__)
    flags.add_argument("--minutes", type=float, default=10)
    flags.add_argument("--mode", choices=["precise", "light"], default="precise")
    flags.add_argument("--connections", type=int, default=200_000,
                       help="of a generator run, and a quarter as many UDP flows (default: %(default)s, about 10 s)")
    flags.add_argument("--growth-mib", type=int, default=4, help="MiB that memory may grow by (default: %(default)s)")
    args = harness.parse(flags)
    tcp, udp = args.connections, args.connections // 4
    runs_per_cycle = CLIENTS * 49152 // tcp
    series, stop = [], threading.Event()
    sent = harness.sums([])
    connections = flows = seconds = 0
    with harness.Gateway(args, "--timeouts=short") as gateway:
        spool = gateway.folder / "spool"
        engine = gateway.start_engine(spool, f"-mode={args.mode}")
        cpu = engine.cpu_seconds()
        start = time.monotonic()

        def sample():
            while not stop.wait(min(SAMPLE_SECONDS_MAX, args.minutes * 60 / SAMPLES_MIN)):
                try:
                    series.append((round(time.monotonic() - start), engine.resident_bytes(), engine.entries(), engine.drops()))
                except (OSError, harness.BenchError):
                    return  # It has ended; stop() will say so.

        sampler = threading.Thread(target=sample, daemon=True)
        sampler.start()
        number = 0
        while time.monotonic() - start < args.minutes * 60:
            first = number % runs_per_cycle * tcp
            summary, more = gateway.play(f"-tcp={tcp}", f"-udp={udp}", f"-clients={CLIENTS}", f"-first-flow={first}",
                                         f"-seed={number + 1}")
            harness.add_sums(sent, more)
            connections += tcp
            flows += tcp + udp
            seconds += summary["seconds"]
            number += 1
            if number % 6 == 0 and series:
                print(f"{series[-1][0]:5} s  {flows} flows, {series[-1][1] >> 10} KiB resident, {series[-1][2]} in the table, "
                      f"{series[-1][3]} events dropped", flush=True)
        stop.set()
        sampler.join()
        gateway.destroy_all_flows()
        engine.wait_drained()
        cpu = engine.stop() - cpu
        problem = None
        try:
            harness.check_account(gateway, spool, sent, "engine")
            if "overrun" in engine.text():
                raise harness.BenchError("the engine's log reports an overrun")
        except harness.BenchError as error:
            problem = str(error)
        intervals = len(harness.spool_headers(spool))
    quarter = len(series) // 4
    if quarter == 0:
        raise harness.BenchError("too short to judge: no samples")
    second = harness.median([sample[1] for sample in series[quarter:2 * quarter]])
    last = harness.median([sample[1] for sample in series[-quarter:]])
    if problem is None and last > max(second * FLAT_FACTOR, second + (args.growth_mib << 20)):
        problem = f"resident memory has grown from {second / 2**20:.1f} MiB to {last / 2**20:.1f} MiB"
    packets = sum(values[0] + values[1] for values in sent.values())
    print(f"{args.mode}: {flows} flows ({connections} connections, {packets} packets) in {seconds:.0f} s of sending, {intervals} "
          f"spool files; engine {cpu:.1f} s CPU; resident {second / 2**20:.1f} MiB in the second quarter, "
          f"{last / 2**20:.1f} MiB in the last, {max(sample[1] for sample in series) / 2**20:.1f} MiB at most")
    print(f"verdict: {'GOOD: all sums exact, nothing dropped, memory flat' if problem is None else 'BAD: ' + problem}")
    harness.write_json(args, {"mode": args.mode, "good": problem is None, "problem": problem, "minutes": args.minutes,
                              "flows": flows, "connections": connections, "packets": packets, "sending_seconds": seconds,
                              "cpu_seconds": cpu, "resident_second_quarter_bytes": second, "resident_last_quarter_bytes": last,
                              "series": series})
    return 0 if problem is None else 1


if __name__ == "__main__":
    harness.main(run)

#!/usr/bin/env python3
"""All measurements behind our claims of speed, and one table of them. `./dev bench` calls it.

  run.py toy    two minutes; every program of this folder at a tiny size: do they run, and are their sums right?
  run.py fast   a few minutes; shows that everything works, its figures are rough
  run.py all    two hours, on a machine that does nothing else, with 40 GB of disk; writes bench/RESULTS.md

What this user or machine cannot run is left out with the reason (an error where CI is true); no figure is ever made up or
kept from another run. Exit status 1 if a measurement failed (an engine that miscounts, a program that does not run); a
target that is not reached is no failure, the table says it.
"""
import argparse
import collections
import datetime
import json
import os
import pathlib
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from statistics import median

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUSY_LOAD = 0.5
TOY_SECONDS_MAX = 240  # Of all programs together; a machine of two idle cores takes 60.
HEADINGS = ("work", "ours", "other", "ratio", "target", "reached?")


class Bench:
    def __init__(self, args, folder):
        self.args, self.folder = args, pathlib.Path(folder)
        self.all, self.toy = args.what == "all", args.what == "toy"
        self.rows, self.logs, self.failed, self.ran = [], [], False, set()
        self.start = time.monotonic()

    def size(self, all, fast, toy):
        return toy if self.toy else all if self.all else fast

    def row(self, work, ours, other="", ratio="", target="", reached=None):
        self.rows.append((work, ours, other, ratio, target, {True: "yes", False: "NO", None: "-"}[reached]))

    def missing(self, work, why, target=""):
        self.row(work, f"not measured: {why}", target=target)
        self.failed |= os.environ.get("CI") == "true"
        if self.toy:
            print(f"  NO RESULT: {work}: {why}", flush=True)

    def run(self, title, argv):
        """Runs a program and shows its output, at toy size only if it failed; returns that, or None if it failed."""
        print(f"\n{title}" if not self.toy else title, flush=True)
        lines, start = [], time.monotonic()
        self.ran.add(pathlib.Path(argv[0]).name)
        with subprocess.Popen([str(word) for word in argv], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True) as process:
            timer = threading.Timer(max(1, self.start + TOY_SECONDS_MAX - start), process.terminate)
            if self.toy:
                timer.start()
            try:
                for line in process.stdout:
                    if not self.toy:
                        print("  " + line, end="", flush=True)
                    lines.append(line)
            except BaseException:
                process.terminate()  # And it takes down its gateway.
                raise
            finally:
                timer.cancel()
        seconds = time.monotonic() - start
        self.logs.append((title, "".join(lines).strip()))
        if process.returncode == 0:
            if self.toy:
                print(f"  good, {seconds:.1f} s", flush=True)
            return "".join(lines)
        self.failed = True
        if self.toy:
            print("".join("  " + line for line in lines[-40:]), end="")
        late = self.toy and time.monotonic() > self.start + TOY_SECONDS_MAX
        print(f"  FAILED after {seconds:.0f} s, exit status {process.returncode}" + late * "; stopped: no time is left", flush=True)
        return None

    def last_words(self):
        return (self.logs[-1][1].splitlines() or ["it failed without a word"])[-1]

    def script(self, title, work, name, *flags, gateway=True):
        """Runs one of our scripts; returns its JSON, also if its verdict is bad."""
        if gateway:
            check = subprocess.run([ROOT / "tests/support/gateway.sh", "check"], capture_output=True, text=True)
            if check.returncode != 0:
                self.missing(work, check.stderr.strip())
                return None
        path = self.folder / "result.json"
        path.unlink(missing_ok=True)
        if self.run(title, [ROOT / "bench" / name, f"--bin={self.args.bin}", f"--json={path}", *flags]) is None:
            if not path.exists():
                self.missing(work, self.last_words())
        return json.loads(path.read_text()) if path.exists() else None

    def google_benchmark(self, work, name, pattern, *flags, many=9):
        """{benchmark: {counter: its values, one for each repetition}}; "ns" is that of one item. Empty if it cannot run."""
        program = self.args.bin / "bench" / name
        if not program.exists():
            self.missing(work, f"bench/{name} is not built")
            return {}
        path = self.folder / f"{name}.json"
        repetitions, seconds = self.size((many, 0.5), (min(many, 3), 0.1), (1, 0.01))
        if self.run(f"{name} ({pattern})", [
                program, f"--benchmark_filter={pattern}", f"--benchmark_repetitions={repetitions}",
                f"--benchmark_min_time={seconds}", "--benchmark_enable_random_interleaving=true",
                "--benchmark_display_aggregates_only=true", f"--benchmark_out={path}", "--benchmark_out_format=json",
                *flags]) is None:
            self.missing(work, self.last_words())
            return {}
        results = collections.defaultdict(lambda: collections.defaultdict(list))
        for entry in json.loads(path.read_text())["benchmarks"]:
            if entry["run_type"] != "iteration" or entry.get("error_occurred"):
                continue
            values = results[re.sub(r"/(manual_time|iterations:\d+|repeats:\d+)", "", entry["run_name"])]
            for key, value in entry.items():
                if isinstance(value, (int, float)):
                    values[key].append(value)
            if "items_per_second" in entry:
                values["ns"].append(1e9 / entry["items_per_second"])
        return results

    # ---- the measurements ----

    def parse(self):
        work = "parse one message (shipped capture)"
        results = self.google_benchmark(work, "parser_benchmark", "/all$")
        if not results:
            return
        ours, fresh, reused = (median(results[f"{who}/all"]["ns"]) for who in ("Ctacct", "NfctFresh", "NfctReused"))
        self.row(work, f"{ours:.1f} ns", f"libnetfilter_conntrack {fresh:.0f} ns", f"{fresh / ours:.1f} x",
                 "<= 20 ns, >= 30 x", ours <= 20 and fresh >= 30 * ours)
        self.row("... its object used again", f"{ours:.1f} ns", f"libnetfilter_conntrack {reused:.0f} ns",
                 f"{reused / ours:.1f} x")
        ipv6 = median(results["Ipv6/all"]["ns"])
        self.row("parse one IPv6 message", f"{ipv6:.1f} ns", f"IPv4 {ours:.1f} ns", f"{ipv6 / ours:.2f}", "<= 1.5", ipv6 <= 1.5 * ours)

    def account(self):
        work = "parse and account one message, 50,000 flows live"
        results = self.google_benchmark(work, "account_benchmark", "^(all|filtered)/",
                                        *self.size((), (), ("-live=1000", "-connections=2000")))
        if not results:
            return
        ours, fresh, two, apart = (median(results[f"all/{who}"]["ns"])
                                   for who in ("worker", "nfct_fresh", "two_workers", "two_processes"))
        self.row(work, f"{ours:.1f} ns", f"libnetfilter_conntrack, same tables {fresh:.0f} ns", f"{fresh / ours:.1f} x",
                 "<= 50 ns, >= 12 x", ours <= 50 and fresh >= 12 * ours)
        self.row("... only what the kernel's filter lets through", f"{median(results['filtered/worker']['ns']):.1f} ns")
        self.row("two workers against one", f"{1e3 / two:.1f} M/s", f"one {1e3 / ours:.1f} M/s", f"{ours / two:.2f} x", ">= 1.8 x",
                 ours >= 1.8 * two)
        self.row("... against two processes of half the work", f"{1e3 / two:.1f} M/s", f"two processes {1e3 / apart:.1f} M/s",
                 f"{apart / two:.2f} x", ">= 0.95 x", apart >= 0.95 * two)

    def tables(self):
        sizes = self.size(*[((50_000, "50,000"), (1_000_000, "1 M"), (4_000_000, "4 M"))] * 2, ((10_000, "10,000"),))
        large, label_large = sizes[min(1, len(sizes) - 1)]
        keys, label_keys = self.size(*[(2_000_000, "2 M")] * 2, sizes[0])
        results = self.google_benchmark(
            "tables at scale", "table_benchmark",
            f"^(Flow|PlainMap)DumpEntry.*/({'|'.join(str(size) for size, _ in sizes)})/|^(AccountingAdd|PlainMapAdd)/{large}/"
            f"|^FlowGrowth/({'|'.join(str(size) for size, _ in sizes[-2:])})/|^Ipv6FlowGrowth/{sizes[-2:][0][0]}/"
            f"|^AccountingGrowth/{keys}/", many=3)
        if not results:
            return
        for flows, label in sizes:
            ours, single, plain = (median(results[f"{who}/{flows}"]["ns"])
                                   for who in ("FlowDumpEntry", "FlowDumpEntryOneByOne", "PlainMapDumpEntry"))
            self.row(f"flow table, one dump entry of {label} flows", f"{ours:.1f} ns; one by one {single:.1f} ns",
                     f"flat_hash_map {plain:.1f} ns", f"{plain / ours:.1f} x")
        ours, plain = (median(results[f"{who}/{large}"]["ns"]) for who in ("AccountingAdd", "PlainMapAdd"))
        self.row(f"accounting table, one addition, {label_large} keys", f"{ours:.1f} ns", f"flat_hash_map {plain:.1f} ns",
                 f"{plain / ours:.1f} x")
        for flows, label in sizes[-2:]:
            growth = results[f"FlowGrowth/{flows}"]
            size, stop = median(growth["bytes_per_flow"]), median(growth["longest_stop_us"])
            self.row(f"flow table, {label} flows: memory per flow", f"{size:.0f} B", target="<= 128 B", reached=size <= 128)
            self.row("... longest stop while it grows", f"{stop:.0f} us", target="<= 1 ms", reached=stop <= 1000)
        flows, label = sizes[-2:][0]
        size = median(results[f"Ipv6FlowGrowth/{flows}"]["bytes_per_flow"])
        self.row(f"flow table, {label} flows of IPv6: memory per flow", f"{size:.0f} B", target="<= 112 B", reached=size <= 112)
        growth = results[f"AccountingGrowth/{keys}"]
        stop, again = median(growth["longest_stop_us"]), median(growth["longest_stop_again_us"])
        self.row(f"accounting table, flush of {label_keys} keys: longest stop", f"{stop:.0f} us filling it, {again:.0f} us after a flush",
                 target="<= 1 ms", reached=max(stop, again) <= 1000)

    def flush(self):
        work = "flush of 1 M keys: longest time of a worker's batch"
        runs = []
        for _ in range(5 if self.all else 1):
            told = self.run("flush_benchmark", [self.args.bin / "bench/flush_benchmark",
                                                *self.size((), (), ("-keys=1000", "-seal-seconds=0.1", "-flushes=3"))])
            if told is None:
                self.missing(work, self.last_words(), "<= 1 ms")
                return
            runs.append(json.loads(told))

        def longest(what, clock):
            return median(run[f"longest_{what}_ms"][clock] for run in runs)
        # A pause is wall clock time; the worker's CPU time beside it says whether its own work is the cause.
        cpu = longest("batch_during_flush", "cpu")
        self.row(work, f"{cpu:.2f} ms CPU; {longest('batch_during_flush', 'wall'):.1f} ms wall",
                 f"a loop that only computes: {longest('computing', 'cpu'):.2f}; {longest('computing', 'wall'):.1f} ms",
                 target="<= 1 ms, or what the machine takes from any loop",
                 reached=cpu <= 1 and longest("batch_during_flush", "wall") <= max(1, longest("computing", "wall")))
        self.row("... and while nothing is flushed", f"{longest('batch_else', 'cpu'):.2f} ms CPU; {longest('batch_else', 'wall'):.1f} ms wall",
                 f"{median(run['events_during_flushes'] for run in runs) / 1e6:.1f} M events accounted during flushes of "
                 f"{median(run['flush_ms'] for run in runs):.0f} ms; rows exact")

    def checkpoint(self):
        work = "checkpoint of 1 M flows: a worker's CPU for an event"
        told = self.run("checkpoint_benchmark", [
            self.args.bin / "bench/checkpoint_benchmark",
            *self.size((), (), ("-flows=10000", "-pairs=100", "-seal-seconds=0.1", "-intervals=3"))])
        if told is None:
            self.missing(work, self.last_words())
            return
        runs = [json.loads(line) for line in told.splitlines()]
        with_, without = ([run for run in runs if run["checkpoints"] == wanted] for wanted in (True, False))

        def of(runs, what):
            return median(run[what] for run in runs)
        ours, other = of(with_, "worker_ns_per_event"), of(without, "worker_ns_per_event")
        self.row(work, f"{ours:.0f} ns", f"without: {other:.0f} ns", f"{ours / other:.2f}")
        self.row("... the flusher's CPU for an interval", f"{of(with_, 'flusher_cpu_ms'):.0f} ms", f"without: {of(without, 'flusher_cpu_ms'):.0f} ms",
                 f"{of(with_, 'bytes') / 1e6:.0f} MB, in force after {of(with_, 'in_force_after_ms'):.0f} ms")
        self.row("... longest time of 64 events", f"{median(run['longest_batch_ms']['cpu'] for run in with_):.1f} ms CPU",
                 f"without: {median(run['longest_batch_ms']['cpu'] for run in without):.1f} ms")

    def live(self):
        rounds, connections, interval = self.size((10, 200_000, 15), (1, 100_000, 15), (1, 2000, 2))
        flags = [f"--rounds={rounds}", f"--connections={connections}", f"--interval={interval}"]
        if not self.all:
            flags.append("--listeners=none,floor-precise,engine-precise,floor-light,engine-light"
                         + self.size("", "", ",floor-light-no-dumps,engine-light-no-dumps,conntrack"))
        results = self.script("Live: what listening costs", "CPU and connection rate, live", "live.py", *flags)
        if results is None:
            return
        medians, ratios = results["medians"], results["ratios"]

        def text(value, factor=1, digits=2, unit=""):
            said = f"{factor * value['median']:.{digits}f}{unit}"
            if value["interval"]:
                said += f" ({' to '.join(f'{factor * bound:.{digits}f}' for bound in value['interval'])})"
            return said

        def beside(value, **how):
            low, high = value["interval"] or (1, 1)
            return f"{text(value, **how)}: no measurable difference" if value["interval"] and low <= 1 <= high else text(value, **how)
        for mode in ("precise", "light", "precise-no-dumps", "light-no-dumps"):
            if f"engine-{mode}" not in medians:
                continue
            ours, floor = (medians[f"{who}-{mode}"]["cpu_us_per_connection"] for who in ("engine", "floor"))
            ratio = ratios[f"engine-{mode}"]["cpu_to_floor"]
            label = f"{mode}, a dump every 15 s" if "dumps" not in mode else f"{mode.split('-')[0]}, events alone"
            self.row(f"CPU per TCP connection, live, {label}", f"{ours:.2f} us", f"receive-only {floor:.2f} us", beside(ratio),
                     "<= 1.4", ratio["median"] <= 1.4)
        for mode, target in (("precise", "at least 0.98 of receive-only"), ("light", ">= 95 %")):
            ours, floor = (ratios[f"{who}-{mode}"]["rate_to_none"] for who in ("engine", "floor"))
            against = ratios[f"engine-{mode}"]["rate_to_floor"]
            self.row(f"connection rate, {mode} (no listener = 100 %)", text(ours, 100, 1, " %"), f"receive-only {text(floor, 100, 1, ' %')}",
                     beside(against), target, (against["median"] >= 0.98 if mode == "precise" else ours["median"] >= 0.95))
        for other in ("conntrack", "ulogd2"):
            if other in medians:
                cpu, rate = medians[other]["cpu_us_per_connection"], ratios[other]["rate_to_none"]
                ours = medians["engine-precise"]["cpu_us_per_connection"]
                dropped = medians[other]["drops"]
                self.row(f"CPU per TCP connection, live, against {'conntrack -E' if other == 'conntrack' else other}", f"{ours:.2f} us",
                         f"{cpu:.2f} us; rate {text(rate, 100, 1, ' %')}" + (f"; dropped {dropped:.0f} events" if dropped else ""),
                         f"{cpu / ours:.1f} x")

    def dumps(self):
        for flows, rounds, interval in self.size(((1_000_000, 3, 20), (4_000_000, 1, 80)), ((200_000, 1, 20),), ((5000, 1, 5),)):
            label = f"{flows // 1_000_000} M" if flows >= 1_000_000 else f"{flows:,}"
            work = f"dump of {label} flows"
            results = self.script(f"Dump and memory, {label} flows", work, "dump.py", f"--flows={flows}", f"--rounds={rounds}",
                                  f"--interval={interval}")
            if results is None:
                continue
            seconds = {who: figures["seconds"] for who, figures in results["medians"].items()}
            judged = flows == 1_000_000
            self.row(work, f"{seconds['engine']:.2f} s", f"receive-only {seconds['floor']:.2f} s", f"{results['ratio']:.2f}",
                     "<= 1.10" if judged else "", results["ratio"] <= 1.10 if judged else None)
            self.row("... CPU", f"{results['medians']['engine']['cpu_seconds']:.2f} s",
                     f"receive-only {results['medians']['floor']['cpu_seconds']:.2f} s", f"{results['cpu_ratio']:.2f}")
            self.row("... against conntrack -L", f"{seconds['engine']:.2f} s", f"{seconds['conntrack']:.2f} s",
                     f"{seconds['conntrack'] / seconds['engine']:.1f} x")
            more, in_all = results["bytes_per_flow_more"], results["bytes_per_flow_in_all"]
            judged = flows >= 1_000_000
            self.row(f"resident memory per flow, {label} flows", f"{more:.0f} B; {in_all:.0f} B with all else", target="<= 128 B",
                     reached=in_all <= 128 if judged else None)
            peak = results["peak_bytes_per_flow_in_all"]
            self.row("... at its peak, with checkpoints", f"{peak:.0f} B with all else", target="<= 120 B",
                     reached=peak <= 120 if judged else None)

    def soak(self):
        # In seconds, tables still grow to their size.
        minutes, connections, growth = self.size((10, 200_000, 4), (0, 0, 0), (0.1, 4000, 64))
        for mode in ("precise", "light") if minutes else ():
            work = f"soak, {minutes:g} minutes at full speed, {mode}"
            results = self.script(f"Soak, {mode}", work, "soak.py", f"--mode={mode}", f"--minutes={minutes}",
                                  f"--connections={connections}", f"--growth-mib={growth}")
            if results is not None:
                self.row(work, f"{results['flows'] / 1e6:.1f} M flows, {results['packets'] / 1e6:.0f} M packets, "
                               f"{results['resident_last_quarter_bytes'] / 2**20:.0f} MiB"
                               + (f": {results['problem']}" if results["problem"] else ""),
                         target="exact, nothing dropped, memory flat", reached=results["good"])

    def imports(self):
        work = f"import of {self.size('1 M', '1 M', '10,000')} rows into PostgreSQL"
        results = self.script("Import against psql's binary \\copy", work, "season.py", "--only=compare", "--files=10", "--compared=10",
                              f"--rows={self.size(100_000, 100_000, 1000)}", f"--compare-runs={self.size(5, 1, 1)}", gateway=False)
        if results is None:
            return
        ours, other = (median(results["compare"][who]) for who in ("importer_s", "psql_s"))
        self.row(work, f"{ours:.2f} s", f"psql binary \\copy {other:.2f} s", f"{ours / other:.2f}")

    def season(self):
        """A whole game; in a fast run a fiftieth of it, where only the ratio says something."""
        work = f"PostgreSQL: a game of {self.size('100 M', '2 M', '2,000')} rows"
        results = self.script("A game in the database", work, "season.py", f"--files={self.size(1920, 40, 4)}",
                              *self.size((), ("--scans=10000,100000",),
                                         ("--rows=500", "--live-rows=500", "--runs=1", "--compare-runs=1", "--scans=1000")),
                              gateway=False)
        if results is None:
            return
        self.row(f"{work}, loaded with rollups", f"{results['load']['rows_per_s']:,.0f} rows/s", "the Go tool 55,000 rows/s (elsewhere)",
                 f"{results['load']['rows_per_s'] / 55_000:.1f} x", ">= 10 x")
        ours, psql = (statistics.median(results["compare"][who]) for who in ("importer_s", "psql_s"))
        self.row("... a tenth of it, against psql without rollups", f"{ours:.1f} s", f"psql binary \\copy {psql:.1f} s",
                 f"{psql / ours:.2f} of its rate", ">= 0.9, or the cost")
        size = results["size"]["bytes_per_row"] + results["size"]["rollups"]
        self.row("... bytes a row, and of rollups", f"{results['size']['bytes_per_row']:.1f} + {results['size']['rollups']:.1f} B; "
                 f"{results['size']['day_gb']:.0f} GB a day", "the Go tool 247 B", f"{size / 247:.2f}", "<= 0.5", size / 247 <= 0.5)
        self.questions(results, {8: 60, 1: 20})
        for changes, title in ((False, "never change"), (True, "change hands")):
            ratio, name, value = max((value["name_ms"] / value["address_ms"], name, value) for name, value in results["names"].items()
                                     if bool(value["changes"]) == changes)
            self.row(f"... 200 names that {title}: the panel by name that is furthest from the same by address ({name})",
                     f"{value['name_ms']:.1f} ms", f"by address {value['address_ms']:.1f} ms", f"{ratio:.1f} x", "<= 2 x",
                     ratio <= 2 if self.all else None)
        for question, value in results["questions"].items():
            self.row(f"... {question}: one command", f"{value['median_s']:.2f} s; worst {value['worst_s']:.2f} s", target="<= 1 s",
                     reached=value["worst_s"] <= 1 if self.all else None)
        alone, busy = (statistics.median(results["slowdown"][who]) for who in ("alone_s", "with_queries_s"))
        self.row("... import of an interval of 117,000 rows while panels are asked without a pause", f"{busy:.2f} s",
                 f"alone {alone:.2f} s", f"{100 * (busy / alone - 1):+.0f} %", "<= +20 %", busy <= 1.2 * alone)
        for scan in results["scans"]:
            self.row(f"... a scan of {scan['keys']:,} keys, none twice", f"{scan['keys'] / scan['seconds']:,.0f} rows/s",
                     ratio=f"{scan['peak_mb']:.0f} MB", target="<= 256 MB", reached=scan["peak_mb"] <= 256)

    def gateways(self):
        """Fifty gateways and one database, and how many it takes; at toy size three."""
        number = self.size(50, 10, 3)
        work = f"PostgreSQL: {number} gateways"
        results = self.script(f"{number} gateways, one database", work, "gateways.py", f"--gateways={number}", *self.size(
            ("--cases=1,50", "--intervals=6", "--stages=3"), ("--cases=1,4shared", "--intervals=4", "--interval=5", "--stages=1"),
            ("--cases=2shared", "--rows=200", "--intervals=3", "--interval=0.5", "--stages=1")), gateway=False)
        if results is None:
            return
        for how in ("fast", "clock"):
            for run in results[how]:
                million = run["rows"] / 1e6
                self.row(f"{work}, {run['case']} importers, " + ("all files at once" if how == "fast" else "by the clock"),
                         f"{run['rows_per_s']:,.0f} rows/s" if how == "fast" else f"lag {median(run['lags']):.1f} s; slowest {max(run['lags']):.1f} s",
                         f"CPU of a million rows: server {run['server_cpu_s'] / million:.2f} s, importers {run['importers_cpu_s'] / million:.2f} s; "
                         f"{run['deadlocks']} deadlocks", target="" if how == "fast" else "lag does not grow",
                         reached=None if how == "fast" or not self.all else not run["grows"])
        for run in results["limit"]:
            million = run["rows"] / 1e6
            self.row(f"... {run['gateways']} gateways, 1 importer", f"lag {median(run['lags']):.1f} s; slowest {max(run['lags']):.1f} s",
                     f"CPU of a million rows: server {run['server_cpu_s'] / million:.2f} s, importers {run['importers_cpu_s'] / million:.2f} s",
                     f"slope {run['slope']:+.2f}: {'grows' if run['grows'] else 'does not grow'}")

    def questions(self, results, limits):
        """Rows of the table for what season.py says of any workload."""
        for hours, limit in limits.items():
            for what, of_list, filtered in (("panel", False, False), ("panel with filters", False, True),
                                            ("list of a variable", True, False)):
                worst, name = max((value["median_ms"], name) for name, value in results["panels"].items()
                                  if f", {hours} h, " in name and name.startswith("variable ") == of_list
                                  and not name.startswith("annotation ") and name.endswith(f", {hours} h, All") != filtered)
                self.row(f"... slowest {what} over {hours} h while loading", f"{worst:.0f} ms",
                         name.replace(f", {hours} h, All", "").replace(f", {hours} h", ""), target=f"<= {limit} ms",
                         reached=worst <= limit if self.all else None)
        client = results["client"]
        self.row("... five minutes of a client, from the rows", f"{client['median_ms']:.0f} ms; worst {client['worst_ms']:.0f} ms",
                 target="<= 50 ms", reached=client["median_ms"] <= 50 if self.all else None)
        peak = results["load"]["peak_mb"]
        self.row("... the importer's peak memory", f"{peak:.0f} MB", target="<= 256 MB", reached=peak <= 256)

    def provider(self):
        """An hour of a VPN provider, alone and with games; at toy size every part of both."""
        for workload, title in (("provider", "VPN provider"), ("mixed", "three providers and three games")):
            work = f"PostgreSQL: {title}"
            results = self.script(f"{title} in the database", work, "season.py", f"--workload={workload}", *self.size(
                () if workload == "provider" else ("--files=16", "--intervals=5", "--kills=10"), ("--files=8", "--intervals=4", "--kills=5"),
                ("--files=2", "--rows=200", "--live-rows=200", "--clients=20", "--intervals=2", "--kills=2", "--runs=1")),
                gateway=False)
            if results is None:
                continue
            load, size, single = results["load"], results["size"], results["intervals"]["seconds"]
            judged = self.all and workload == "provider"
            self.row(f"{work}, {load['rows']:,} rows loaded with rollups", f"{load['rows_per_s']:,.0f} rows/s", target=">= 30,000",
                     reached=load["rows_per_s"] >= 30_000 if judged else None)
            self.row("... an interval while panels are asked without a pause", f"{median(single):.1f} s; slowest {max(single):.1f} s",
                     target="<= 15 s", reached=max(single) <= 15 if judged else None)
            self.row("... bytes a row, and of rollups", f"{size['bytes_per_row']:.1f} + {size['rollups']:.1f} B; "
                     f"{size['day_gb']:.0f} GB a day", "", f"{size['ratio']:.2f}", "<= 1.6", size["ratio"] <= 1.6 if judged else None)
            self.questions(results, {8: 500, 1: 200})
            self.row(f"... kill -9 of the importer, {results['kill']['kills']} times", "exact")


# What others start, and whose result they check.
STARTED_BY = {"live.py": ["floor"], "season.py": ["spool_generator"], "gateways.py": ["spool_generator"]}


def programs():
    """All benchmarks of this folder."""
    folder = ROOT / "bench"
    return ({path.stem for path in folder.glob("*.cc") if "\nint main(" in path.read_text()}
            | {path.name for path in folder.glob("*.py") if path.name not in ("run.py", "harness.py")})


def machine():
    cpu = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    commit = subprocess.run(["git", "describe", "--always", "--dirty=, with changes"], cwd=ROOT, capture_output=True, text=True)
    load = os.getloadavg()[0]
    lines = [f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC, commit {commit.stdout.strip() or 'unknown'}",
             f"{os.cpu_count()} CPUs ({cpu[1] if cpu else platform.machine()}), {memory:.0f} GiB, Linux {platform.release()}"]
    if load > BUSY_LOAD:
        lines.append(f"The machine was BUSY at the start (load {load:.1f}): rough figures.")
    return lines


def text_table(rows):
    # Long figures do not make columns wide.
    widths = [max(len(row[i]) for row in [HEADINGS, *rows] if len(row[i]) <= 64) for i in range(len(HEADINGS))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in [HEADINGS, *rows])


def markdown(header, bench):
    def line(cells):
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    parts = ["# Results", "", "Made by `./dev bench all` as root: run it again on your machine. Each program says at its top what it "
             "measures and how. Absolute figures differ between machines; ratios are of one run.", "",
             *(f"- {what}" for what in header), "", line(HEADINGS), line(["---"] * len(HEADINGS)), *(line(row) for row in bench.rows)]
    for title, log in bench.logs:
        parts += ["", f"## {title}", "", "```", re.sub(r"\S*/(bazel-)?bin/(?=bench/)", "", log.replace(str(ROOT) + "/", "")), "```"]
    return "\n".join(parts) + "\n"


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("what", choices=["toy", "fast", "all"], nargs="?", default="fast")
    flags.add_argument("--bin", type=pathlib.Path, required=True, help="folder of the built programs: bazel-bin")
    flags.add_argument("--only", help="comma separated: parse,account,tables,flush,checkpoint,live,dumps,soak,imports,season,provider,gateways (writes no RESULTS.md)")
    flags.add_argument("--skip", default="", help="the same; these are left out")
    args = flags.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    header = machine()
    with tempfile.TemporaryDirectory(prefix="ctacct_bench.") as folder:
        bench = Bench(args, folder)
        steps = ("parse", "account", "tables", "flush", "checkpoint", "live", "dumps", "soak", "imports", "season", "provider",
                 "gateways")
        for step in args.only.split(",") if args.only else steps:
            if step not in steps:
                flags.error(f"no such measurement: {step}")
            if step in args.skip.split(","):
                bench.missing(step, "left out of this run")
                continue
            try:
                getattr(bench, step)()
            except (KeyError, statistics.StatisticsError, ValueError) as error:
                bench.failed = True
                bench.missing(step, f"its program does not report {error}")
    if bench.toy:
        left_out = programs() - bench.ran - {program for name in bench.ran for program in STARTED_BY.get(name, ())}
        if left_out and not args.only and not bench.failed:
            print(f"Not run: {', '.join(sorted(left_out))}")
        bench.failed |= bool(left_out) and not args.only and os.geteuid() == 0
        print("A benchmark FAILED." if bench.failed else f"All that ran is right; {time.monotonic() - bench.start:.0f} s.")
        return 1 if bench.failed else 0
    print("\n" + "\n".join(header) + "\n\n" + text_table(bench.rows))
    if bench.all and not args.only:
        (ROOT / "bench/RESULTS.md").write_text(markdown(header, bench))
        print("\nWritten to bench/RESULTS.md.")
    return 1 if bench.failed else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Many gateways and one database: what it takes, and with how many gateways files begin to wait.

  bench/gateways.py [--gateways N] [--rows N] [--intervals N] [--cases LIST] [--only PARTS] [--bin FOLDER] [--json FILE]

By default 50 gateways with about 20,000 rows each every 15 s: a game's of 100 x 100 networks (bench/season.py). The files are
written before anything is measured; then they appear in watched folders. Each run has a new database. A case is a number of
importers:

  1         one importer; all gateways' files come to one folder
  4, 50     each importer has a folder of its own, with the files of each 4th (50th) gateway
  4shared   four importers watch the same folder

Parts (--only names some):

  fast    each case: all files are there at once
  clock   each case: of all gateways at the same moment, files appear every --interval seconds
  limit   the first case, by the clock: 80 % of the gateways whose files would take a whole interval by the lag that `clock`
          had, then 20 % more each time, until the lag grows

The lag of an interval is the time from when its files appear until the last of them is loaded. It grows if its slope is more
than 0.1 s a second and the last one is longer than an interval. CPU seconds are user and system time, of the server with all
its processes. Waits are of the importers' sessions, sampled five times a second. Bytes on disk are those of the last run of `fast`: rollups
have their share of a day's bytes from an hour on (--intervals=240). After each run the sums in the rows and
in each rollup must be those of the files, or the exit status is 1.
"""
import argparse
import collections
import os
import pathlib
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time

import season

PARTS = ("fast", "clock", "limit")
POLL_SECONDS = 0.1
SLOPE_MAX = 0.1
LIMIT_FIRST, LIMIT_STEP = 0.8, 0.2  # Of the gateways whose files would take a whole interval.
WAITS = """SELECT coalesce(wait_event_type, 'none') FROM pg_stat_activity
WHERE datname = 'gateways' AND backend_type = 'client backend' AND state = 'active' \\watch 0.2
"""
ROLLED_BACK = "SELECT deadlocks, xact_rollback FROM pg_stat_database WHERE datname = 'gateways'"


class Importer(subprocess.Popen):
    """Its resources are those of its whole life."""

    def end(self, stop):
        if stop:
            self.send_signal(signal.SIGTERM)
        _, status, used = os.wait4(self.pid, 0)
        self.returncode = os.waitstatus_to_exitcode(status)
        if self.returncode != 0:
            sys.exit(f"gateways.py: an importer ended with status {self.returncode}")
        return used.ru_utime + used.ru_stime, used.ru_maxrss * 1024


class Gateways(season.Bench):
    def __init__(self, args, work):
        super().__init__(args, work)
        self.paths = []  # Of each gateway: its files, one an interval.

    def files_of(self, gateways):
        """By interval. Those that are missing are written."""
        keys = min(self.args.rows * 15 // 13, season.KEYS)
        while len(self.paths) < gateways:
            number = len(self.paths) + 1
            folder = self.spool / str(number)
            names = self.note(self.run(*self.generator(folder, self.args.intervals, season.FIRST, f"-rows={self.args.rows}",
                                                       f"-keys={keys}", f"-seed={number}", f"-gateway=gw{number}")))
            self.paths.append([folder / name for name in names])
        return list(zip(*self.paths[:gateways]))

    def new_database(self):
        self.sql("DROP DATABASE IF EXISTS gateways", "postgres")
        self.sql("CREATE DATABASE gateways", "postgres")
        self.run(self.bin / "importer/importer", f"-conninfo={self.conninfo('gateways')}", "-migrate")
        self.sql("CHECKPOINT", "postgres")

    def memory(self):
        """Of the server's processes, without what they share."""
        total = 0
        for pid in self.server_pids():
            try:
                total += int(re.search(r"RssAnon:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1]) * 1024
            except (OSError, TypeError):
                pass  # It has ended.
        return total

    def appear(self, watch, files):
        """A gateway's files always in the same folder."""
        for number, path in enumerate(files):
            folder = watch[number % len(watch)]
            os.link(path, folder / f".{path.name}")
            (folder / f".{path.name}").rename(folder / path.name)

    def by_the_clock(self, watch, intervals):
        """Lags, and the age of the oldest waiting file at each look."""
        names = [{path.name for path in files} for files in intervals]
        start, lags, ages = time.monotonic(), [], []
        begun = 0
        while len(lags) < len(intervals):
            now = time.monotonic() - start
            if begun < len(intervals) and now >= begun * self.args.interval:
                self.appear(watch, intervals[begun])
                begun += 1
            waiting = {entry.name for folder in watch for entry in os.scandir(folder)}
            now = time.monotonic() - start
            # Importers take the oldest first, but each its own.
            while len(lags) < begun and not names[len(lags)] & waiting:
                lags.append(now - len(lags) * self.args.interval)
            ages.append((now, now - len(lags) * self.args.interval if len(lags) < begun else 0))
            if any(importer.poll() is not None for importer in self.importers):
                sys.exit("gateways.py: an importer ended")
            time.sleep(POLL_SECONDS)
        return lags, ages

    def play(self, case, gateways, clock):
        count, shared = int(re.match(r"\d+", case)[0]), case.endswith("shared")
        count = min(count, gateways)
        intervals = self.files_of(gateways)
        self.new_database()
        shutil.rmtree(self.work / "watch", ignore_errors=True)
        watch = [self.work / "watch" / str(number) for number in range(1 if shared else count)]
        for folder in watch:
            folder.mkdir(parents=True)
        if not clock:
            for files in intervals:
                self.appear(watch, files)
        argv = [[str(word) for word in self.importer(watch[number % len(watch)], "gateways")] for number in range(count)]
        waits = subprocess.Popen(["psql", "-X", "-q", "-At", self.conninfo("postgres")], stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        waits.stdin.write(WAITS)
        waits.stdin.flush()
        seen = collections.Counter()
        counting = threading.Thread(target=lambda: seen.update(word for line in waits.stdout if (word := line.strip()).isalpha()))
        counting.start()
        peak, stop = [0], threading.Event()

        def watch_memory():
            while not stop.wait(1):
                peak[0] = max(peak[0], self.memory())
        watching = threading.Thread(target=watch_memory)
        watching.start()
        cpu, start = self.server_cpu(), time.monotonic()
        self.importers = [Importer(words if not clock else words[:-1], stderr=subprocess.DEVNULL) for words in argv]
        try:
            lags, ages = self.by_the_clock(watch, intervals) if clock else ([], [])
            used = [importer.end(stop=clock) for importer in self.importers]
            seconds, cpu = time.monotonic() - start, self.server_cpu() - cpu
        finally:
            for importer in self.importers:
                if importer.returncode is None:
                    importer.kill()
                    importer.wait()
            waits.terminate()
            waits.wait()
            stop.set()
            counting.join()
            watching.join()
        names = [path.name for files in intervals for path in files]
        self.check("gateways", names, self.sql("SELECT name FROM traffic_rollups", "gateways").split())
        rows = sum(self.sums[name][0] for name in names)
        deadlocks, rolled_back = map(int, self.sql(ROLLED_BACK, "gateways").split("|"))
        result = {"case": case, "gateways": gateways, "rows": rows, "seconds": seconds, "rows_per_s": rows / seconds,
                  "server_cpu_s": cpu, "importers_cpu_s": sum(of for of, _ in used),
                  "importers_peak_mb": sum(memory for _, memory in used) / 1e6, "importer_peak_mb": max(memory for _, memory in used) / 1e6,
                  "server_peak_mb": peak[0] / 1e6, "deadlocks": deadlocks, "rolled_back": rolled_back, "waits": dict(seen), "lags": lags,
                  "ages": ages}
        sampled = max(1, sum(seen.values()))
        print(f"{'clock' if clock else 'fast '} {gateways:4} gateways, {case:>9} importers: {rows / seconds:9,.0f} rows/s; CPU of a million rows: "
              f"server {cpu / rows * 1e6:.2f} s, importers {result['importers_cpu_s'] / rows * 1e6:.2f} s; peaks: server "
              f"{result['server_peak_mb']:.0f} MB, importers {result['importers_peak_mb']:.0f} MB; waits "
              + (", ".join(f"{what} {100 * times / sampled:.0f} %" for what, times in seen.most_common()) or "none seen")
              + f"; {deadlocks} deadlocks, {rolled_back} transactions rolled back", flush=True)
        if clock:
            slope = statistics.linear_regression([at * self.args.interval for at in range(len(lags))], lags).slope if len(lags) > 1 else 0
            result.update(slope=slope, grows=slope > SLOPE_MAX and lags[-1] > self.args.interval)
            print(f"      lag of each interval: {' '.join(f'{lag:.1f}' for lag in lags)} s; slope {slope:+.2f}: "
                  f"{'GROWS' if result['grows'] else 'does not grow'}; oldest waiting file {max(age for _, age in ages):.1f} s", flush=True)
        return result

    def fast(self):
        self.results["fast"] = [self.play(case, self.args.gateways, False) for case in self.args.cases.split(",")]
        self.size("gateways")

    def clock(self):
        self.results["clock"] = [self.play(case, self.args.gateways, True) for case in self.args.cases.split(",")]

    def limit(self):
        case = self.args.cases.split(",")[0]
        clock = self.results["clock"][0] if "clock" in self.results else self.play(case, self.args.gateways, True)
        # If a file never waits for one of the next interval.
        fast_enough = self.args.gateways * self.args.interval / statistics.median(clock["lags"])
        self.results["limit"] = []
        for number in range(self.args.stages):
            gateways = max(1, round(fast_enough * (LIMIT_FIRST + LIMIT_STEP * number)))
            self.results["limit"].append(self.play(case, gateways, True))
            if self.results["limit"][-1]["grows"]:
                break

    def all_parts(self, parts):
        self.run(season.ROOT / "tests/support/private_postgres.sh", "start", self.pg)
        for part in parts:
            getattr(self, part)()


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--gateways", type=int, default=50, help="(default: %(default)s)")
    flags.add_argument("--rows", type=int, default=20_000, help="of a gateway's interval, about (default: %(default)s)")
    flags.add_argument("--intervals", type=int, default=10, help="of each run (default: %(default)s)")
    flags.add_argument("--interval", type=float, default=season.INTERVAL, help="seconds of the clock from one to the next (default: %(default)s)")
    flags.add_argument("--cases", default="1,4,50,4shared", help="numbers of importers (default: %(default)s)")
    flags.add_argument("--stages", type=int, default=5, help="of the limit, at most (default: %(default)s)")
    flags.add_argument("--bin", type=pathlib.Path, default=season.ROOT / "bazel-bin", help="folder of the built programs")
    flags.add_argument("--work", default="/tmp", help="folder for everything; as root, user postgres must be able to enter it "
                       "(default: %(default)s)")
    flags.add_argument("--only", help=f"which parts (default: {','.join(PARTS)})")
    flags.add_argument("--json", type=pathlib.Path, help="file for the results")
    args = flags.parse_args()
    parts = args.only.split(",") if args.only else PARTS
    if unknown := set(parts) - set(PARTS):
        flags.error(f"no such part: {', '.join(unknown)}")
    if not all(re.fullmatch(r"[1-9]\d*(shared)?", case) for case in args.cases.split(",")):
        flags.error("--cases is a list of numbers, each perhaps followed by 'shared'")
    season.run(Gateways, args, [part for part in PARTS if part in parts])


if __name__ == "__main__":
    main()

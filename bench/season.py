#!/usr/bin/env python3
"""A whole game in the database: loading, size, and every query of the dashboards.

  bench/season.py [--files N] [--bin FOLDER] [--work FOLDER] [--json FILE]

1,920 intervals of 15 s with about 52,000 rows each (100 x 100 networks, 10 ports, 2 protocols; 60,000 keys in use), as
spool files, into a private PostgreSQL (fsync on, its defaults but what tests/support/private_postgres.sh sets): rows/s with
rollups. A part of the same rows again with `psql \\copy ... (format binary)` into a table like vpn_traffic without
rollups: the ratio, of runs that alternate. (psql neither checks its file nor remembers it.) Bytes on disk per row. Then
every query of every panel of configs/grafana/dashboards/traffic.json, with filters at All (each is printed) and at seven
selections (the slowest three are), over 8 hours and one hour, five times each, while the importer loads a new interval of
117,000 rows every 15 s. Then such an interval's import alone and while the queries run without a pause. At last scans: a
file of which each row has a key of its own, time and peak memory (--scans=10000000: twenty minutes).

The sums in the database, and in each of its rollups, must be those of the files, or the exit status is 1. 40 GB of disk;
half an hour. Python's standard library and psql only.
"""
import argparse
import itertools
import json
import os
import pathlib
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
INTERVAL = 15
UNALIGNED = 7 * 60
KEYS = 200_000  # All that bench/spool_generator has.
FIRST = 1_700_006_415
PANEL_PIXELS = 1000  # What Grafana makes $__interval of: one point a pixel.
PORTS = ["80", "443", "5432"]
# What somebody has chosen in the dashboard's variables; all else is at All.
SELECTIONS = {
    "All": {},
    "an origin": {"origin": ["10.32.95.0"]},
    "a destination": {"destination": ["10.33.60.0"]},
    "a protocol": {"protocol": ["tcp"]},
    "three ports": {"port": PORTS},
    "an origin, three ports": {"origin": ["10.32.95.0"], "port": PORTS},
    "a pair": {"origin": ["10.32.95.0"], "destination": ["10.33.60.0"]},
    "a pair, a protocol, three ports": {"origin": ["10.32.95.0"], "destination": ["10.33.60.0"], "protocol": ["tcp"],
                                        "port": PORTS},
}
COLUMNS = "sum(src_packets), sum(src_bytes), sum(dst_bytes)"


class Bench:
    def __init__(self, args, work):
        self.args, self.bin, self.work = args, args.bin, work
        self.pg, self.spool = work / "pg", work / "spool"
        self.sums = {}  # Of each file: rows, packets and bytes as COLUMNS.
        self.loaded = set()
        self.results = {}

    def run(self, *argv, **options):
        done = subprocess.run([str(a) for a in argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
        if done.returncode != 0:
            sys.exit(f"season.py: {argv[0]}: {done.stderr.strip()}")
        return done.stdout + done.stderr

    def conninfo(self, database="season"):
        return f"host={self.pg} user=postgres dbname={database}"

    def sql(self, text, database="season"):
        return self.run("psql", "-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", self.conninfo(database), "-c", text).strip()

    def generator(self, folder, files, rows, keys, first, pace=0, *more):
        folder.mkdir()
        return [str(a) for a in (self.bin / "bench/spool_generator", f"-output={folder}", f"-files={files}", f"-rows={rows}",
                                 f"-keys={keys}", f"-first={first}", f"-pace={pace}", *more)]

    def note(self, lines):
        """What the generator prints; returns the files' names."""
        found = {name: tuple(map(int, values)) for name, *values in map(str.split, lines.splitlines())}
        self.sums.update(found)
        return found

    def generate(self, folder, *options):
        return [folder / name for name in self.note(self.run(*self.generator(folder, *options)))]

    def check(self, database, files, rollups=()):
        expected = tuple(map(sum, zip(*(self.sums[name] for name in files))))
        for table, rows in (("vpn_traffic", "count(*)"), *((f"traffic_{name}", "sum(row_count)") for name in rollups)):
            found = tuple(map(int, self.sql(f"SELECT {rows}, {COLUMNS} FROM {table}", database).split("|")))
            if found != expected:
                sys.exit(f"season.py: wrong sums: {table} of {database} has {found}, the files have {expected}")

    def importer(self, folder, database="season"):
        return [self.bin / "importer/importer", f"-conninfo={self.conninfo(database)}", f"-watch={folder}", "-once"]

    def import_files(self, files, database="season"):
        """Seconds for these files, which stay."""
        watch = self.work / "watch"
        shutil.rmtree(watch, ignore_errors=True)
        watch.mkdir()
        for name in files:
            os.link(name, watch / name.name)
        start = time.monotonic()
        self.run(*self.importer(watch, database))
        seconds = time.monotonic() - start
        if database == "season":
            self.loaded.update(name.name for name in files)
        return seconds

    def load(self):
        self.sql("CREATE DATABASE season", "postgres")
        self.sql("CHECKPOINT", "postgres")
        seconds = self.import_files(self.files)
        rows = int(self.sql("SELECT sum(row_count) FROM import_ledger"))
        self.results["load"] = {"rows": rows, "seconds": seconds, "rows_per_s": rows / seconds}
        print(f"loaded {rows:,} rows in {seconds:.1f} s: {rows / seconds:,.0f} rows/s", flush=True)

    def size(self):
        rows = int(self.sql("SELECT sum(row_count) FROM import_ledger"))

        def bytes_of(where):
            return int(self.sql("SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relkind = 'r' AND "
                                "relispartition AND " + where))
        fact, rollup = bytes_of("relname LIKE 'vpn_traffic%'"), bytes_of("relname LIKE 'traffic_%'")
        self.results["size"] = {"rows": rows, "bytes_per_row": fact / rows, "rollups": rollup / rows}
        print(f"{fact / rows:.1f} bytes a row and {rollup / rows:.1f} of rollups: {(fact + rollup) / rows:.1f}", flush=True)

    def compare(self):
        """Some of the rows: by us with rollups, and by psql without."""
        files = self.files[:self.args.compared or max(1, len(self.files) // 10)]
        names = [name.name for name in files]
        times = {"importer": [], "psql": []}
        rows_file = self.work / "rows"
        for number in range(self.args.compare_runs):
            for who in times:
                self.sql("DROP DATABASE IF EXISTS compared", "postgres")
                self.sql("CREATE DATABASE compared", "postgres")
                self.sql("CHECKPOINT", "compared")
                if who == "importer":
                    times[who].append(self.import_files(files, "compared"))
                    if number == 0:
                        self.run("psql", "-X", "-q", self.conninfo("compared"), "-c",
                                 f"\\copy (SELECT * FROM vpn_traffic) TO '{rows_file}' (format binary)")
                else:
                    self.run(*self.importer(self.work / "watch", "compared"))  # The tables.
                    self.sql(f"SELECT traffic_make_partitions(ARRAY[to_timestamp({FIRST}), to_timestamp({FIRST + 86400})])",
                             "compared")
                    start = time.monotonic()
                    self.run("psql", "-X", "-q", self.conninfo("compared"), "-c",
                             f"\\copy vpn_traffic FROM '{rows_file}' (format binary)")
                    times[who].append(time.monotonic() - start)
                self.check("compared", names)
        self.sql("DROP DATABASE compared", "postgres")
        rows_file.unlink()
        ours, psql = (statistics.median(times[who]) for who in ("importer", "psql"))
        self.results["compare"] = {"importer_s": times["importer"], "psql_s": times["psql"], "ratio": psql / ours}
        print(f"the same {sum(self.sums[name][0] for name in names):,} rows: importer with rollups {ours:.2f} s, psql without "
              f"{psql:.2f} s: {psql / ours:.2f} of its rate", flush=True)

    def queries(self, hours, end, selection={}):
        """(panel, SQL) with Grafana's macros and variables put in, as tests/grafana_test does."""
        dashboard = json.loads((ROOT / "configs/grafana/dashboards/traffic.json").read_text())
        begin = end - hours * 3600
        step_ms = max(hours * 3600 * 1000 // PANEL_PIXELS, 1000)
        values = {"$__timeFrom()": f"to_timestamp({begin})", "$__timeTo()": f"to_timestamp({end})",
                  "$__interval_ms": str(step_ms)}
        found = []
        def expand(sql):
            for macro, value in values.items():
                sql = sql.replace(macro, value)
            sql = re.sub(r"\$\{(\w+):sqlstring\}",
                         lambda name: ",".join(f"'{each}'" for each in selection.get(name[1], [])) or "NULL", sql)
            if "$" in re.sub(r"\$\$", "", sql):
                sys.exit(f"season.py: a macro that is not known: {sql}")
            return sql
        def walk(panels):
            for panel in panels:
                for target in panel.get("targets", []):
                    if target.get("rawSql"):
                        found.append((panel["title"], expand(target["rawSql"])))
                walk(panel.get("panels", []))
        walk(dashboard["panels"])
        for each in dashboard["annotations"]["list"]:
            sql = each.get("rawQuery") or each.get("target", {}).get("rawSql") or each.get("rawSql")
            if sql:
                found.append(("annotation " + each["name"], expand(sql)))
        for each in dashboard["templating"]["list"]:
            query = each.get("query")
            if isinstance(query, str) and query.startswith("SELECT"):
                found.append(("variable " + each["name"], expand(query)))
        return found

    def time_queries(self, queries, runs):
        """Milliseconds of each run, as psql reports them: in one session, results fetched and thrown away."""
        script = "\\timing on\n\\o /dev/null\n" + "".join(
            sql.rstrip().rstrip(";") + ";\n" for _ in range(runs) for _, sql in queries)
        out = self.run("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", self.conninfo(), input=script)
        times = [float(found) for found in re.findall(r"^Time: ([0-9.]+) ms", out, re.M)]
        if len(times) != runs * len(queries):
            sys.exit(f"season.py: {len(times)} times for {runs * len(queries)} queries: {out[:300]}")
        return [times[i::len(queries)] for i in range(len(queries))]

    def panels(self):
        end = int(float(self.sql("SELECT extract(epoch FROM max(interval_end)) FROM import_ledger")))
        live, lines = self.work / "live", self.work / "live.sums"
        with open(lines, "wb") as out:
            generator = subprocess.Popen(
                self.generator(live, 200, self.args.live_rows, self.live_keys, end + INTERVAL, INTERVAL * 1000), stdout=out)
        watcher = subprocess.Popen([str(a) for a in self.importer(live)[:-1]], stderr=subprocess.DEVNULL)
        try:
            time.sleep(min(5, self.args.runs))
            self.results["panels"] = {}
            # As somebody looks: not at a whole hour.
            for (hours, limit), (chosen, selection) in itertools.product(((8, 100), (1, 30)), SELECTIONS.items()):
                queries = self.queries(hours, end - UNALIGNED, selection)
                times = self.time_queries(queries, self.args.runs)
                found = [(statistics.median(runs), max(runs), name) for (name, _), runs in zip(queries, times)]
                for middle, worst, name in found if not selection else sorted(found)[-3:]:
                    print(f"{hours} h, {chosen:32}{middle:7.1f} ms  worst {worst:7.1f}  "
                          f"{'' if middle <= limit else 'OVER '}{name}", flush=True)
                self.results["panels"].update({f"{name}, {hours} h, {chosen}": {"median_ms": middle, "worst_ms": worst}
                                               for middle, worst, name in found})
        finally:
            for process in (generator, watcher):
                process.terminate()
                process.wait()
        self.run(*self.importer(live))  # What the watcher has not begun.
        self.loaded.update(self.note(lines.read_text()))

    def slowdown(self):
        """Import of one interval: alone, and while the 8-hour queries run in a loop."""
        runs = self.args.runs + 2
        end = int(float(self.sql("SELECT extract(epoch FROM max(interval_end)) FROM import_ledger")))
        queries = self.queries(8, end)
        files = self.generate(self.work / "single", 2 * runs + 1, self.args.live_rows, self.live_keys, end + INTERVAL)
        self.import_files(files[:1])
        times = {"alone": [], "with queries": []}
        for number in range(runs):
            times["alone"].append(self.import_files([files[1 + 2 * number]]))
            stop = threading.Event()
            def ask():
                while not stop.is_set():
                    self.time_queries(queries, 1)
            thread = threading.Thread(target=ask)
            thread.start()
            time.sleep(0.3)
            times["with queries"].append(self.import_files([files[2 + 2 * number]]))
            stop.set()
            thread.join()
        alone, busy = (statistics.median(times[who]) for who in ("alone", "with queries"))
        self.results["slowdown"] = {"alone_s": times["alone"], "with_queries_s": times["with queries"]}
        print(f"an interval of {self.args.live_rows:,} rows: {alone:.2f} s alone, {busy:.2f} s while queries run: "
              f"{100 * (busy / alone - 1):+.0f} %", flush=True)


    def scans(self):
        """A file of keys of which none comes twice: time and peak memory of the importer."""
        self.results["scans"] = []
        for keys in map(int, self.args.scans.split(",")):
            self.sql("DROP DATABASE IF EXISTS scanned", "postgres")
            self.sql("CREATE DATABASE scanned", "postgres")
            spool = self.work / f"scan{keys}"
            names = self.note(self.run(*self.generator(spool, 1, keys, 0, FIRST, 0, "-scan")))
            start = time.monotonic()
            importer = subprocess.Popen([str(a) for a in self.importer(spool, "scanned")], stderr=subprocess.DEVNULL)
            _, status, used = os.wait4(importer.pid, 0)
            seconds = time.monotonic() - start
            importer.returncode = os.waitstatus_to_exitcode(status)
            if importer.returncode != 0:
                sys.exit(f"season.py: the importer ended with status {importer.returncode}")
            self.check("scanned", names, self.sql("SELECT name FROM traffic_rollups", "scanned").split())
            result = {"keys": keys, "seconds": seconds, "peak_mb": used.ru_maxrss * 1024 / 1e6,
                      "database_mb": int(self.sql("SELECT pg_database_size('scanned')", "scanned")) / 1e6}
            self.results["scans"].append(result)
            print(f"a scan of {keys:,} keys: {seconds:.1f} s, {keys / seconds:,.0f} rows/s, the importer's peak "
                  f"{result['peak_mb']:.0f} MB, database {result['database_mb']:,.0f} MB", flush=True)
            shutil.rmtree(spool)
        self.sql("DROP DATABASE scanned", "postgres")

    def all_parts(self, parts):
        self.run(ROOT / "tests/support/private_postgres.sh", "start", self.pg)
        self.files = self.generate(self.spool, self.args.files, self.args.rows, min(self.args.rows * 15 // 13, KEYS), FIRST)
        self.live_keys = min(self.args.live_rows * KEYS // 117_000, KEYS)
        for part in parts:
            getattr(self, part)()
        if self.loaded:
            self.check("season", self.loaded, self.sql("SELECT name FROM traffic_rollups").split())


def main():
    parts = ("load", "size", "compare", "panels", "slowdown", "scans")
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--files", type=int, default=1920, help="intervals (default: %(default)s)")
    flags.add_argument("--rows", type=int, default=52_000, help="of an interval, about (default: %(default)s)")
    flags.add_argument("--live-rows", type=int, default=117_000, help="of an interval loaded during queries (default: %(default)s)")
    flags.add_argument("--runs", type=int, default=5, help="of each query (default: %(default)s)")
    flags.add_argument("--compared", type=int, help="files to compare with psql (default: a tenth)")
    flags.add_argument("--compare-runs", type=int, default=3, help="of that comparison (default: %(default)s)")
    flags.add_argument("--scans", default="10000,100000,1000000", help="keys of each scan (default: %(default)s)")
    flags.add_argument("--bin", type=pathlib.Path, default=ROOT / "bazel-bin", help="folder of the built programs")
    flags.add_argument("--work", default="/tmp", help="folder for everything; as root, user postgres must be able to enter it "
                       "(default: %(default)s)")
    flags.add_argument("--only", default=",".join(parts), help="which parts (default: all)")
    flags.add_argument("--json", type=pathlib.Path, help="file for the results")
    args = flags.parse_args()
    if unknown := set(args.only.split(",")) - set(parts):
        flags.error(f"no such part: {', '.join(unknown)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="ctacct_season.", dir=args.work) as folder:
        os.chmod(folder, 0o755)
        bench = Bench(args, pathlib.Path(folder))
        try:
            bench.all_parts([part for part in parts if part in args.only.split(",")])
        finally:
            bench.run(ROOT / "tests/support/private_postgres.sh", "stop", bench.pg)
    if args.json is not None:
        args.json.write_text(json.dumps(bench.results, indent=1) + "\n")


if __name__ == "__main__":
    main()

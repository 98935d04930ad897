#!/usr/bin/env python3
"""A whole game in the database: loading, size, and every query of the dashboards.

  bench/season.py [--files N] [--bin FOLDER] [--work FOLDER] [--json FILE]

1,920 intervals of 15 s with about 52,000 rows each (100 x 100 networks, 10 ports, 2 protocols; 60,000 keys in use), as
spool files, into a private PostgreSQL (fsync on, its defaults but what tests/support/private_postgres.sh sets): rows/s with
rollups. A part of the same rows again with `psql \\copy ... (format binary)` into a table like vpn_traffic without
rollups: the ratio, of runs that alternate. Bytes on disk per row. Then every query of every panel of
configs/grafana/dashboards/traffic.json, with filters at All (each is printed) and at seven selections (the slowest three
are), over 8 hours and one hour, five times each, while the importer loads a new interval of 117,000 rows every 15 s. At
last such an interval's import alone and while the queries run without a pause. 40 GB of disk; half an hour. Python's
standard library and psql only.
"""
import argparse
import itertools
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
INTERVAL = 15
UNALIGNED = 7 * 60
LIVE_ROWS = 117_000
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
SUMS = "SELECT count(*), sum(src_packets), sum(src_bytes), sum(dst_bytes) FROM "


class Bench:
    def __init__(self, args):
        self.bin = args.bin
        self.work = args.work
        self.files = args.files
        self.pg = self.work / "pg"
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

    def generate(self, folder, files, rows, keys, first, pace=0):
        folder.mkdir(parents=True, exist_ok=True)
        return [self.bin / "bench/spool_generator", f"-output={folder}", f"-files={files}", f"-rows={rows}",
                f"-keys={keys}", f"-first={first}", f"-pace={pace}", "-gateway=vpn1"]

    def importer(self, folder, database="season"):
        return [self.bin / "importer/importer", f"-conninfo={self.conninfo(database)}", f"-watch={folder}", "-once"]

    def load(self, spool, database):
        """Seconds for the files of this folder, which stay."""
        watch = self.work / "watch"
        shutil.rmtree(watch, ignore_errors=True)
        watch.mkdir()
        for name in spool:
            os.link(name, watch / name.name)
        start = time.monotonic()
        self.run(*self.importer(watch, database))
        return time.monotonic() - start

    def load_all(self):
        self.run(ROOT / "tests/support/private_postgres.sh", "start", self.pg)
        if self.sql("SELECT 1 FROM pg_database WHERE datname = 'season'", "postgres"):
            return
        spool = self.work / "spool"
        if not spool.exists():
            self.run(*self.generate(spool, self.files, 52_000, 60_000, FIRST))
        self.sql("CREATE DATABASE season", "postgres")
        self.sql("CHECKPOINT", "postgres")
        seconds = self.load(sorted(spool.glob("*.spool")), "season")
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

    def compare(self, runs=3):
        """A tenth of the rows: by us with rollups, and by psql without."""
        spool = sorted((self.work / "spool").glob("*.spool"))[:max(1, self.files // 10)]
        times = {"importer": [], "psql": []}
        rows_file = self.work / "rows"
        for number in range(runs):
            for who in times:
                self.sql("DROP DATABASE IF EXISTS compared", "postgres")
                self.sql("CREATE DATABASE compared", "postgres")
                self.sql("CHECKPOINT", "compared")
                if who == "importer":
                    times[who].append(self.load(spool, "compared"))
                    if number == 0:
                        self.run("psql", "-X", "-q", self.conninfo("compared"), "-c",
                                 f"\\copy (SELECT * FROM vpn_traffic) TO '{rows_file}' (format binary)")
                        expected = self.sql(SUMS + "vpn_traffic", "compared")
                else:
                    self.run(*self.importer(self.work / "watch", "compared"))  # The tables.
                    self.sql(f"SELECT traffic_make_partitions(ARRAY[to_timestamp({FIRST}), to_timestamp({FIRST + 86400})])",
                             "compared")
                    start = time.monotonic()
                    self.run("psql", "-X", "-q", self.conninfo("compared"), "-c",
                             f"\\copy vpn_traffic FROM '{rows_file}' (format binary)")
                    times[who].append(time.monotonic() - start)
                    if self.sql(SUMS + "vpn_traffic", "compared") != expected:
                        sys.exit("season.py: psql's rows are not the importer's")
        self.sql("DROP DATABASE compared", "postgres")
        rows_file.unlink()
        ours, psql = (statistics.median(times[who]) for who in ("importer", "psql"))
        self.results["compare"] = {"importer_s": times["importer"], "psql_s": times["psql"], "ratio": psql / ours}
        print(f"the same rows: importer with rollups {ours:.1f} s, psql without {psql:.1f} s: {psql / ours:.2f} of its rate",
              flush=True)

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
        """Milliseconds of each run, as psql tells them: in one session, results fetched and thrown away."""
        script = "\\timing on\n\\o /dev/null\n" + "".join(
            sql.rstrip().rstrip(";") + ";\n" for _ in range(runs) for _, sql in queries)
        out = self.run("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", self.conninfo(), input=script)
        times = [float(found) for found in re.findall(r"^Time: ([0-9.]+) ms", out, re.M)]
        if len(times) != runs * len(queries):
            sys.exit(f"season.py: {len(times)} times for {runs * len(queries)} queries: {out[:300]}")
        return [times[i::len(queries)] for i in range(len(queries))]

    def panels(self):
        end = int(float(self.sql("SELECT extract(epoch FROM max(interval_end)) FROM import_ledger")))
        live = self.work / "live"
        shutil.rmtree(live, ignore_errors=True)
        generator = subprocess.Popen([str(a) for a in self.generate(live, 200, LIVE_ROWS, 200_000, end + INTERVAL,
                                                                    INTERVAL * 1000)])
        watcher = subprocess.Popen([str(a) for a in self.importer(live)[:-1]], stderr=subprocess.DEVNULL)
        try:
            time.sleep(5)
            self.results["panels"] = {}
            # As somebody looks: not at a whole hour.
            for (hours, limit), (chosen, selection) in itertools.product(((8, 100), (1, 30)), SELECTIONS.items()):
                queries = self.queries(hours, end - UNALIGNED, selection)
                times = self.time_queries(queries, 5)
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

    def slowdown(self, runs=7):
        """Import of one interval of 117,000 rows: alone, and while the 8-hour queries run in a loop."""
        end = int(float(self.sql("SELECT extract(epoch FROM max(interval_end)) FROM import_ledger")))
        queries = self.queries(8, end)
        spool = self.work / "single"
        shutil.rmtree(spool, ignore_errors=True)
        self.run(*self.generate(spool, 2 * runs + 1, LIVE_ROWS, 200_000, end + INTERVAL))
        files = sorted(spool.glob("*.spool"))
        self.load(files[:1], "season")
        times = {"alone": [], "with queries": []}
        for number in range(runs):
            times["alone"].append(self.load([files[1 + 2 * number]], "season"))
            stop = threading.Event()
            def ask():
                while not stop.is_set():
                    self.time_queries(queries, 1)
            thread = threading.Thread(target=ask)
            thread.start()
            time.sleep(0.3)
            times["with queries"].append(self.load([files[2 + 2 * number]], "season"))
            stop.set()
            thread.join()
        alone, busy = (statistics.median(times[who]) for who in ("alone", "with queries"))
        self.results["slowdown"] = {"alone_s": times["alone"], "with_queries_s": times["with queries"]}
        print(f"an interval of {LIVE_ROWS:,} rows: {alone:.2f} s alone, {busy:.2f} s while queries run: "
              f"{100 * (busy / alone - 1):+.0f} %", flush=True)


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--files", type=int, default=1920, help="intervals (default: %(default)s)")
    flags.add_argument("--bin", type=pathlib.Path, default=ROOT / "bazel-bin", help="folder of the built programs")
    flags.add_argument("--work", type=pathlib.Path, default=pathlib.Path("/tmp/ctacct_season"),
                       help="folder; what is in it already (spool, a loaded database) is used (default: %(default)s)")
    flags.add_argument("--only", default="load,size,compare,panels,slowdown", help="which parts (default: all)")
    flags.add_argument("--json", type=pathlib.Path, help="file for the results")
    args = flags.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    args.work.chmod(0o755)
    bench = Bench(args)
    try:
        bench.load_all()
        for part in ("size", "compare", "panels", "slowdown"):
            if part in args.only.split(","):
                getattr(bench, part)()
    finally:
        bench.run(ROOT / "tests/support/private_postgres.sh", "stop", bench.pg)
    if args.json is not None:
        args.json.write_text(json.dumps(bench.results, indent=1) + "\n")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""A whole game, or some hours of a VPN provider, in the database: loading, size, and every query of the dashboards.

  bench/season.py [--workload=game|provider|mixed] [--files N] [--bin FOLDER] [--work FOLDER] [--json FILE]

Spool files of bench/spool_generator go into a private PostgreSQL (fsync on, its defaults but what
tests/support/private_postgres.sh sets). The workloads, in intervals of 15 s:

  game      1,920 with about 52,000 rows each: 100 x 100 networks, 10 ports, 2 protocols; 60,000 keys in use
  provider  240 with about 150,000: 5,000 clients, who talk to addresses of which 30 % are never seen again
  mixed     60 of three gateways of each into one database: about 600,000 rows

Parts (--only names some; by default those of the workload):

  load       all files at once: rows/s with rollups, and the importer's peak memory
  size       bytes on disk, of rows and of rollups
  compare    a part of the same rows again with `psql \\copy ... (format binary)` into a table like vpn_traffic without
             rollups: the ratio, of runs that alternate. All tables are there before. (psql neither checks its file nor
             remembers it.)
  panels     every query of every panel of configs/grafana/dashboards/traffic.json, with filters at All (each is printed)
             and at seven selections (the slowest three are), over 8 hours and one hour, while the importer loads a new
             interval every 15 s
  client     what a client did within five minutes, from the rows
  questions  game: three documented commands, from their start to their end: who used most last month, what an address did
             at a minute, is anything missing. The month before the season has the sums of a whole one: an interval an hour,
             each with a tenth of the rows; the last 16 hours before it have one every 15 s, with 1/500 of the rows
  names      game: the panels of configs/grafana/dashboards/names.json with 200 names, against the same panels by address, in
             turns: names that never change, and names of which some (--reassigned) change hands within the eight hours
  intervals  new intervals one by one, while the 8-hour queries run without a pause: the slowest
  slowdown   game: such an interval's import alone and while the queries run
  scans      game: a file of which each row has a key of its own, time and peak memory (--scans=10000000: twenty minutes)
  kill       provider, mixed: kill -9 of the importer at random moments, then traffic_check()

The sums in the database, and in each of its rollups, must be those of the files, or the exit status is 1. 40 GB of disk and
half an hour for a game. Python's standard library and psql only.
"""
import argparse
import collections
import contextlib
import csv
import datetime
import itertools
import json
import os
import pathlib
import random
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
CLIENT_SECONDS = 5 * 60
SLOW_MS = 2000
KEYS = 200_000  # All that bench/spool_generator has.
FIRST = 1_700_006_415  # The first interval of 2023-11-15.
MONTH = datetime.datetime(2023, 10, 1, tzinfo=datetime.timezone.utc)
MONTH_HOURS = 44 * 24 + 8  # From there until a day before the end of a season of eight hours.
MONTH_DAY = 16 * 3600 // INTERVAL  # And the intervals of that day before the season.
PANEL_PIXELS = 1000  # What Grafana makes $__interval of: one point a pixel.
PORTS = ["80", "443", "5432"]
GATEWAYS = {"game": ["game"], "provider": ["provider"], "mixed": ["game", "provider"] * 3}
FILES = {"game": 1920, "provider": 240, "mixed": 60}
PARTS = {"game": ("load", "size", "compare", "panels", "client", "questions", "names", "slowdown", "scans"),
         "provider": ("load", "size", "panels", "client", "intervals", "kill")}
PARTS["mixed"] = PARTS["provider"]
# Milliseconds that a panel may take, by the number of hours shown.
LIMITS = {"game": {8: 60, 1: 20}, "provider": {8: 500, 1: 200}}
LIMITS["mixed"] = LIMITS["provider"]


def selections(origin, destination):
    """What somebody has chosen in the dashboard's variables; all else is at All."""
    return {
        "All": {},
        "an origin": {"origin": [origin]},
        "a destination": {"destination": [destination]},
        "a protocol": {"protocol": ["tcp"]},
        "three ports": {"port": PORTS},
        "an origin, three ports": {"origin": [origin], "port": PORTS},
        "a pair": {"origin": [origin], "destination": [destination]},
        "a pair, a protocol, three ports": {"origin": [origin], "destination": [destination], "protocol": ["tcp"],
                                            "port": PORTS},
    }


COLUMNS = "sum(src_packets), sum(src_bytes), sum(dst_bytes)"
# A panel of names.json, and the same by address in traffic.json.
BY_NAME = {"Totals": "Totals", "Throughput": "Throughput, bytes", "Top names": "Top origins",
           "Top destinations by name": "Top destinations", "Bandwidth per name": "Bandwidth per origin",
           "Bandwidth per destination by name": "Bandwidth per destination", "Who talked to whom": "Top pairs"}


# Of an importer: seconds, the most memory that it had, in bytes, and its CPU seconds, user and system.
Used = collections.namedtuple("Used", "seconds peak cpu")


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

    def generator(self, folder, files, first, *flags):
        folder.mkdir(parents=True, exist_ok=True)
        return [str(a) for a in (self.bin / "bench/spool_generator", f"-output={folder}", f"-files={files}", f"-first={first}",
                                 *flags)]

    def generators(self, folder, files, first, *flags, live=False):
        """A command for each gateway of the workload: a folder for it and its program."""
        rows = self.args.live_rows if live else self.args.rows
        keys = rows * KEYS // 117_000 if live else rows * 15 // 13
        kinds = {"game": (f"-rows={rows}", f"-keys={min(keys, KEYS)}"),
                 "provider": ("-workload=provider", f"-clients={self.args.clients}")}
        gateways = GATEWAYS[self.args.workload]
        return [(place, self.generator(place, files, first, *kinds[kind], f"-seed={number}", f"-gateway=vpn{number}", *flags))
                for number, kind in enumerate(gateways, 1) for place in [folder / f"vpn{number}"]]

    def note(self, lines):
        """What the generator prints; returns the files' names."""
        found = {name: tuple(map(int, values)) for name, *values in map(str.split, lines.splitlines())}
        self.sums.update(found)
        return found

    def generate(self, folder, files, first, *flags, live=False):
        """Paths of new files: those of an interval follow each other."""
        of_gateways = [[place / name for name in self.note(self.run(*argv))]
                       for place, argv in self.generators(folder, files, first, *flags, live=live)]
        return [path for interval in zip(*of_gateways) for path in interval]

    def newest(self):
        return int(float(self.sql("SELECT extract(epoch FROM max(interval_end)) FROM import_ledger")))

    def check(self, database, files, rollups=()):
        expected = tuple(map(sum, zip(*(self.sums[name] for name in files))))
        for table, rows in (("vpn_traffic", "count(*)"), *((f"traffic_{name}", "sum(row_count)") for name in rollups)):
            found = tuple(map(int, self.sql(f"SELECT {rows}, {COLUMNS} FROM {table}", database).split("|")))
            if found != expected:
                sys.exit(f"season.py: wrong sums: {table} of {database} has {found}, the files have {expected}")

    def importer(self, folder, database="season"):
        return [self.bin / "importer/importer", f"-conninfo={self.conninfo(database)}", f"-watch={folder}", "-once"]

    def link(self, watch, files):
        """Into a watched folder; names in the order of `files`, as that is the importer's."""
        for number, path in enumerate(files):
            os.link(path, watch / f"{number:06}-{path.name}")

    def run_importer(self, watch, database="season"):
        start = time.monotonic()
        with tempfile.TemporaryFile(dir=self.work) as errors:
            importer = subprocess.Popen([str(a) for a in self.importer(watch, database)], stderr=errors)
            _, status, used = os.wait4(importer.pid, 0)
            seconds = time.monotonic() - start
            importer.returncode = os.waitstatus_to_exitcode(status)
            errors.seek(0)
            if importer.returncode != 0:
                sys.exit(f"season.py: the importer ended with status {importer.returncode}: {errors.read().decode()}")
        return Used(seconds, used.ru_maxrss * 1024, used.ru_utime + used.ru_stime)

    def server_pids(self):
        """Of all its processes, the main one first."""
        main = int((self.pg / "data/postmaster.pid").read_text().split()[0])
        return [main, *map(int, pathlib.Path(f"/proc/{main}/task/{main}/children").read_text().split())]

    def server_cpu(self):
        """CPU seconds of the server up to now, user and system, also of processes that have ended."""
        ticks = 0
        for number, pid in enumerate(self.server_pids()):
            with contextlib.suppress(OSError):
                fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += sum(map(int, fields[11:15] if number == 0 else fields[11:13]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def import_files(self, files, database="season"):
        """As run_importer, for these files, which stay."""
        watch = self.work / "watch"
        shutil.rmtree(watch, ignore_errors=True)
        watch.mkdir()
        self.link(watch, files)
        used = self.run_importer(watch, database)
        if database == "season":
            self.loaded.update(name.name for name in files)
        return used

    def load(self):
        self.sql("CREATE DATABASE season", "postgres")
        self.sql("CHECKPOINT", "postgres")
        server = self.server_cpu()
        seconds, peak, cpu = self.import_files(self.files)
        server = self.server_cpu() - server
        rows = int(self.sql("SELECT sum(row_count) FROM import_ledger"))
        self.results["load"] = {"rows": rows, "seconds": seconds, "rows_per_s": rows / seconds, "peak_mb": peak / 1e6,
                                "server_cpu_s": server, "importer_cpu_s": cpu}
        print(f"loaded {rows:,} rows in {seconds:.1f} s: {rows / seconds:,.0f} rows/s, the importer's peak {peak / 1e6:.0f} MB; "
              f"CPU of a million rows: server {server / rows * 1e6:.2f} s, importer {cpu / rows * 1e6:.2f} s", flush=True)

    def size(self, database="season"):
        rows = int(self.sql("SELECT sum(row_count) FROM import_ledger", database))

        def bytes_of(where):
            return int(self.sql("SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relkind = 'r' AND "
                                "relispartition AND " + where, database))
        fact, rollup = bytes_of("relname LIKE 'vpn_traffic%'"), bytes_of("relname LIKE 'traffic_%'")
        intervals = int(self.sql("SELECT count(DISTINCT interval_end) FROM import_ledger", database))
        day_gb = (fact + rollup) / intervals * 86400 / INTERVAL / 1e9
        self.results["size"] = {"rows": rows, "bytes_per_row": fact / rows, "rollups": rollup / rows,
                                "ratio": (fact + rollup) / fact, "day_gb": day_gb}
        print(f"{fact / rows:.1f} bytes a row and {rollup / rows:.1f} of rollups: {(fact + rollup) / rows:.1f}, "
              f"{(fact + rollup) / fact:.2f} times the rows; {day_gb:.1f} GB a day", flush=True)

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
                self.run(self.bin / "importer/importer", f"-conninfo={self.conninfo('compared')}", "-migrate")
                self.sql(f"SELECT traffic_make_partitions(ARRAY[to_timestamp({FIRST}), to_timestamp({FIRST + 86400})])", "compared")
                self.sql("CHECKPOINT", "compared")
                if who == "importer":
                    times[who].append(self.import_files(files, "compared")[0])
                    if number == 0:
                        self.run("psql", "-X", "-q", self.conninfo("compared"), "-c",
                                 f"\\copy (SELECT * FROM vpn_traffic) TO '{rows_file}' (format binary)")
                else:
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

    def queries(self, hours, end, selection={}, dashboard="traffic.json"):
        """(panel, SQL) with Grafana's macros and variables put in, as tests/grafana_test does."""
        dashboard = json.loads((ROOT / "configs/grafana/dashboards" / dashboard).read_text())
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

    def selections(self):
        """Of a pair of the newest interval."""
        pair = self.sql("SELECT host(src) || ' ' || host(dst) FROM vpn_traffic WHERE time = "
                        f"to_timestamp({self.newest()}) AND port = 443 AND proto = 'tcp' ORDER BY src_bytes + dst_bytes DESC LIMIT 1")
        return selections(*pair.split())

    def panels(self):
        end = self.newest()
        live, lines = self.work / "live", self.work / "live.sums"
        chosen_ones = self.selections().items()
        with open(lines, "wb") as out:
            makers = [subprocess.Popen(argv, stdout=out) for _, argv in self.generators(
                live, 200, end + INTERVAL, f"-pace={INTERVAL * 1000}", live=True)]
        watchers = [subprocess.Popen([str(a) for a in self.importer(place)[:-1]], stderr=subprocess.DEVNULL)
                    for place in live.iterdir()]
        try:
            time.sleep(min(5, self.args.runs))
            self.results["panels"] = {}
            # As somebody looks: not at a whole hour.
            for (hours, limit), (chosen, selection) in itertools.product(LIMITS[self.args.workload].items(), chosen_ones):
                queries = self.queries(hours, end - UNALIGNED, selection)
                times = self.time_queries(queries, self.args.runs)
                found = [(statistics.median(runs), max(runs), name) for (name, _), runs in zip(queries, times)]
                for middle, worst, name in found if not selection else sorted(found)[-3:]:
                    print(f"{hours} h, {chosen:32}{middle:7.1f} ms  worst {worst:7.1f}  "
                          f"{'' if middle <= limit else 'OVER '}{name}", flush=True)
                self.results["panels"].update({f"{name}, {hours} h, {chosen}": {"median_ms": middle, "worst_ms": worst}
                                               for middle, worst, name in found})
        finally:
            for process in makers + watchers:
                process.terminate()
                process.wait()
        for place in live.iterdir():
            self.run_importer(place)  # What the watchers have not begun.
        self.loaded.update(self.note(lines.read_text()))

    def client(self):
        """What some clients did within five minutes, each of another time."""
        self.sql("ANALYZE vpn_traffic")  # As autovacuum does within a minute.
        first, end = (int(float(each)) for each in self.sql(
            "SELECT extract(epoch FROM min(interval_end)), extract(epoch FROM max(interval_end)) FROM import_ledger").split("|"))
        sources = self.sql(f"SELECT DISTINCT host(src) FROM vpn_traffic WHERE time = to_timestamp({end})").split()
        choice = random.Random(1)
        begins = [choice.randrange(first - INTERVAL, max(end - CLIENT_SECONDS, first)) for _ in range(10)]
        queries = [(source, "SELECT time, dst, proto, port, src_bytes, dst_bytes FROM vpn_traffic WHERE "
                            f"src = '{source}' AND time > to_timestamp({begin}) AND time <= to_timestamp({begin + CLIENT_SECONDS}) "
                            "ORDER BY time") for source, begin in zip(choice.choices(sources, k=len(begins)), begins)]
        times = self.time_queries(queries, self.args.runs)
        middle, worst = (statistics.median(map(statistics.median, times)), max(map(max, times)))
        self.results["client"] = {"median_ms": middle, "worst_ms": worst}
        print(f"five minutes of a client from the rows: {middle:.1f} ms, worst {worst:.1f}", flush=True)

    def load_month(self):
        """What comes before the season; returns the names of October's files."""
        hour, day = self.args.rows // 10, max(1, self.args.rows // 500)
        first = int(MONTH.timestamp()) + 3600
        hours = [self.work / "hours" / name for name in self.note(self.run(*self.generator(
            self.work / "hours", min(MONTH_HOURS, self.args.files), first, "-interval=3600", f"-rows={hour}",
            f"-keys={min(hour * 15, KEYS)}", "-gateway=vpn1")))]
        number = min(MONTH_DAY, 2 * self.args.files)
        days = [self.work / "day" / name for name in self.note(self.run(*self.generator(
            self.work / "day", number, FIRST - number * INTERVAL, f"-rows={day}", f"-keys={day * 15}", "-gateway=vpn1")))]
        self.import_files(hours + days)
        return [path.name for path in hours[:31 * 24]]

    def time_command(self, *flags):
        """Seconds of each run of the report, and what it printed. With -check it has status 1 if something is missing."""
        seconds = []
        for _ in range(self.args.runs):
            start = time.monotonic()
            done = subprocess.run([str(self.bin / "importer/report/report"), f"-conninfo={self.conninfo()}", "-timezone=UTC", *flags],
                                  capture_output=True, text=True)
            seconds.append(time.monotonic() - start)
            if done.stderr or done.returncode not in ((0, 1) if "-check" in flags else (0,)):
                sys.exit(f"season.py: report {' '.join(flags)}: {done.stderr.strip() or done.returncode}")
        return seconds, done.stdout

    def questions(self):
        october = self.load_month()
        self.sql("ANALYZE vpn_traffic")  # As autovacuum does within a minute.
        sent, received = (sum(self.sums[name][at] for name in october) for at in (2, 3))

        def moment(seconds):
            return f"{datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc):%Y-%m-%dT%H:%M:%S}"

        # Of an address that is there.
        end = self.newest()
        minute = end - self.args.files * INTERVAL // 2 // 60 * 60
        of = f"time > to_timestamp({minute - 60}) AND time <= to_timestamp({minute})"
        address = self.sql(f"SELECT host(src) FROM vpn_traffic WHERE {of} LIMIT 1")
        rows = int(self.sql(f"SELECT count(*) FROM vpn_traffic WHERE {of} AND src = '{address}'"))
        self.results["questions"] = {}
        for question, flags, is_right in (
                ("who used most last month", ("-table=origins", f"-month={MONTH:%Y-%m}"), lambda lines: (sent, received) == tuple(
                    sum(round(float(line[column])) for line in csv.DictReader(lines)) for column in ("src_bytes", "dst_bytes"))),
                ("what did an address do at a minute", ("-table=rows", f"-src={address}", f"-from={moment(minute - 60)}",
                                                        f"-to={moment(minute)}"), lambda lines: len(lines) == rows + 1),
                ("is anything missing", ("-check", f"-to={moment(end)}"), lambda lines: self.args.files < FILES["game"] or any(
                    line.startswith("vpn1: complete, 5760 intervals") for line in lines))):
            seconds, printed = self.time_command(*flags)
            lines = printed.splitlines()
            if not is_right(lines):
                sys.exit(f"season.py: {question}: wrong: report {' '.join(flags)} prints\n{printed[:2000]}")
            middle, worst = statistics.median(seconds), max(seconds)
            self.results["questions"][question] = {"median_s": middle, "worst_s": worst, "lines": len(lines)}
            print(f"{question}: {middle:.2f} s, worst {worst:.2f}: report {' '.join(flags)}", flush=True)

    def give_names(self, begin, end, changes):
        """Each network of the game its name; so many times within the range, one gets the name of another."""
        held = {(side, number): [(FIRST - 86400, number)] for side in (32, 33) for number in range(100)}
        for change in range(changes):
            # 37 and 100 have no common divisor: each network in turn.
            key = (32 + change % 2, change // 2 * 37 % 100)
            held[key].append((begin + (end - begin) * (2 * change + 1) // (2 * changes), (held[key][-1][1] + 50) % 100))
        rows = [f"('vpn1', '10.{side}.{number}.0/24', '{'team' if side == 32 else 'service'} {name}', 'file', "
                f"tstzrange(to_timestamp({since}), {f'to_timestamp({times[at + 1][0]})' if at + 1 < len(times) else 'NULL'}), now())"
                for (side, number), times in held.items() for at, (since, name) in enumerate(times)]
        self.sql(f"TRUNCATE traffic_names; INSERT INTO traffic_names VALUES {', '.join(rows)}; ANALYZE traffic_names")

    def check_names(self, begin, end):
        """All bytes have a name; and in each hour that of who held the address, by the rows."""
        for by in ("src", "dst", "src,dst"):
            names = ",".join(f"{side}_name" for side in by.split(","))
            address, name = (self.sql(f"SELECT sum(src_bytes)::bigint, sum(dst_bytes)::bigint FROM traffic(to_timestamp({begin}), "
                                      f"to_timestamp({end}), NULL, '{{{columns}}}')") for columns in (by, names))
            if address != name:
                sys.exit(f"season.py: by {by} the sums are {address}, by {names} {name}")
        for side in ("src", "dst"):
            call = f"(to_timestamp({end - 3600}), to_timestamp({end}), NULL, '{{{side}_name}}'"
            answer = self.sql(f"SELECT {side}_name, src_bytes::bigint FROM traffic{call}) ORDER BY 1")
            rows = self.sql(
                f"SELECT name, sum(bytes) FROM (SELECT vpn_traffic.time, {side}, sum(src_bytes) AS bytes FROM vpn_traffic, "
                f"traffic_make_plan{call}, NULL, NULL, NULL, NULL, NULL) AS plan "
                f"WHERE vpn_traffic.time > plan.lower AND vpn_traffic.time <= plan.upper GROUP BY 1, 2) AS sums "
                f"JOIN traffic_names ON {side} <<= network AND valid @> time GROUP BY 1 ORDER BY 1")
            if answer != rows or not rows:
                sys.exit(f"season.py: wrong sums by {side}_name:\n{answer}\nof the rows:\n{rows}")

    def names(self):
        end = self.newest() - UNALIGNED if self.args.files * INTERVAL > 2 * UNALIGNED else self.newest()
        self.results["names"] = {}
        for changes in (0, self.args.reassigned):
            self.give_names(end - 8 * 3600, end, changes)
            self.check_names(end - 8 * 3600, end)
            case = f"{changes} changes"
            for hours, (chosen, by_name, by_address) in itertools.product((8, 1), (
                    ("All", {}, {}), ("a name", {"origin": ["team 7"]}, {"origin": ["10.32.7.0"]}))):
                names = dict(self.queries(hours, end, by_name, "names.json"))
                addresses = dict(self.queries(hours, end, by_address))
                for name, address in BY_NAME.items():
                    if chosen == "All" and name in ("Totals", "Throughput"):
                        continue  # There the queries are the same.
                    # The first run of a session compiles the functions. It is enough of a question that takes so long.
                    pair = [(address, addresses[address]), (name, names[name])]
                    times = self.time_queries(pair, 1)
                    if times[1][0] < SLOW_MS:
                        times = [runs[1:] for runs in self.time_queries(pair, self.args.runs + 1)]
                    of_address, of_name = map(statistics.median, times)
                    print(f"{hours} h, {case + ', ' + chosen:22}{of_name:9.1f} ms  by address {of_address:7.1f}: "
                          f"{of_name / of_address:6.2f}  {name}", flush=True)
                    self.results["names"][f"{name}, {hours} h, {case}, {chosen}"] = {
                        "name_ms": of_name, "address_ms": of_address, "changes": changes}
        self.sql("TRUNCATE traffic_names")

    @contextlib.contextmanager
    def asking(self, queries):
        """These are asked without a pause meanwhile."""
        stop = threading.Event()

        def ask():
            while not stop.is_set():
                self.time_queries(queries, 1)
        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def intervals(self):
        """New ones one by one, as they come, while the 8-hour queries run in a loop."""
        end = self.newest()
        files = self.generate(self.work / "intervals", self.args.intervals, end + INTERVAL, live=True)
        gateways = len(GATEWAYS[self.args.workload])
        with self.asking(self.queries(8, end)):
            times = [self.import_files(files[at:at + gateways])[0] for at in range(0, len(files), gateways)]
        self.results["intervals"] = {"seconds": times}
        print(f"{len(times)} intervals one by one while queries run: {statistics.median(times):.2f} s, slowest {max(times):.2f} s",
              flush=True)

    def slowdown(self):
        """Import of one interval: alone, and while the 8-hour queries run in a loop."""
        runs = self.args.runs + 2
        queries = self.queries(8, self.newest())
        files = self.generate(self.work / "single", 2 * runs + 1, self.newest() + INTERVAL, live=True)
        self.import_files(files[:1])
        times = {"alone": [], "with queries": []}
        for number in range(runs):
            times["alone"].append(self.import_files([files[1 + 2 * number]])[0])
            with self.asking(queries):
                time.sleep(0.3)
                times["with queries"].append(self.import_files([files[2 + 2 * number]])[0])
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
            names = self.note(self.run(*self.generator(spool, 1, FIRST, f"-rows={keys}", "-workload=scan")))
            seconds, peak, _ = self.run_importer(spool, "scanned")
            self.check("scanned", names, self.sql("SELECT name FROM traffic_rollups", "scanned").split())
            result = {"keys": keys, "seconds": seconds, "peak_mb": peak / 1e6,
                      "database_mb": int(self.sql("SELECT pg_database_size('scanned')", "scanned")) / 1e6}
            self.results["scans"].append(result)
            print(f"a scan of {keys:,} keys: {seconds:.1f} s, {keys / seconds:,.0f} rows/s, the importer's peak "
                  f"{result['peak_mb']:.0f} MB, database {result['database_mb']:,.0f} MB", flush=True)
            shutil.rmtree(spool)
        self.sql("DROP DATABASE scanned", "postgres")

    def kill(self):
        """Before each kill one more interval is there, of a fifth of the clients: some transactions have several."""
        moments = random.Random(self.args.seed)
        self.sql("DROP DATABASE IF EXISTS killed", "postgres")
        self.sql("CREATE DATABASE killed", "postgres")
        folder, watch = self.work / "kill", self.work / "watch"
        files = [folder / name for name in self.note(self.run(*self.generator(
            folder, 2 * self.args.kills, FIRST, "-workload=provider", f"-clients={-(-self.args.clients // 5)}")))]
        self.import_files(files[:1], "killed")  # With the tables.
        seconds = self.import_files(files[1:2], "killed").seconds
        killed, used = 0, 2
        while killed < self.args.kills and used < len(files):
            os.link(files[used], watch / files[used].name)
            used += 1
            importer = subprocess.Popen([str(a) for a in self.importer(watch, "killed")], stderr=subprocess.DEVNULL)
            try:
                importer.wait(moments.uniform(0, 1.2 * seconds))
            except subprocess.TimeoutExpired:
                importer.kill()
                killed += importer.wait() == -signal.SIGKILL
        files = files[:used]
        self.run_importer(watch, "killed")
        self.check("killed", [path.name for path in files], self.sql("SELECT name FROM traffic_rollups", "killed").split())
        found = self.sql("SELECT count(*) FROM traffic_check((SELECT min(interval_end) - interval_length FROM import_ledger "
                         "GROUP BY interval_length), (SELECT max(interval_end) FROM import_ledger))", "killed")
        if found != "0":
            sys.exit(f"season.py: traffic_check() finds {found} differences after kills (--seed={self.args.seed})")
        self.sql("DROP DATABASE killed", "postgres")
        self.results["kill"] = {"kills": killed, "rows": sum(self.sums[path.name][0] for path in files)}
        print(f"killed {killed} times (--seed={self.args.seed}), {self.results['kill']['rows']:,} rows: all sums exact, "
              "traffic_check() empty", flush=True)

    def all_parts(self, parts):
        self.run(ROOT / "tests/support/private_postgres.sh", "start", self.pg)
        self.files = self.generate(self.spool, self.args.files, FIRST)
        for part in parts:
            getattr(self, part)()
        if self.loaded:
            self.check("season", self.loaded, self.sql("SELECT name FROM traffic_rollups").split())


def run(bench_class, args, parts):
    """In a folder of its own, with a server that is stopped in any case."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="ctacct_season.", dir=args.work) as folder:
        os.chmod(folder, 0o755)
        bench = bench_class(args, pathlib.Path(folder))
        try:
            bench.all_parts(parts)
        finally:
            bench.run(ROOT / "tests/support/private_postgres.sh", "stop", bench.pg)
    if args.json is not None:
        args.json.write_text(json.dumps(bench.results, indent=1) + "\n")


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--workload", choices=FILES, default="game", help="(default: %(default)s)")
    flags.add_argument("--files", type=int, help="intervals (default: the workload's)")
    flags.add_argument("--rows", type=int, default=52_000, help="of a game's interval, about (default: %(default)s)")
    flags.add_argument("--live-rows", type=int, default=117_000, help="the same, loaded during queries (default: %(default)s)")
    flags.add_argument("--clients", type=int, default=5000, help="of a provider, 30 rows each (default: %(default)s)")
    flags.add_argument("--intervals", type=int, default=20, help="loaded one by one (default: %(default)s)")
    flags.add_argument("--kills", type=int, default=50, help="of the importer (default: %(default)s)")
    flags.add_argument("--seed", type=int, default=random.randrange(1 << 31), help="of the moments of kills (default: by chance)")
    flags.add_argument("--reassigned", type=int, default=12, help="how many names change hands in 8 hours (default: %(default)s)")
    flags.add_argument("--runs", type=int, default=5, help="of each query (default: %(default)s)")
    flags.add_argument("--compared", type=int, help="files to compare with psql (default: a tenth)")
    flags.add_argument("--compare-runs", type=int, default=3, help="of that comparison (default: %(default)s)")
    flags.add_argument("--scans", default="10000,100000,1000000", help="keys of each scan (default: %(default)s)")
    flags.add_argument("--bin", type=pathlib.Path, default=ROOT / "bazel-bin", help="folder of the built programs")
    flags.add_argument("--work", default="/tmp", help="folder for everything; as root, user postgres must be able to enter it "
                       "(default: %(default)s)")
    flags.add_argument("--only", help="which parts (default: the workload's)")
    flags.add_argument("--json", type=pathlib.Path, help="file for the results")
    args = flags.parse_args()
    args.files = args.files or FILES[args.workload]
    parts = args.only.split(",") if args.only else PARTS[args.workload]
    known = list(dict.fromkeys(itertools.chain(*PARTS.values())))
    if unknown := set(parts) - set(known):
        flags.error(f"no such part: {', '.join(unknown)}")
    run(Bench, args, [part for part in known if part in parts])


if __name__ == "__main__":
    main()

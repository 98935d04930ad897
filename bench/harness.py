"""What the live benchmarks share: a kernel gateway, programs beside it, and their exact accounts.

A gateway is that of tests/support/gateway.sh. The generator, `conntrack -F` and this script run on the first CPU; listeners
on the CPUs given (the last one by default), by `taskset`. Everything is taken down when the `with` block of Gateway is
left, also by SIGTERM or an error. Python's standard library only; root.
"""
import argparse
import collections
import contextlib
import json
import math
import os
import pathlib
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
GENERATOR_CPU = 0
# As the spool's rows are grouped here; the generator's networks come in pairs that differ in the bit left out.
MASK = "255.239.255.0"
READY_SECONDS_MAX = 60
STOP_SECONDS_MAX = 120
NETLINK_NETFILTER = "12"
os.environ["PATH"] += ":/usr/sbin:/sbin"


class BenchError(Exception):
    """One line for the user; ends the script with status 1."""


def main(run):
    """Calls run() with cleanup at SIGTERM and one clear line for an error."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(run())
    except KeyboardInterrupt:
        sys.exit(130)
    except BenchError as error:
        print(f"{pathlib.Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        sys.exit(1)


def parser(description):
    flags = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--bin", type=pathlib.Path, help="folder of the built programs (default: bazel-bin)")
    flags.add_argument("--cpus", default=str((os.cpu_count() or 1) - 1), help="CPUs of the listeners (default: %(default)s)")
    flags.add_argument("--workers", type=int, help="of engine and floor (default: one for each of --cpus, at most 4)")
    flags.add_argument("--json", type=pathlib.Path, help="file for the results")
    return flags


def parse(flags):
    args = flags.parse_args()
    if os.geteuid() != 0:
        raise BenchError("needs root: it makes network namespaces")
    check = subprocess.run([ROOT / "tests/support/gateway.sh", "check"], capture_output=True, text=True)
    if check.returncode != 0:
        raise BenchError(f"no gateway can be made here: {check.stderr.strip()}")
    if args.bin is None:
        args.bin = pathlib.Path(output(["bazel", "info", "--noshow_progress", "bazel-bin"], cwd=ROOT).strip())
    if args.workers is None:
        args.workers = min(len(args.cpus.split(",")), 4)
    return args


def write_json(args, results):
    if args.json is not None:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


def output(argv, **options):
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
    if done.returncode != 0:
        raise BenchError(f"{pathlib.Path(argv[0]).name}: {done.stderr.strip() or done.returncode}")
    return done.stdout


class Listener:
    """A program in the gateway's namespace. Its standard output and error go to files."""

    def __init__(self, gateway, argv, cpus, discard_output=False):
        self.program = pathlib.Path(argv[0]).name
        self.log = tempfile.NamedTemporaryFile(dir=gateway.folder, prefix="log", delete=False).name
        self.out = os.devnull if discard_output else self.log + ".out"
        with open(self.log, "wb") as err, open(self.out, "wb") as out:
            # All these replace themselves by the next: the process is the program's in the end.
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", f"{gateway.name}-gw", "taskset", "-c", cpus, *map(str, argv)], stdout=out, stderr=err)
        self.pid = self.process.pid

    def text(self):
        texts = [pathlib.Path(path).read_text(errors="replace") for path in (self.log, self.out) if path != os.devnull]
        return "".join(texts)

    def wait_for(self, text, seconds_max=READY_SECONDS_MAX):
        """Waits until the program has printed that; returns the seconds it took."""
        start = time.monotonic()
        while text not in self.text():
            if self.process.poll() is not None or time.monotonic() - start > seconds_max:
                raise BenchError(f"{self.program} does not say {text!r}: {self.text().strip()}")
            time.sleep(0.002)
        return time.monotonic() - start

    def wait_subscribed(self):
        """For programs that do not log it: waits until one of their netlink sockets has joined a group."""
        start = time.monotonic()
        while not any(groups for groups, _, _ in self.sockets()):
            if self.process.poll() is not None or time.monotonic() - start > READY_SECONDS_MAX:
                raise BenchError(f"{self.program} does not listen: {self.text().strip()}")
            time.sleep(0.02)

    def sockets(self):
        """(groups, bytes queued, events dropped) of the namespace's netfilter sockets."""
        with contextlib.suppress(OSError), open(f"/proc/{self.pid}/net/netlink", encoding="ascii") as lines:
            rows = [line.split() for line in lines][1:]
            return [(int(row[3], 16), int(row[4]), int(row[8])) for row in rows if row[1] == NETLINK_NETFILTER]
        return []

    def drops(self):
        return sum(drops for _, _, drops in self.sockets())

    def wait_drained(self):
        empty = 0
        while empty < 3:
            empty = 0 if any(queued for _, queued, _ in self.sockets()) else empty + 1
            time.sleep(0.02)

    def cpu_seconds(self):
        """User and system time of all threads up to now, to the nanosecond (those of stat are ticks)."""
        total = 0
        for task in pathlib.Path(f"/proc/{self.pid}/task").iterdir():
            with contextlib.suppress(OSError):
                total += int((task / "schedstat").read_text().split()[0])
        return total / 1e9

    def entries(self):
        """Conntrack entries of its namespace, without starting a program."""
        return int(pathlib.Path(f"/proc/{self.pid}/net/stat/nf_conntrack").read_text().splitlines()[1].split()[0], 16)

    def resident_bytes(self, peak=False):
        for line in pathlib.Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:" if peak else "VmRSS:"):
                return int(line.split()[1]) * 1024
        raise BenchError(f"{self.program} has ended: {self.text().strip()}")

    def stop(self, sign=signal.SIGTERM):
        """Ends it; returns the CPU seconds of its whole life."""
        if self.process.poll() is not None:
            raise BenchError(f"{self.program} ended before its time: {self.text().strip()}")
        self.process.send_signal(sign)
        return self.wait()

    def wait(self):
        """Waits for its end; returns the CPU seconds of its whole life."""
        deadline = time.monotonic() + STOP_SECONDS_MAX
        while True:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid != 0:
                break
            if time.monotonic() > deadline:
                self.process.kill()
                raise BenchError(f"{self.program} does not end")
            time.sleep(0.005)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        if self.process.returncode != 0:
            raise BenchError(f"{self.program} failed ({self.process.returncode}): {self.text().strip()}")
        return usage.ru_utime + usage.ru_stime


class Gateway:
    """`with Gateway(args, "--timeouts=short") as gateway:`"""

    def __init__(self, args, *up_flags):
        self.args, self.up_flags = args, up_flags
        self.name = f"bench{os.getpid()}"
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="ctacct_bench."))
        self.listeners = []

    def __enter__(self):
        os.sched_setaffinity(0, {GENERATOR_CPU})
        try:
            output([ROOT / "tests/support/gateway.sh", "up", self.name, *self.up_flags])
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for listener in self.listeners:
            if listener.process.poll() is None:
                listener.process.kill()
                listener.process.wait()
        subprocess.run([ROOT / "tests/support/gateway.sh", "down", self.name], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, argv, **options):
        self.listeners.append(Listener(self, argv, self.args.cpus, **options))
        return self.listeners[-1]

    def start_engine(self, spool, *flags):
        spool.mkdir()
        engine = self.start([self.args.bin / "engine/engine", "-user=root", "-src=10.32.0.0/11", f"-src-group-mask={MASK}",
                             f"-dst-group-mask={MASK}", f"-output={spool}", f"-workers={self.args.workers}", *flags])
        engine.wait_for("accounting live")
        return engine

    def play(self, *flags):
        """Runs the generator; returns its summary and the sums it sent by masked key."""
        expect = self.folder / "sent.csv"
        summary = json.loads(output([self.args.bin / "tests/support/traffic_generator", f"-gateway={self.name}",
                                     f"-pin-cpu={GENERATOR_CPU}", f"-expect={expect}", *flags]))
        return summary, sums(line.split(",") for line in expect.read_text().splitlines())

    def in_namespace(self, *argv):
        return output(["ip", "netns", "exec", f"{self.name}-gw", *map(str, argv)])

    def entries(self):
        return int(self.in_namespace("conntrack", "-C"))

    def destroy_all_flows(self):
        self.in_namespace("conntrack", "-F")

    def spool_sums(self, spool):
        files = sorted(map(str, spool.glob("*.spool")))
        if not files:
            raise BenchError("the engine wrote no spool file")
        lines = output([self.args.bin / "engine/spool/spooldump", *files]).splitlines()
        return sums(line.split(",")[1:] for line in lines)


SpoolHeader = collections.namedtuple("SpoolHeader", "completeness interval_end_ns created_ns events_dropped")


def spool_headers(spool):
    """What SPOOL_FORMAT.md says of the header, in order of writing."""
    headers = []
    for path in sorted(spool.glob("*.spool")):
        header = path.read_bytes()[:408]
        end_ns, _, created_ns, _, _, dropped = struct.unpack_from("<qqqqqQ", header, 48)
        headers.append(SpoolHeader(header[20], end_ns, created_ns, dropped))
    return headers


def sums(rows):
    """Rows proto,src,dst,port,packets and bytes of both directions,connections closed; summed by masked key."""
    masked = {}

    def mask(address):
        if address not in masked:
            masked[address] = ".".join(str(int(a) & int(m)) for a, m in zip(address.split("."), MASK.split(".")))
        return masked[address]

    total = collections.defaultdict(lambda: [0] * 5)
    for row in rows:
        key = (row[0], mask(row[1]), mask(row[2]), row[3])
        for i, value in enumerate(row[4:9]):
            total[key][i] += int(value)
    return total


def add_sums(total, more):
    for key, values in more.items():
        total[key] = [a + b for a, b in zip(total[key], values)]


def check_account(gateway, spool, sent, who):
    """The speed of an engine that miscounts is none."""
    headers = spool_headers(spool)
    if dropped := sum(header.events_dropped for header in headers):
        raise BenchError(f"{who}: the kernel dropped {dropped} events")
    if any(header.completeness != 0 for header in headers):
        raise BenchError(f"{who}: an interval is not complete")
    rows = gateway.spool_sums(spool)
    if dict(rows) != dict(sent):
        wrong = [key for key in set(rows) | set(sent) if rows.get(key) != sent.get(key)]
        difference = [sum(values) for values in zip(*[[a - b for a, b in zip(rows.get(key, [0] * 5), sent.get(key, [0] * 5))]
                                                      for key in wrong])]
        raise BenchError(f"{who}: {len(wrong)} of {len(sent)} sums are wrong, in all by {difference} "
                         "(packets, bytes: original and reply; connections)")


def median(values):
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else None


def interval_of_median(values):
    """(low, high): contains the median of what the values are drawn from, with a probability of 95 % at least and whatever its
    distribution; None of fewer than six values, which cannot say that much."""
    values, number = sorted(values), len(values)
    outside, left_out = 0.0, -1  # Probability that the median is below value `left_out`, or above the one opposite.
    while (more := outside + 2 * math.comb(number, left_out + 1) / 2**number) <= 0.05:
        outside, left_out = more, left_out + 1
    return (values[left_out], values[-1 - left_out]) if left_out >= 0 else None

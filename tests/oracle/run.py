#!/usr/bin/env python3
"""The same network and traffic in Staticfire, SimGrid (flows) and ns-3 (packets): times, differences, speed.

usage: run.py BUILD [--only simgrid|ns3] [--endpoints 16,64] [--patterns incast,ring] [--routings adaptive,ecmp]
              [--bytes 4MiB] [--packet 4KiB] [--cluster FILE] [--order rr|fifo] [--limit SECONDS] [--header 26B]
              [--net-options "--peers 8"] [--json FILE]
       run.py BUILD --full       all patterns over 1,024 endpoints in ns-3, about 15 minutes; writes full.csv anew

Without sizes: what the test suite runs, and full.csv, whose times of ns-3 are not measured again. Processor times are of
the simulation alone; ours is the best of three.
Exit 0 all within 5 %, 1 not, 77 a library was missing when this was built."""
import argparse
import csv
import itertools
import json
import pathlib
import subprocess
import sys
import tempfile

PATTERNS = ["incast", "permutation", "all-to-all", "ring", "pipeline"]
TOLERANCE = 0.05
HERE = pathlib.Path(__file__).resolve().parent
SOURCE = HERE.parents[1]
# endpoints: bytes per pattern, small enough for packets
SUITE = {16: "4MiB", 64: "1MiB"}
# Messages of 1 MiB and more; packets as large as ns-3 needs to come to an end.
FULL = [("incast", "adaptive", "4MiB", "64KiB"), ("permutation", "adaptive", "16MiB", "64KiB"),
        ("permutation", "ecmp", "16MiB", "64KiB"), ("all-to-all", "adaptive", "256MiB", "16KiB"),
        ("ring", "adaptive", "1GiB", "64KiB"), ("pipeline", "adaptive", "4MiB", "64KiB"),
        ("pipeline", "ecmp", "4MiB", "64KiB")]
FULL_ENDPOINTS, FULL_FILE, FULL_LIMIT = 1024, HERE / "full.csv", 3600
COLUMNS = ["pattern", "routing", "endpoints", "bytes", "packet", "oracle", "time_s", "message_p50_s", "message_p99_s",
           "cpu_s", "events"]

parser = argparse.ArgumentParser(usage=__doc__.split("usage: ")[1].split("\n\n")[0])
parser.add_argument("build", type=pathlib.Path)
parser.add_argument("--only", choices=["simgrid", "ns3"])
parser.add_argument("--endpoints")
parser.add_argument("--patterns", default=",".join(PATTERNS))
parser.add_argument("--routings", default="adaptive,ecmp")
parser.add_argument("--bytes")
parser.add_argument("--packet", default="4KiB")
parser.add_argument("--cluster", default=SOURCE / "scenarios/clusters/gb300-nvl72-220k.yaml")
parser.add_argument("--order", default="rr")
parser.add_argument("--limit", type=float, default=120)
parser.add_argument("--header", default="26B")
parser.add_argument("--net-options", default="")
parser.add_argument("--json", type=pathlib.Path)
parser.add_argument("--full", action="store_true")
args = parser.parse_args()

oracles = {"simgrid": [args.build / "tests/oracle_simgrid"], "ns3": [args.build / "tests/oracle_ns3"]}
after = {"simgrid": ["--log=root.thres:error"], "ns3": [args.order]}
wanted = ["ns3"] if args.full else [args.only] if args.only else list(oracles)
for name in wanted:
    if not oracles[name][0].exists():
        print(f"{oracles[name][0]} was not built: the library is missing (./bootstrap test lists the packages)")
        sys.exit(77)


def staticfire(pattern, routing, endpoints, size, packet, dump=None):
    command = [args.build / "staticfire", "net", pattern, args.cluster, "--endpoints", endpoints, "--bytes", size,
               "--header", args.header, "--packet", packet, "--store-and-forward", "--routing", routing, "--json"]
    if routing == "ecmp" and "--per-domain" not in args.net_options:
        command += ["--per-domain", 4]  # neighbours share leaves, and so collide
    if pattern == "pipeline":
        command += ["--microbatches", "8", "--stages", "8" if endpoints % 8 == 0 else "4", "--forward", "100us"]
    if dump:
        command += ["--dump-oracle", dump]
    run = subprocess.run([*map(str, command), *args.net_options.split()], capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"{' '.join(map(str, command))}: {run.stderr}")
    return json.loads(run.stdout)


def fastest(*what):
    return min((staticfire(*what) for _ in range(3)), key=lambda run: run["cpu_s"])


def oracle(name, dump, limit):
    command = ["nice", "-n", "10", *oracles[name], dump, *after[name]]
    try:
        run = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return None
    if run.returncode:
        sys.exit(f"{' '.join(map(str, command))}: {run.stderr}")
    return json.loads(run.stdout)


def compare(ours, theirs):
    keys = ["time_s", "message_p50_s", "message_p99_s"]
    return [(ours[k] - theirs[k]) / theirs[k] for k in keys]


def show(what, name, ours, theirs):
    pattern, routing, endpoints, size, packet = what
    head = f"{pattern:<12} {routing:<8} {endpoints:>9} {size:>8} {packet:>6} {ours['time_s'] * 1e6:>9.2f} us {name:>8} "
    if theirs is None:
        print(head + f"{'over ' + str(args.limit) + ' s':>12}", flush=True)
        return
    errors = compare(ours, theirs)
    faster = theirs["cpu_s"] / ours["cpu_s"]
    print(head + f"{theirs['time_s'] * 1e6:>9.2f} us " + " ".join(f"{e:>+8.2%}" for e in errors) +
          f" {ours['cpu_s'] * 1e3:>7.3f} ms {theirs['cpu_s'] * 1e3:>7.0f} ms {faster:>8.0f}x", flush=True)
    rows.append({"pattern": pattern, "routing": routing, "endpoints": endpoints, "bytes": size, "packet": packet,
                 "oracle": name, "ours": ours, "theirs": theirs, "error": errors[0]})


def measure(cases, limit):
    with tempfile.TemporaryDirectory() as folder:
        dump = f"{folder}/traffic.net"
        for what in cases:
            staticfire(*what, dump)
            ours = fastest(*what)
            for name in wanted:
                show(what, name, ours, oracle(name, dump, limit))


def recorded():
    with open(FULL_FILE, newline="") as f:
        for row in csv.DictReader(f):
            if row["oracle"] in wanted:
                what = row["pattern"], row["routing"], int(row["endpoints"]), row["bytes"], row["packet"]
                show(what, row["oracle"], fastest(*what), {k: float(row[k]) for k in COLUMNS[6:]})


def record():
    with open(FULL_FILE, "w", newline="") as f:
        table = csv.DictWriter(f, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows({**{k: r[k] for k in COLUMNS[:6]}, **{k: r["theirs"][k] for k in COLUMNS[6:]}} for r in rows)


rows = []
print(f"{'pattern':<12} {'routing':<8} {'endpoints':>9} {'bytes':>8} {'packet':>6} {'ours':>12} {'oracle':>8} {'theirs':>12} "
      f"{'time':>8} {'p50':>8} {'p99':>8} {'our cpu':>10} {'its cpu':>10} {'faster':>9}")
if args.full:
    measure([(p, r, FULL_ENDPOINTS, size, packet) for p, r, size, packet in FULL], FULL_LIMIT)
    record()
else:
    sizes = {int(n): args.bytes or SUITE.get(int(n), "1MiB") for n in (args.endpoints or "16,64").split(",")}
    measure([(p, r, n, size, args.packet) for n, size in sizes.items()
             for p, r in itertools.product(args.patterns.split(","), args.routings.split(","))], args.limit)
    if not args.endpoints:
        recorded()
if args.json:
    args.json.write_text(json.dumps(rows, indent=1))
worst = max((abs(r["error"]) for r in rows), default=0.0)
print(f"largest difference of completion times: {worst:.2%}, at most {TOLERANCE:.0%}")
sys.exit(worst > TOLERANCE or not rows)

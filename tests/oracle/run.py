#!/usr/bin/env python3
"""The same network and traffic in Staticfire, SimGrid (flows) and ns-3 (packets): times, differences, speed.

usage: run.py BUILD [--only simgrid|ns3] [--endpoints 16,64] [--patterns incast,ring] [--routings adaptive,ecmp]
              [--bytes 4MiB] [--cluster FILE] [--order rr|fifo] [--limit SECONDS] [--header 26B]
              [--net-options "--peers 8"] [--json FILE]

Without sizes: what the test suite runs. Exit 0 all within 5 %, 1 not, 77 a library was missing when this was built."""
import argparse
import itertools
import json
import pathlib
import subprocess
import sys
import tempfile

PATTERNS = ["incast", "permutation", "all-to-all", "ring", "pipeline"]
TOLERANCE = 0.05
SOURCE = pathlib.Path(__file__).resolve().parents[2]
# endpoints: bytes per pattern, small enough for packets
SUITE = {16: "4MiB", 64: "1MiB"}

parser = argparse.ArgumentParser(usage=__doc__.split("usage: ")[1].split("\n\n")[0])
parser.add_argument("build", type=pathlib.Path)
parser.add_argument("--only", choices=["simgrid", "ns3"])
parser.add_argument("--endpoints")
parser.add_argument("--patterns", default=",".join(PATTERNS))
parser.add_argument("--routings", default="adaptive,ecmp")
parser.add_argument("--bytes")
parser.add_argument("--cluster", default=SOURCE / "scenarios/clusters/gb300-nvl72-220k.yaml")
parser.add_argument("--order", default="rr")
parser.add_argument("--limit", type=float, default=120)
parser.add_argument("--header", default="26B")
parser.add_argument("--net-options", default="")
parser.add_argument("--json", type=pathlib.Path)
args = parser.parse_args()

oracles = {"simgrid": [args.build / "tests/oracle_simgrid"], "ns3": [args.build / "tests/oracle_ns3"]}
after = {"simgrid": ["--log=root.thres:error"], "ns3": [args.order]}
wanted = [args.only] if args.only else list(oracles)
for name in wanted:
    if not oracles[name][0].exists():
        print(f"{oracles[name][0]} was not built: the library is missing (./bootstrap test lists the packages)")
        sys.exit(77)


def staticfire(pattern, routing, endpoints, size, dump):
    command = [args.build / "staticfire", "net", pattern, args.cluster, "--endpoints", endpoints, "--bytes", size,
               "--header", args.header, "--store-and-forward", "--routing", routing, "--dump-oracle", dump,
               "--json"]
    if routing == "ecmp" and "--per-domain" not in args.net_options:
        command += ["--per-domain", 4]  # neighbours share leaves, and so collide
    if pattern == "pipeline":
        command += ["--microbatches", "8", "--stages", "8" if endpoints % 8 == 0 else "4", "--forward", "100us"]
    run = subprocess.run([*map(str, command), *args.net_options.split()], capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"{' '.join(map(str, command))}: {run.stderr}")
    return json.loads(run.stdout)


def oracle(name, dump):
    command = ["nice", "-n", "10", *oracles[name], dump, *after[name]]
    try:
        run = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=args.limit)
    except subprocess.TimeoutExpired:
        return None
    if run.returncode:
        sys.exit(f"{' '.join(map(str, command))}: {run.stderr}")
    return json.loads(run.stdout)


def compare(ours, theirs):
    keys = ["time_s", "message_p50_s", "message_p99_s"]
    return [(ours[k] - theirs[k]) / theirs[k] for k in keys]


sizes = {int(n): args.bytes or SUITE.get(int(n), "1MiB") for n in args.endpoints.split(",")} if args.endpoints else SUITE
rows, worst = [], 0.0
print(f"{'pattern':<12} {'routing':<8} {'endpoints':>9} {'bytes':>8} {'ours':>12} {'oracle':>8} {'theirs':>12} {'time':>8} {'p50':>8} "
      f"{'p99':>8} {'our wall':>10} {'its wall':>10} {'faster':>9}")
with tempfile.TemporaryDirectory() as folder:
    for endpoints, size in sizes.items():
        for pattern, routing in itertools.product(args.patterns.split(","), args.routings.split(",")):
            dump = f"{folder}/{pattern}.net"
            ours = staticfire(pattern, routing, endpoints, size, dump)
            for name in wanted:
                theirs = oracle(name, dump)
                head = f"{pattern:<12} {routing:<8} {endpoints:>9} {size:>8} {ours['time_s'] * 1e6:>9.2f} us {name:>8} "
                if theirs is None:
                    print(head + f"{'over ' + str(args.limit) + ' s':>12}", flush=True)
                    continue
                errors = compare(ours, theirs)
                worst = max(worst, abs(errors[0]))
                faster = theirs["wall_s"] / ours["wall_s"]
                print(head + f"{theirs['time_s'] * 1e6:>9.2f} us " + " ".join(f"{e:>+8.2%}" for e in errors) +
                      f" {ours['wall_s'] * 1e3:>7.3f} ms {theirs['wall_s'] * 1e3:>7.0f} ms {faster:>8.0f}x", flush=True)
                rows.append({"pattern": pattern, "routing": routing, "endpoints": endpoints, "bytes": size, "oracle": name,
                             "ours": ours, "theirs": theirs, "error": errors[0]})
if args.json:
    args.json.write_text(json.dumps(rows, indent=1))
print(f"largest difference of completion times: {worst:.2%}, at most {TOLERANCE:.0%}")
sys.exit(worst > TOLERANCE or not rows)

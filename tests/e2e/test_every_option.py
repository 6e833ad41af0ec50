#!/usr/bin/env python3
"""Every option of every verb changes what is printed or written, or is refused. The list of options is what --help
says, so a new option without a line here fails. Which files a line writes is part of what it prints."""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(sys.argv[1]).resolve()
TINY = str(ROOT / "scenarios/tiny-llama-cpu/scenario.yaml")
CPU8 = str(ROOT / "scenarios/clusters/cpu-8.yaml")
RACK = str(ROOT / "scenarios/clusters/gb300-nvl72-1rack.yaml")
RACKS = str(ROOT / "scenarios/clusters/gb300-nvl72-4rack.yaml")
NODES = str(ROOT / "scenarios/clusters/hgx-h100-2048.yaml")
MIXED = str(ROOT / "scenarios/clusters/gb200-gb300-mixed.yaml")
H100 = str(ROOT / "scenarios/clusters/hgx-h100-1node.yaml")
os.environ["OMPI_ALLOW_RUN_AS_ROOT"] = os.environ["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] = "1"
bad = []
SCHEDULE = ["--stages", "4", "--microbatches", "12", "--f", "9ms", "--b", "8ms", "--w", "5ms"]
# Times of this machine, never two runs alike: they would make every option look as if it mattered.
UNSTEADY = re.compile(
    r"in \d[\d.]* ?[mun]?s\b|\d[\d.]* [mun]?s (to|for)\b|\d[\d.]* [kMG]?B resident|"
    r"[^\n]*(wall|search.time|ms simulated|events/s|took|_time_s|cpu|tokens/s|elapsed)[^\n]*")

# verb -> (arguments that every line shares, option -> what follows the option, arguments it needs beside it)
LINES = {
    "topo": (["show", RACKS], {
        "--overlay": ("hurt.yaml",), "--routing": ("ecmp",), "--route": ("0:73",),
        "--seed": ("7", ["topo", "show", RACKS, "--routing", "ecmp", "--route", "0:73"]), "--svg": ("x.svg",), "--output": ("here", ["topo", "probe"]), "--ranks": ("5", ["topo", "probe", "-o", "here"]),
    }),
    "topo export": ([NODES, "--format", "nccl"], {
        "--format": ("dot",), "--output": ("x.xml",), "--tray": ("255", ["topo", "export", MIXED, "--format", "nccl"]),
        "--pod": ("1", ["topo", "export", MIXED, "--format", "dot"]),
    }),
    "topo import": (["node.xml", "--format", "nccl"], {
        "--format": ("hwloc",), "--output": ("x.yaml",), "--name": ("other",), "--device": ("h200",), 
        "--link": ("nvlink5", ["topo", "import", "node.xml", "--format", "nccl", "-o", "other.yaml"]),
        "--nic": ("connectx7-400g", ["topo", "import", "pods.yaml", "--format", "infragraph"]),
        "--switch": ("spectrum4-sn5600", ["topo", "import", "pods.yaml", "--format", "infragraph"]),
    }),
    "plan": (["job.yaml"], {
        "--output": ("p.yaml",), "--top": ("1",), "--explain": (), "--fewer": ((), ["plan", "racks.yaml"]), "--cluster": ("other.yaml",), "--kernels": ("kernels.yaml",),
        "--overlay": ("lost.yaml", ["plan", "racks.yaml"]), "--routing": ("ecmp", ["plan", "racks.yaml"]),
        "--times": ("nccl", ["plan", "racks.yaml"]),
        "--objective": ("cost",), "--jitter": ("20%", ["plan", "job.yaml", "--objective", "p95", "--seeds", "2"]),
        "--seeds": ("3", ["plan", "job.yaml", "--objective", "p95"]),
        "--seed": ("7", ["plan", "auto.yaml", "--budget", "20000"]), "--budget": ("20000", ["plan", "auto.yaml"]),
        "--threads": ("5000",), # any number that is allowed prints the same: unit.test_planner_search
    }),
    "sim": (["plan.yaml"], {
        "--unfolded": (), "--both": (), "--cluster": ("other.yaml",), "--kernels": ("kernels.yaml",),
        "--seed": ("7", ["sim", "plan.yaml", "--jitter", "5%"]), "--jitter": ("5%",),
        "--jitter-kind": ("normal", ["sim", "plan.yaml", "--jitter", "5%"]), "--seeds": ("3", ["sim", "plan.yaml", "--jitter", "5%"]),
        "--slow": ("gpu:0=0.5",), "--trace": ("t.sftrace",),
        "--trace-ranks": ("1", ["sim", "plan.yaml", "--unfolded", "--trace", "t.sftrace"]), "--forecast": ("f.json",),
        "--overlay": ("lost.yaml", ["sim", "racks.plan.yaml"]), "--routing": ("ecmp", ["sim", "racks.plan.yaml"]), "--times": ("nccl", ["sim", "racks.plan.yaml"]),
        "--routing-seed": ("7", ["sim", "racks.plan.yaml", "--routing", "ecmp", "--links"]),
        "--links": ((), ["sim", "racks.plan.yaml", "--routing", "ecmp"]), "--audit": (), "--expand": ((), ["sim", "racks.plan.yaml"]),
        "--no-skip": ((), ["sim", "long.yaml"]),
    }),
    "compile": (["plan.yaml"], {"--output": ("q.sfprog",), "--cluster": ("other.yaml",)}),
    "prog": (["dump", "base.sfprog"], {"--output": ("q.txt",)}),
    "trace": (["dump", "base.sftrace"], {"--output": ("q.txt",)}),
    "run": (["plan.yaml", "--dry-run"], {
        "--steps": ("3",), "--transport": ("mpi",), "--trace": ("t.sftrace",), "--data": (str(ROOT / "LICENSE"),),
        "--dump": ("d.safetensors",), "--log": ("l.jsonl",), "--stall": ("7s",), "--backend": ("record",),
        "--virtual-ranks": ((), ["run", "plan.yaml", "--dry-run", "--backend", "record"]), "--reference-kernels": (), "--quiet": (),
        "--output": ("q.sfprog",), "--cluster": ("other.yaml",), "--dry-run": None,
    }),
    "compare": (["base.sftrace", "slow.sftrace", "--skip", "0"], {
        "--report": ("r.html",), "--forecast": ("base.json",), "--program": ("none.sfprog",), "--cluster": (CPU8,),
        "--kernels": ("kernels.yaml", ["compare", "base.json", "slow.sftrace", "--skip", "0", "--report", "r.html"]),
        "--loss": ("loss.jsonl", ["compare", "base.sftrace", "slow.sftrace", "--skip", "0", "--report", "r.html"]),
        "--tolerance": ("900%",), "--skip": None, "--top": ("1",), "--estimates": ("none.json",), "--order-only": (),
    }),
    "doctor": ([], {}),
    "calibrate": (["--from", "kernels.yaml"], {
        "--output": ("c.yaml",), "--from": ("nccl.txt", ["calibrate", "--op", "all_reduce", "--ranks", "4"]),
        "--op": ("all_gather", ["calibrate", "--from", "nccl.txt", "--ranks", "4", "--op", "all_reduce"]),
        "--ranks": ("8", ["calibrate", "--from", "nccl.txt", "--op", "all_reduce", "--ranks", "4"]),
        "--program": ("none.sfprog", ["calibrate", "--from", "base.sftrace"]), "--models": ("1",),
        "--backend": ("record",), "--device": ("h200",), "--transport": ("mpi",),
    }),
    "schedule": (["--kind", "1f1b", *SCHEDULE], {
        "--kind": ("gpipe",), "--stages": ("3",), "--microbatches": ("8",),
        "--chunks": ("3", ["schedule", "--kind", "interleaved", *SCHEDULE]), "--slices": ("2",), "--f": ("7ms",),
        "--b": ("7ms",), "--w": ("7ms",), "--comm": ("1ms",),
        "--memory-limit": ("1.5", ["schedule", "--kind", "zb-2p", *SCHEDULE]),
        "--weight-share": ("50%", ["schedule", "--kind", "zb-2p", *SCHEDULE]),
        "--wrap-edge": ("first", ["schedule", "--kind", "interleaved", *SCHEDULE, "--chunks", "2", "--comm", "1ms"]),
        "--published": ((), ["schedule", "--kind", "v-half", *SCHEDULE]), "--layout": ("Et*7|t*8|t*8|t*5L",),
        "--loss-layers": ("3", ["schedule", "--kind", "1f1b", *SCHEDULE, "--layout", "Et*7|t*8|t*8|t*5L"]),
        "--costs": ("stages.csv", ["schedule", "--kind", "1f1b", "--stages", "2", "--microbatches", "4"]),
        "--table": ("table.csv", ["schedule", "--kind", "table", *SCHEDULE]), "--csv": ("c.csv",), "--svg": ("s.svg",),
    }),
    "cut": (["units.csv", "--stages", "4"], {
        "--stages": ("3",), "--memory": ("51MB",), "--microbatches": ("1",), "--devices": ("5",), "--costs": ("c.csv",),
    }),
    "coll": ([H100, "-b", "1MiB..4MiB"], {
        "--op": ("all_gather",), "--ranks": ("4",), "--per-domain": ("2", ["coll", RACKS, "-n", "8", "-b", "64MiB"]),
        "--bytes": ("8MiB",), "--algorithm": ("ring",), "--protocol": ("ll128",), "--all": (),
        "--overlay": ("hurt.yaml", ["coll", RACKS, "-n", "144", "-b", "64MiB"]),
        "--times": ("nccl",), "--routing": ("ecmp", ["coll", NODES, "-n", "1024", "-b", "64MiB"]),
    }),
    "net": (["permutation", RACKS], {
        "--endpoints": ("8",), "--per-domain": ("8",), "--bytes": ("1MiB",), "--routing": ("ecmp", ["net", "permutation", RACKS, "--endpoints", "64"]),
        "--seed": ("7", ["net", "permutation", RACKS, "--routing", "ecmp", "--endpoints", "64"]), "--protocol": ("ll",),
        "--channels": ("1", ["net", "permutation", RACKS, "--protocol", "ll"]), "--peers": ("2", ["net", "all-to-all", RACKS]),
        "--stages": ("4", ["net", "pipeline", RACKS]), "--microbatches": ("5", ["net", "pipeline", RACKS]),
        "--forward": ("2ms", ["net", "pipeline", RACKS]), "--packet": ("1KiB", ["net", "permutation", RACKS, "--header", "26B"]),
        "--header": ("26B",), "--store-and-forward": (), "--top": ("1",), "--dump-oracle": ("d.net",),
    }),
    "validate": ([str(ROOT / "tests/data/published/validation_cases.csv"), "--source", "mlperf_llm_summary.csv"], {
        "--tier": ("A",), "--source": ("megatron_sc21_table1.csv",), "--rows": (), "--markdown": (), "--bare": (),
    }),
}

# Lines that are refused without their option; with it something else is said.
NEEDED = {("schedule", "--table"), ("schedule", "--costs"), ("calibrate", "--from"), ("calibrate", "--program")}


def sf(folder, args):
    """What a line prints and writes, without the times of this machine; the folder is then as it was."""
    before = {p: p.read_bytes() for p in folder.iterdir()}
    r = subprocess.run([str(BUILD / "staticfire"), *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder)
    said = UNSTEADY.sub("", r.stdout.decode("utf-8", "replace"))
    for p in sorted(folder.rglob("*")):
        if p.is_file() and p.read_bytes() != before.get(p):
            said += f"\0{p.name} {hash(p.read_bytes())}"
    for p in folder.iterdir():
        if p not in before:
            shutil.rmtree(p) if p.is_dir() else p.unlink()
    for p, data in before.items():
        p.write_bytes(data)
    return r.returncode, said, r.stderr.decode("utf-8", "replace")


def prepare(folder):
    """What the lines work on: a plan, its program, two traces of it, a kernel table, another cluster, a schedule."""
    other = (ROOT / "scenarios/clusters/cpu-8.yaml").read_text().replace("name: cpu-8", "name: other")
    (folder / "other.yaml").write_text(other.replace("link: shm", "link: pcie4-x16"))
    scenario = pathlib.Path(TINY).read_text().replace("machine.yaml", CPU8).replace("../", f"{ROOT}/scenarios/")
    (folder / "job.yaml").write_text(scenario)
    (folder / "kernels.yaml").write_text(
        "kernels:\n  - { kind: gemm, dtype: f32, flags: [], dims: [3, 5, 7, 1], time: 1us, n: 30 }\n"
        "transport: { message_latency: 50us, message_rate: 1GB/s, dispatch: 9us }\n")
    (folder / "nccl.txt").write_text("# size count time\n1024 256 10\n1048576 262144 20\n1073741824 268435456 5000\n")
    (folder / "racks.yaml").write_text(
        f"name: racks\ncluster: {NODES}\nmodel: {ROOT}/scenarios/models/tiny-llama/config.json\n"
        "job: { seq_len: 64, global_batch: 1024, precision: bf16 }\nplan: { tp: 2, pp: 2, micro_batch: 1 }\n")
    (folder / "auto.yaml").write_text(
        f"name: auto\ncluster: {RACKS}\nmodel: {ROOT}/scenarios/models/llama-3.1-8b/config.json\n"
        "job: { seq_len: 4096, global_batch: 24, precision: bf16, gpus: 8 }\n"
        "plan: { tp: 1, cp: 1, pp: 8, micro_batch: 1, recompute: none, zero: 1, schedule: auto }\n")
    (folder / "long.yaml").write_text(
        f"name: long\ncluster: {ROOT}/scenarios/clusters/hgx-h100-1node.yaml\n"
        f"model: {ROOT}/scenarios/models/llama-3.1-8b/config.json\n"
        "job: { seq_len: 4096, global_batch: 64, precision: bf16, gpus: 8 }\nplan: { tp: 4, pp: 2, micro_batch: 1 }\n")
    (folder / "lost.yaml").write_text('dead: { gpus: ["0..7"] }\n')
    (folder / "hurt.yaml").write_text('degraded: [{ nics: ["3"], rate: 0.5 }]\n')
    (folder / "units.csv").write_text(
        "unit,count,devices,f,b,w,state,activation\nembedding,1,1,1ms,0ms,1ms,9MB,0B\nembedding,1,2,1ms,0ms,1ms,5MB,0B\n"
        "layer,8,1,4ms,4ms,4ms,5MB,8MB\nlayer,8,2,3ms,3ms,3ms,3MB,4MB\nhead,1,1,9ms,9ms,9ms,9MB,1MB\nhead,1,2,5ms,5ms,5ms,5MB,1MB\n")
    (folder / "stages.csv").write_text("f,b,w\n1ms,2ms,3ms\n3ms,2ms,1ms\n")
    (folder / "loss.jsonl").write_text('{"step": 1, "loss": 5.5}\n{"step": 2, "loss": 5.25}\n')
    for line in (["plan", "job.yaml", "-o", "plan.yaml"], ["compile", "plan.yaml"],
                 ["sim", "plan.yaml", "-t", "base.sftrace", "-f", "base.json"],
                 ["sim", "plan.yaml", "--slow", "gpu:0=0.5", "-t", "slow.sftrace"],
                 ["plan", "racks.yaml", "-o", "racks.plan.yaml"],
                 ["topo", "export", H100, "--format", "nccl", "-o", "node.xml"],
                 ["topo", "export", RACKS, "--format", "infragraph", "-o", "pods.yaml"],
                 ["schedule", "--kind", "zb-h1", *SCHEDULE, "--csv", "table.csv"]):
        r = subprocess.run([str(BUILD / "staticfire"), *line], capture_output=True, text=True, cwd=folder)
        if r.returncode:
            sys.exit(f"preparing with {line}: exit {r.returncode}: {r.stderr}")


def options_of(verb):
    text = subprocess.run([str(BUILD / "staticfire"), *verb.split(), "--help"], capture_output=True, text=True).stdout
    return re.findall(r"^\s+(?:-\w, )?(--[a-z-]+)", text.split("Options:")[1].split("Examples:")[0], re.M)


def verbs():
    text = subprocess.run([str(BUILD / "staticfire"), "--help"], capture_output=True, text=True).stdout
    return [v for v in re.findall(r"^  ([a-z]+) ", text, re.M) if v != "help"]


def walk(folder, verb):
    shared, lines = LINES[verb]
    plain = {}
    for option in options_of(verb):
        if option in ("--json", "--catalog", "--help"):
            continue
        if option not in lines:
            bad.append(f"{verb} {option} has no line in this test")
            continue
        line = lines[option]
        if line is None:
            continue  # on every line of this verb already
        values = [v for v in line if not isinstance(v, list) and v != ()]
        base = next((v for v in line if isinstance(v, list)), [*verb.split(), *shared])
        key = tuple(base)
        if key not in plain:
            plain[key] = sf(folder, base)
            if sf(folder, base)[:2] != plain[key][:2]:
                bad.append(f"{' '.join(base)}: two runs differ, so that no option can be seen to matter")
        changed = sf(folder, replace(base, option, values))
        refused = plain[key][0] not in (0, 5)
        if refused and (verb, option) not in NEEDED:
            bad.append(f"{' '.join(base)}: exit {plain[key][0]}: {plain[key][2]}")
        elif changed == plain[key] if refused else changed[:2] == plain[key][:2]:
            bad.append(f"{verb} {option} {' '.join(values)}: neither changes a result nor is refused ({' '.join(base)})")
    for option in lines:
        if option not in options_of(verb):
            bad.append(f"{verb} {option} is tested and not in --help")


def replace(base, option, values):
    """The line with this option; a value it already has gives way."""
    if option in base and values:
        at = base.index(option)
        return base[:at + 1] + values + base[at + 2:]
    return base + [option] + values


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        prepare(folder)
        for verb in verbs():
            if verb not in LINES:
                bad.append(f"{verb} has no lines in this test")
            else:
                for lines in (v for v in LINES if v.split()[0] == verb):
                    walk(folder, lines)
    for line in bad:
        print(line)
    sys.exit(1 if bad else 0)


main()

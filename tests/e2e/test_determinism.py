#!/usr/bin/env python3
"""Same input and seed, same bytes: gcc -O3, gcc -O0 and clang; twice with each. Programs, plans and simulated traces of
Grok-1 on 220,000 GPUs and of the small model are compared byte by byte. Skipped when the other builds are missing."""
import hashlib
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(sys.argv[1]).resolve()
SCENARIOS = [("scenarios/grok1-gb300-220k/scenario.yaml", []),
             ("scenarios/tiny-llama-cpu/scenario.yaml", ["--cluster", "scenarios/clusters/cpu-8.yaml"])]

others = [BUILD.parent / name for name in ("O0", "clang")]
missing = [str(p) for p in others if not (p / "staticfire").exists()]
if missing:
    print(f"skipped: not built: {', '.join(missing)}")
    sys.exit(77)


def outputs(build, scenario, cluster):
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        plan, prog, text = folder / "plan.yaml", folder / "p.sfprog", folder / "p.txt"
        commands = [["plan", scenario, "-o", plan], ["compile", plan, "-o", prog], ["prog", "dump", prog, "-o", text],
                    ["sim", plan, "--trace", folder / "folded.sftrace"],
                    ["sim", plan, "--unfolded", "--trace", folder / "unfolded.sftrace", "--trace-ranks", "64"]]
        for command in commands:
            where = cluster if command[0] in ("plan", "compile", "sim") else []
            result = subprocess.run([str(build / "staticfire"), *map(str, command), *where], cwd=ROOT, text=True,
                                    capture_output=True)
            if result.returncode:
                sys.exit(f"{build.name}: {' '.join(map(str, command))}: exit {result.returncode}\n{result.stderr}")
        return {p.name: hashlib.sha256(p.read_bytes().replace(name.encode(), b"")).hexdigest()
                for p in sorted(folder.iterdir())}


bad, files = [], 0
for scenario, cluster in SCENARIOS:
    want = outputs(BUILD, scenario, cluster)
    files += len(want)
    for build in [BUILD, *others]:
        got = outputs(build, scenario, cluster)
        bad += [f"{build.name}: {scenario}: {k} differs" for k in want if got.get(k) != want[k]]
print("\n".join(bad) or f"{files} files are byte-identical from gcc -O3 (twice), gcc -O0 and clang")
sys.exit(bool(bad))

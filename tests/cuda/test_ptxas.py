#!/usr/bin/env python3
"""Registers, shared memory and spills of every kernel, as ptxas reported them when it was built: test_ptxas.py BUILD.

Kernels spill nothing; the exceptions below are slow paths (rows that are not aligned) and have a limit each. A
kernel that streams must leave room for enough threads to hide memory latency."""
import collections
import pathlib
import re
import subprocess
import sys

ARCHS = {"sm_90a", "sm_100a", "sm_103a"}
# Bytes of spills allowed, by the first pattern that matches "KERNEL on ARCH".
SPILLS = [
    (r"^norm_bwd<bf16, 4, false, true> on sm_90a", 148),
    (r"^norm_bwd<bf16, 4, false, true> on ", 8),
]
# Registers per thread allowed: threads per multiprocessor are 65536 over that.
REGISTERS = [
    (r"^(add|copy|xent_stats|xent_part)_kernel<|^glu_|^bias_|^sumsq_|^embed_fwd<", 64),
    (r"^norm_fwd<\w+, 4, ", 128),
    (r"^adamw_kernel<|^rope_kernel<|^xent_kernel<|^norm_fwd<", 80),
    (r"", 255),
]
SHARED_BYTES = 48 * 1024

ENTRY = re.compile(r"Compiling entry function '([^']+)' for '([^']+)'")
SPILL = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")


def reports(build):
    """(symbol, arch, spilled bytes, registers, shared bytes) of every kernel."""
    for path in sorted(build.glob("**/*.ptxas")):
        entry, spilled = None, 0
        for line in path.read_text().splitlines():
            if match := ENTRY.search(line):
                entry = match.groups()
            elif match := SPILL.search(line):
                spilled = int(match[1]) + int(match[2])
            elif entry and (match := USED.search(line)):
                shared = SHARED.search(line)
                yield *entry, spilled, int(match[1]), int(shared[1]) if shared else 0
                entry = None


def readable(symbols):
    """Names with their template arguments, without the parameters."""
    text = subprocess.run(["c++filt", *symbols], capture_output=True, text=True, check=True).stdout
    names = [re.sub(r"^void ", "", line) for line in text.splitlines()]
    return {s: re.sub(r"\(.*$", "", n.replace("(anonymous namespace)::", "")) for s, n in zip(symbols, names)}


def limit(table, name):
    return next((value for pattern, value in table if re.search(pattern, name)), 0)


def main():
    build = pathlib.Path(sys.argv[1])
    parts = [list(reports(build / folder / "cuda")) for folder in ("kernels", "runtime")]
    found = sum(parts, [])
    if not found:
        print(f"no ptxas reports under {build}: the CUDA kernels were not built here")
        return 77
    if not all(parts):
        print(f"reports of {len(parts[0])} kernels and of {len(parts[1])} of the runtime under {build}: build both")
        return 1
    names = readable(sorted({f[0] for f in found}))
    table, bad = collections.defaultdict(dict), []
    for symbol, arch, spilled, registers, shared in found:
        name = names[symbol]
        table[name][arch] = (registers, spilled, shared)
        allowed = limit(SPILLS, f"{name} on {arch}")
        if spilled > allowed:
            bad.append(f"{name} on {arch} spills {spilled} bytes, at most {allowed}")
        if registers > limit(REGISTERS, name):
            bad.append(f"{name} on {arch} uses {registers} registers, at most {limit(REGISTERS, name)}")
        if shared > SHARED_BYTES:
            bad.append(f"{name} on {arch} has {shared} bytes of static shared memory, at most {SHARED_BYTES}")
    print(f"{'kernel':72} " + " ".join(f"{a:>16}" for a in sorted(ARCHS)) + "   registers/spilled/shared")
    for name, by_arch in sorted(table.items()):
        bad += [f"{name} was not built for {a}" for a in sorted(ARCHS - by_arch.keys())]
        print(f"{name:72} " + " ".join(f"{'/'.join(map(str, by_arch.get(a, ()))):>16}" for a in sorted(ARCHS)))
    print(f"{len(table)} kernels, {len(found)} builds, {len(bad)} complaints")
    print("\n".join(bad))
    return bool(bad)


sys.exit(main())

#!/usr/bin/env python3
"""Who may include whom: core <- topo <- sim <- planner <- cli, and core, topo, kernels <- runtime."""
import pathlib
import re
import sys

MAY = {
    "core": {"core"},
    "topo": {"core", "topo"},
    "kernels": {"core", "kernels"},
    "sim": {"core", "topo", "sim"},
    "planner": {"core", "topo", "sim", "planner"},
    "runtime": {"core", "topo", "kernels", "runtime"},
    "cli": {"core", "topo", "sim", "planner", "cli"},
}
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"')

bad = []
for folder, allowed in MAY.items():
    for path in sorted(pathlib.Path(folder).glob("**/*.[chu]*")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            match = INCLUDE.match(line)
            if match and match.group(1).split("/")[0] not in allowed:
                bad.append(f'{path}:{number}: {folder} must not include "{match.group(1)}"')
            elif match and not pathlib.Path(match.group(1)).exists():
                bad.append(f'{path}:{number}: include paths start at the repository root: "{match.group(1)}"')

# GSL is GPL: it must never meet the binary that links CUDA.
run = pathlib.Path(sys.argv[1]) / "staticfire-run"
if run.exists() and b"libgsl" in run.read_bytes():
    bad.append("staticfire-run links GSL")
print("\n".join(bad) or "include directions hold")
sys.exit(bool(bad))

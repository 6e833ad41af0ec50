#!/usr/bin/env python3
"""Shape of the code: lengths, banned calls, leftovers, format."""
import pathlib
import re
import shutil
import subprocess
import sys

FOLDERS = ["core", "topo", "sim", "planner", "kernels", "runtime", "cli", "tests"]
BANNED = {
    r"\b(atoi|atol|atof|strtok|sprintf|vsprintf|strcpy|strcat|gets|rand|srand)\s*\(": "unsafe or unseeded call",
    r"\btime\s*\(\s*NULL\s*\)": "wall clock in a result",
}
LEFTOVER = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
FUNCTION_MAX, FILE_MAX, LINE_MAX = 70, 800, 120
HEAP_ONLY_HOOKED = ["core", "topo", "sim", "planner"]
RAW_HEAP = re.compile(r"(?<![\w.>])(malloc|calloc|realloc|free)\s*\(")

bad = []
files = [p for f in FOLDERS for p in sorted(pathlib.Path(f).glob("**/*")) if p.suffix in (".c", ".h", ".cu")]
lengths = []
for path in files:
    lines = path.read_text().splitlines()
    if len(lines) > FILE_MAX:
        bad.append(f"{path}: {len(lines)} lines, at most {FILE_MAX}")
    start = None
    for number, line in enumerate(lines, 1):
        where = f"{path}:{number}"
        if len(line) > LINE_MAX:
            bad.append(f"{where}: {len(line)} columns, at most {LINE_MAX}")
        if LEFTOVER.search(line):
            bad.append(f"{where}: leftover: {line.strip()}")
        code = line.split("/*")[0].split("//")[0]
        for pattern, why in BANNED.items():
            if re.search(pattern, code):
                bad.append(f"{where}: {why}: {line.strip()}")
        if path.parts[0] in HEAP_ONLY_HOOKED and path.name != "arena.c" and RAW_HEAP.search(code):
            bad.append(f"{where}: heap outside the allocation hook: {line.strip()}")
        if path.suffix == ".c" and line.endswith("{") and re.match(r"^[a-zA-Z].*\)\s*\{$|^\s+.*\)\s*\{$", line):
            if re.match(r"^[a-zA-Z]", line) or start is None and number > 1 and re.match(r"^[a-zA-Z]", lines[number - 2]):
                start = number
        if line == "}" and start is not None:
            lengths.append(number - start + 1)
            if number - start + 1 > FUNCTION_MAX:
                bad.append(f"{path}:{start}: function of {number - start + 1} lines, at most {FUNCTION_MAX}")
            start = None

if shutil.which("clang-format"):
    run = subprocess.run(["clang-format", "--dry-run", "-Werror", *map(str, (p for p in files if p.suffix != ".cu"))],
                         capture_output=True, text=True)
    if run.returncode:
        names = sorted({line.split(":")[0] for line in run.stderr.splitlines() if "error:" in line})
        bad += [f"{name}: not formatted; run clang-format -i" for name in names]

lengths.sort()
print("\n".join(bad))
print(f"{len(files)} files, {len(lengths)} functions, median {lengths[len(lengths) // 2]} lines, "
      f"p90 {lengths[len(lengths) * 9 // 10]}, longest {lengths[-1]}")
sys.exit(bool(bad))

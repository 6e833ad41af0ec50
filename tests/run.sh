#!/usr/bin/env bash
# Every test there is, in four builds. Called by ./bootstrap test; ends with "N passed, N failed, N skipped".
#   release  gcc -O2: everything, the command line and the main job's parts included
#   clang    the same code by another compiler: unit and property tests
#   O0       gcc -O0: results must not depend on the optimiser (compared with release by e2e tests)
#   asan     address and undefined behaviour: unit and property tests, fuzz targets
#   tsan     data races: the runtime's tests (those of the CUDA module run no thread of ours)
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
jobs=$(nproc)
passed=0 failed=0 skipped=0

heading() { printf '\n== %s\n' "$*"; }

suite() { # preset, ctest arguments...
  local preset=$1; shift
  heading "$preset: ctest $*"
  ctest --test-dir "build/$preset" --output-on-failure --output-junit "junit.xml" -j "$jobs" "$@"
  local counts
  counts=$(python3 - "build/$preset/junit.xml" <<'PY'
import sys, xml.etree.ElementTree as tree
root = tree.parse(sys.argv[1]).getroot()
total, failed = int(root.get("tests")), int(root.get("failures"))
skipped = int(root.get("skipped", 0)) + int(root.get("disabled", 0))
print(total - failed - skipped, failed, skipped)
PY
  ) || counts="0 1 0"
  read -r p f s <<<"$counts"
  passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
}

build() { # preset
  heading "build $1"
  if ! { cmake --preset "$1" && cmake --build --preset "$1"; } >"build/$1.log" 2>&1; then
    grep -E 'error|FAILED' "build/$1.log" | head -n 20
    failed=$((failed + 1))
    return 1
  fi
}

# The numerical reference lives in its own Python environment; without it the tests that need it are skipped and say so.
if [ ! -x build/venv/bin/python ]; then
  heading "Python environment for the numerical reference"
  python3 -m venv build/venv && build/venv/bin/pip install --quiet --disable-pip-version-check -r tests/diff/requirements.txt \
    || echo "no reference: tests that need it will be skipped"
fi

# The GPU backend's checks that need no GPU: five minutes at most, all together.
host_checks_in_time() {
  heading "the GPU backend's checks on this host"
  if python3 - <<'PY'
import sys, xml.etree.ElementTree as tree
cases = tree.parse("build/release/junit.xml").getroot().iter("testcase")
seconds = sum(float(c.get("time")) for c in cases if c.get("name").startswith("cuda."))
print(f"{seconds:.0f} s, at most 300 s")
sys.exit(seconds > 300)
PY
  then passed=$((passed + 1)); else failed=$((failed + 1)); fi
}

build O0
build clang && suite clang -L 'unit|prop'
suite release
host_checks_in_time
build asan && suite asan -L 'unit|prop|diff|fuzz'
build tsan && suite tsan -R 'runtime' -LE cuda

printf '\n%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
[ "$failed" -eq 0 ]

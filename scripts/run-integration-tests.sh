#!/bin/sh
# Runs the agent without a VM, then every tests/integration/test_*.py, against the programs and images in place:
# scripts/run-integration-tests.sh BUILD STATE
# Each prints its own closing line; this one adds them up.
set -u
build=$(cd "$1" && pwd) state=$(cd "$2" && pwd)
root=$(cd "$(dirname "$0")/.." && pwd)
export MAYFLY_BUILD="$build" MAYFLY_STATE="$state"
passed=0 failed=0 skipped=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for suite in "$root"/tests/integration/agent_contained.py "$root"/tests/integration/test_*.py; do
    echo "== $(basename "$suite")"
    python3 "$suite" "$build/bin/mayfly-agent" 2>&1 | tee "$log"
    line=$(grep -E '^([A-Za-z_.-]+: )?[0-9]+ passed, [0-9]+ failed' "$log" | tail -n 1)
    set -- $(echo "$line" | grep -oE '[0-9]+')
    # A suite that died without its closing line has failed.
    passed=$((passed + ${1:-0})) failed=$((failed + ${2:-1})) skipped=$((skipped + ${3:-0}))
done
echo "integration: $passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]

#!/bin/sh
# Runs fuzz targets one after the other: scripts/run-fuzz.sh SECONDS PROGRAM...
# Corpora are kept in tests/fuzz/corpus/<target>; crashes in build/fuzz/crashes.
set -u
seconds=$1
shift
root=$(cd "$(dirname "$0")/.." && pwd)
crashes="$root/build/fuzz/crashes/"
mkdir -p "$crashes"
passed=0 failed=0
for program in "$@"; do
    name=$(basename "$program")
    found="$root/build/fuzz/corpus/$name" seeds="$root/tests/fuzz/corpus/$name"
    mkdir -p "$found"
    [ -d "$seeds" ] || seeds=
    if "$program" -max_total_time="$seconds" -artifact_prefix="$crashes$name-" -print_final_stats=1 \
        "$found" $seeds >"$found.log" 2>&1; then
        passed=$((passed + 1))
        echo "$name: $(sed -n 's/^stat::number_of_executed_units: *//p' "$found.log") runs, no crash"
    else
        failed=$((failed + 1))
        tail -40 "$found.log"
        echo "$name: CRASHED, input in $crashes"
    fi
done
echo "fuzz: $passed passed, $failed failed, 0 skipped"
[ "$failed" -eq 0 ]

#!/bin/sh
# Runs the unit-test programs given as arguments (cmocka, built with ASan and UBSan), and closes with
# one line for all of them. A program that fails prints all it said; one that passes, a line.
set -u
export ASAN_OPTIONS=detect_leaks=1:abort_on_error=0 UBSAN_OPTIONS=print_stacktrace=1
passed=0 failed=0 skipped=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for program in "$@"; do
    name=$(basename "$program")
    "$program" >"$log" 2>&1
    status=$?
    ok=$(grep -c '^\[       OK \]' "$log")
    bad=$(grep -c '^\[  FAILED  \] [a-z]' "$log")
    skip=$(grep -c '^\[  SKIPPED \] [a-z]' "$log")
    # A crash, a leak or an empty program is a failure even if no test of it failed.
    if [ $status -ne 0 ] && [ "$bad" -eq 0 ]; then bad=1; fi
    if [ $((ok + bad + skip)) -eq 0 ]; then bad=1; echo "no test ran" >>"$log"; fi
    [ $status -eq 0 ] && [ "$bad" -eq 0 ] || cat "$log"
    printf '%-32s %3d passed, %d failed, %d skipped\n' "$name" "$ok" "$bad" "$skip"
    passed=$((passed + ok)) failed=$((failed + bad)) skipped=$((skipped + skip))
done
echo "unit: $passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]

#!/bin/sh
# Every benchmark, a table each, JSON below build/bench: scripts/run-bench.sh BUILD STATE
set -eu
build=$1 state=$2
root=$(cd "$(dirname "$0")/.." && pwd)
out="$build/bench"
mkdir -p "$out"

echo "== image decompression against zstd -d -T0"
digest=$("$build/bin/mayfly" image inspect python3.11 --json --store "$state/images" |
    sed -n 's/.*"digest": *"\([0-9a-f]*\)".*/\1/p')
"$build/bin/bench_decompress" "$state/images/objects/sha256/$digest.mfi" "$out" \
    "$out/decompress.json"

echo "== cold boot"
python3 "$root/tests/bench/bench_boot.py" "$build" "$state" --json "$out/boot.json"

echo "== snapshot store"
"$build/bin/bench_snapshot_store" "$out" "$out/snapshot_store.json"

echo "== host store"
"$build/bin/bench_registry" "$out" "$out/registry.json"

echo "== restore"
# Guests of 2 GiB boot once, for their snapshot; COUNT rounds are enough for a p90.
"$build/bin/mayfly" bench restore --count "${COUNT:-50}" --alive "${ALIVE:-100}" \
    --state "$state" --json "$out/restore.json" --plot "$out/restore.svg"

echo "== invocations"
# Registries up to 10,000 functions are made for it, each function flushed: about a minute.
"$build/bin/mayfly" bench invoke --count "${COUNT:-50}" --burst "${BURST:-50}" \
    --state "$state" --json "$out/invoke.json" --plot "$out/invoke.svg"

echo "== jail and filters of system calls"
"$build/bin/bench_jail" "$state" "$build/bin/mayfly-vmm" 50 "$out/jail.json"

echo "== working set"
"$build/bin/bench_working_set" "$state" "$build/bin/mayfly-vmm" 20

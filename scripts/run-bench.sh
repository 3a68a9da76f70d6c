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
# Any function's snapshot will do; this makes one where there is none.
function=$(mktemp -d)
trap 'rm -rf "$function"' EXIT
printf 'def handler(event, context):\n    return event\n' >"$function/app.py"
"$build/bin/mayfly" run "$function" --handler app.handler --state "$state" >/dev/null 2>&1
"$build/bin/bench_restore" "$state" "$build/bin/mayfly-vmm" 50 "$out/restore.json"

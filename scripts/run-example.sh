#!/bin/sh
# `make run`: the word-count example on a real text, in a microVM: scripts/run-example.sh BUILD STATE
set -eu
build=$1 state=$2
root=$(cd "$(dirname "$0")/.." && pwd)
example="$build/examples/wordcount"

# A text of over 100 KB that every Debian has; the example ships it beside its code.
mkdir -p "$example"
cp "$root/examples/wordcount/app.py" "$example/"
for copy in 1 2 3; do
    cat /usr/share/common-licenses/GPL-3
done >"$example/text.txt"

run() {
    "$build/bin/mayfly" run "$example" --runtime python3.11 --handler app.handler \
        --event '{"path": "text.txt"}' --timeout 30 --state "$state" "$@"
}

echo "== from a cold boot" >&2
run --boot
# Made by the first run that asks for it: a boot, the interpreter, the function's init phase.
echo "== from its snapshot (made now, if this is the first time)" >&2
run --json >/dev/null
run

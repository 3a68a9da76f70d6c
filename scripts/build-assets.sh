#!/bin/sh
# Guest kernel and root images, into the image store: scripts/build-assets.sh BUILD STATE
# Each is made again only when one of its inputs changed.
set -eu
build=$1 state=$2
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
mayfly="$build/bin/mayfly"
stamp="$state/kernel-stamp"
mkdir -p "$state"

vmlinux=$("$here/build-kernel.sh" "$build/kernel")
# The path names the hash of all inputs, so the same path is the same kernel.
if [ "$(cat "$stamp" 2>/dev/null)" != "$vmlinux" ] ||
    ! "$mayfly" image inspect linux-6.12 --store "$state/images" >/dev/null 2>&1; then
    "$mayfly" image import "$vmlinux" --kind kernel --name linux-6.12 --store "$state/images"
    echo "$vmlinux" >"$stamp"
fi

for recipe in base python3.11 nodejs18.x; do
    "$mayfly" image build "$root/images/recipes/$recipe.yaml" --if-changed --source "$root" \
        --agent "$build/bin/mayfly-agent" --store "$state/images"
done

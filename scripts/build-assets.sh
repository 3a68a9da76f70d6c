#!/bin/sh
# Guest kernel and root images, into the image store: scripts/build-assets.sh BUILD STATE
# Each is made again only when one of its inputs changed.
set -eu
build=$1 state=$2
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
mayfly="$build/bin/mayfly"
stamps="$build/stamps"
mkdir -p "$stamps" "$state"

# unchanged NAME KEY - is the image there, made of the same inputs?
unchanged() {
    [ "$(cat "$stamps/$1" 2>/dev/null)" = "$2" ] &&
        "$mayfly" image inspect "$1" --store "$state/images" >/dev/null 2>&1
}

vmlinux=$("$here/build-kernel.sh" "$build/kernel")
if ! unchanged linux-6.12 "$vmlinux"; then
    "$mayfly" image import "$vmlinux" --kind kernel --name linux-6.12 --store "$state/images"
    echo "$vmlinux" >"$stamps/linux-6.12"
fi

for recipe in base python3.11; do
    key=$(cd "$root" && cat "$build/bin/mayfly-agent" "images/recipes/$recipe.yaml" images/builder.c \
        $(find guest-agent/runtimes -type f | sort) | sha256sum | cut -c1-16)
    if ! unchanged "$recipe" "$key"; then
        "$mayfly" image build "$root/images/recipes/$recipe.yaml" --name "$recipe" \
            --agent "$build/bin/mayfly-agent" --runtimes "$root/guest-agent/runtimes" \
            --store "$state/images"
        echo "$key" >"$stamps/$recipe"
    fi
done

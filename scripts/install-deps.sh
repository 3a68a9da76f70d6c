#!/bin/sh
# Installs what scripts/debian-packages.txt lists and is not installed yet. Called by `make deps`.
set -eu
list=$(dirname "$0")/debian-packages.txt
wanted=$(sed 's/#.*//' "$list" | tr -s ' \n' ' ')
missing=
for package in $wanted; do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ]; then
    echo "deps: missing packages:$missing" >&2
    echo "deps: run as root, or: sudo apt-get install$missing" >&2
    exit 1
fi
echo "deps: installing$missing" >&2
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# The lists are fresh, so no --fix-missing: a package that is gone must be noticed.
apt-get install -y -qq --no-install-recommends $missing >/dev/null

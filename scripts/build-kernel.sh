#!/bin/sh
# Builds the guest kernel from Debian's linux-source-6.12, images/kernel/*.config and its patches.
#   scripts/build-kernel.sh CACHE-DIRECTORY
# Prints the path of the stripped vmlinux. Nothing is built if the cache has one of the same inputs:
# source package, configuration, patches and compiler.
set -eu
mkdir -p "$1"
cache=$(cd "$1" && pwd)
# What `make test` was called with is not meant for the kernel's own make.
unset MAKEFLAGS MFLAGS MAKELEVEL CI V || true
here=$(cd "$(dirname "$0")" && pwd)
fragments="$here/../images/kernel"
tarball=/usr/src/linux-source-6.12.tar.xz
. "$here/progress.sh"

fail() {
    echo "build-kernel: $1" >&2
    exit 3
}
[ -r "$tarball" ] || fail "no $tarball: run 'make deps' (Debian package linux-source-6.12)"

key=$({
    dpkg-query -W -f '${Package} ${Version}\n' linux-source-6.12 gcc
    cat "$fragments"/*.config "$fragments"/patches/*.patch
    echo "steps 1" # to be raised when what this script does changes its output
} | sha256sum | cut -c1-16)
out="$cache/$key"
if [ -f "$out/vmlinux" ]; then
    echo "$out/vmlinux"
    exit 0
fi

work=$(mktemp -d "$cache/.build-XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
progress "guest kernel: unpacking the source"
tar -C "$work" -xf "$tarball"
source="$work/linux-source-6.12"

for patch in "$fragments"/patches/*.patch; do
    patch -s -d "$source" -p1 <"$patch" || fail "$(basename "$patch") does not apply"
done

cat "$fragments"/*.config >"$work/fragments"
export KBUILD_BUILD_USER=mayfly KBUILD_BUILD_HOST=mayfly KBUILD_BUILD_TIMESTAMP='2025-01-01'
progress "guest kernel: configuring"
KCONFIG_ALLCONFIG="$work/fragments" make -s -C "$source" O="$work/o" ARCH=x86_64 allnoconfig \
    >"$work/log" 2>&1 || { tail -20 "$work/log" >&2; fail "configuration failed"; }

# Kconfig drops in silence what it cannot grant: a fragment that is not honoured is an error.
while read -r line; do
    case $line in
    CONFIG_*=n) ! grep -q "^${line%=n}=" "$work/o/.config" || fail "not honoured: $line" ;;
    CONFIG_*) grep -qxF "$line" "$work/o/.config" || fail "not honoured: $line" ;;
    esac
done <"$work/fragments"

(make -C "$work/o" -j"$(nproc)" vmlinux 2>&1 || echo "build-kernel-failed") |
    while read -r line; do
        echo "$line" >>"$work/log"
        case $line in
        *build-kernel-failed) exit 1 ;;
        CC* | AS* | LD* | AR*)
            files=$((${files:-0} + 1))
            progress "guest kernel: $files files compiled (some 1,250 in all)"
            ;;
        esac
    done || { tail -20 "$work/log" >&2; fail "make failed"; }

mkdir "$work/out"
strip -s -o "$work/out/vmlinux" "$work/o/vmlinux"
cp "$work/o/.config" "$work/out/config"
cp "$work/o/System.map" "$work/out/System.map"
sync "$work/out/vmlinux"
mv -T "$work/out" "$out" 2>/dev/null || [ -f "$out/vmlinux" ] || fail "cannot write $out"
progress_done "guest kernel: built ($(du -h "$out/vmlinux" | cut -f1))"
echo "$out/vmlinux"

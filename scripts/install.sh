#!/bin/sh
# Installs what BUILD/bin has, or removes it: scripts/install.sh install|uninstall BUILD
# From the environment: DESTDIR, PREFIX, SYSCONFDIR, STATEDIR, UNITDIR (see the Makefile).
# The programs find each other beside themselves: they are together in libexec, with links to them.
set -eu
what=$1 build=$2
root=$(cd "$(dirname "$0")/.." && pwd)
here="$root/scripts/install"
prefix="$DESTDIR$PREFIX" config="$DESTDIR$SYSCONFDIR" unit="$DESTDIR$UNITDIR/mayflyd.service"
programs="mayfly mayflyd mayfly-vmm mayfly-agent"
completion="$prefix/share/bash-completion/completions/mayfly"

install_all() {
    install -d "$prefix/bin" "$prefix/sbin" "$prefix/libexec/mayfly" "$prefix/share/doc/mayfly" \
        "$(dirname "$completion")" "$(dirname "$unit")"
    install -d -m 0755 "$config"
    install -d -m 0711 "$DESTDIR$STATEDIR"
    for program in $programs; do
        install -m 0755 "$build/bin/$program" "$prefix/libexec/mayfly/$program"
    done
    ln -sfn ../libexec/mayfly/mayfly "$prefix/bin/mayfly"
    ln -sfn ../libexec/mayfly/mayflyd "$prefix/sbin/mayflyd"
    install -m 0644 "$root/README.md" "$root/LICENSE" "$prefix/share/doc/mayfly/"
    "$build/bin/mayfly" completion bash >"$completion"
    chmod 0644 "$completion"
    sed -e "s#@PREFIX@#$PREFIX#g" -e "s#@SYSCONFDIR@#$SYSCONFDIR#g" -e "s#@STATEDIR@#$STATEDIR#g" \
        "$here/mayflyd.service" >"$unit"
    chmod 0644 "$unit"
    # An administrator's own stays.
    [ -e "$config/mayflyd.yaml" ] || install -m 0600 "$here/mayflyd.yaml" "$config/mayflyd.yaml"
    cat <<END
installed: $prefix/bin/mayfly, $prefix/sbin/mayflyd, $unit, $config/mayflyd.yaml
next:      make install-assets                      # guest kernel and root images into $STATEDIR
           systemctl daemon-reload && systemctl enable --now mayflyd
           mayfly deploy --help
END
}

uninstall_all() {
    for program in $programs; do
        rm -f "$prefix/libexec/mayfly/$program"
    done
    rm -f "$prefix/bin/mayfly" "$prefix/sbin/mayflyd" "$completion" "$unit"
    rm -f "$prefix/share/doc/mayfly/README.md" "$prefix/share/doc/mayfly/LICENSE"
    rmdir "$prefix/libexec/mayfly" "$prefix/share/doc/mayfly" 2>/dev/null || true
    echo "uninstalled; $config and $DESTDIR$STATEDIR are as they were"
}

case $what in
install) install_all ;;
uninstall) uninstall_all ;;
*) echo "install.sh: install or uninstall?" >&2; exit 2 ;;
esac

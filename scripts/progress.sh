# Progress lines on stderr with the elapsed time: one line rewritten on a terminal, one line every
# ten seconds elsewhere. Sourced; not run.

progress_began=$(date +%s)
progress_last=0
if [ -t 2 ]; then progress_tty=1; else progress_tty=0; fi

# progress TEXT - what is being done now.
progress() {
    progress_now=$(date +%s)
    progress_elapsed=$((progress_now - progress_began))
    if [ "$progress_tty" = 1 ]; then
        printf '\r\033[K%4ds  %s' "$progress_elapsed" "$1" >&2
    elif [ $((progress_now - progress_last)) -ge 10 ]; then
        progress_last=$progress_now
        printf '%4ds  %s\n' "$progress_elapsed" "$1" >&2
    fi
}

# progress_done TEXT - the last line of a step; stays.
progress_done() {
    progress_elapsed=$(($(date +%s) - progress_began))
    [ "$progress_tty" = 1 ] && printf '\r\033[K' >&2
    printf '%4ds  %s\n' "$progress_elapsed" "$1" >&2
}

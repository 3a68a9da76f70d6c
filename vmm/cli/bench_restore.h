/* `mayfly bench restore`. */
#ifndef MAYFLY_CLI_BENCH_RESTORE_H
#define MAYFLY_CLI_BENCH_RESTORE_H

/* bench_restore - argv[0] is "restore". Returns the exit status. */
int bench_restore(int argc, char **argv);

#endif

/* `mayfly bench invoke`. */
#ifndef MAYFLY_CLI_BENCH_INVOKE_H
#define MAYFLY_CLI_BENCH_INVOKE_H

/* bench_invoke - argv[0] is "invoke". Returns the exit status. */
int bench_invoke(int argc, char **argv);

#endif

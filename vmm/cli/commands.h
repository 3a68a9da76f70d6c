/* The commands of `mayfly`: each takes its own argv (argv[0] is its name), returns the exit status
 * (cli_common.h). */
#ifndef MAYFLY_CLI_COMMANDS_H
#define MAYFLY_CLI_COMMANDS_H

int cmd_run(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
int cmd_snapshot(int argc, char **argv);
int cmd_bench(int argc, char **argv);

#endif

/* `mayfly image`: root images and kernels of this host. */
#ifndef MAYFLY_CLI_CMD_IMAGE_H
#define MAYFLY_CLI_CMD_IMAGE_H

/* cmd_image - @argv[0] is "image". Returns the exit status: 0, 2 wrong usage, 3 failure. */
int cmd_image(int argc, char **argv);

#endif

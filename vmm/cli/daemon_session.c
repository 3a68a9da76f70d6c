/* Finding the daemon, and failing: see daemon_session.h. Process: the CLI. */
#include "daemon_session.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli_common.h"

static const char *variable(const char *name)
{
    const char *value = getenv(name);

    return value && *value ? value : NULL;
}

/* As the AWS tools find it. */
static const char *region(void)
{
    const char *name = variable("AWS_REGION");

    if (!name)
        name = variable("AWS_DEFAULT_REGION");
    return name ? name : "us-east-1";
}

int daemon_session_open(const char *command, const struct daemon_options *options,
                        struct daemon_session *session)
{
    char socket[PATH_MAX];
    struct error err;

    *session = (struct daemon_session){.command = command,
                                       .state = cli_state_directory(options->state),
                                       .interrupt_fd = cli_catch_interrupts(NULL)};
    struct api_client_options client = {.endpoint = options->endpoint,
                                        .socket = socket,
                                        .state = session->state,
                                        .tenant = options->tenant,
                                        .key_id = variable("AWS_ACCESS_KEY_ID"),
                                        .secret = variable("AWS_SECRET_ACCESS_KEY"),
                                        .region = region(),
                                        .interrupt_fd = session->interrupt_fd};

    if (session->interrupt_fd < 0) {
        cli_complain(command, "catch interrupts: %s", strerror(-session->interrupt_fd));
        return CLI_HOST_ERROR;
    }
    /* What is said on the command line goes before what is in the environment. */
    if (!client.endpoint && !options->state)
        client.endpoint = variable("MAYFLY_ENDPOINT");
    if (client.endpoint && options->state)
        return cli_usage(command, "--state or --endpoint, not both");
    if (client.endpoint && options->tenant)
        return cli_usage(command, "--tenant is for the socket: at an endpoint, the key says it");
    if (client.key_id && !client.secret)
        client.key_id = NULL;
    snprintf(socket, sizeof(socket), "%s/mayflyd.sock", session->state);
    if (strlen(socket) >= 108 && !client.endpoint)
        return cli_usage(command,
                         "'%s' is too long a path for a socket: go there first, and give "
                         "--state .",
                         socket);
    if (api_client_new(&client, &session->client, &err) == 0)
        return -1;
    return daemon_session_fail(session, &err);
}

void daemon_session_done(struct daemon_session *session)
{
    api_client_free(session->client);
    session->client = NULL;
}

int daemon_session_fail(const struct daemon_session *session, const struct error *err)
{
    cli_complain(session->command, "%s", err->text);
    switch (err->code) {
    case EINTR:
        return CLI_INTERRUPTED;
    case EINVAL:
    case ENOENT:
    case E2BIG:
    case EFBIG:
    case ENAMETOOLONG:
    case ENOTDIR:
    case EISDIR:
        return CLI_USAGE;
    default:
        return CLI_HOST_ERROR;
    }
}

void daemon_split_name(char *name, const char **ret_qualifier)
{
    char *colon = strncmp(name, "arn:", 4) == 0 ? NULL : strchr(name, ':');

    *ret_qualifier = NULL;
    if (!colon)
        return;
    *colon = '\0';
    *ret_qualifier = colon + 1;
}

int daemon_flush(const struct daemon_session *session)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return CLI_OK;
    cli_complain(session->command, "the result could not be written: %s", strerror(errno));
    return CLI_HOST_ERROR;
}

const char *json_text(const json_t *object, const char *member)
{
    const char *text = json_string_value(json_object_get(object, member));

    return text ? text : "";
}

json_int_t json_whole(const json_t *object, const char *member)
{
    return json_integer_value(json_object_get(object, member));
}

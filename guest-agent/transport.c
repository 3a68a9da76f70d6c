/*
 * The choice of a transport. Process: mayfly-agent. The host is the only peer there can be: vsock
 * of a virtio device ends in the monitor, a virtio-serial port in QEMU.
 */
#include "guest-agent/transport.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#define SERIAL_NAME "mayfly.agent"
#define SYSFS_DIR "/dev/.sys"

static int connect_socket(const struct sockaddr *address, socklen_t address_len)
{
    int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int code;

    if (fd < 0)
        return -errno;
    if (connect(fd, address, address_len) == 0)
        return fd;
    code = errno;
    close(fd);
    return -code;
}

static int connect_unix(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    if (strlen(path) >= sizeof(address.sun_path))
        return -ENAMETOOLONG;
    memcpy(address.sun_path, path, strlen(path));
    return connect_socket((const struct sockaddr *)&address, sizeof(address));
}

/* A host that is not listening yet resets or does not answer: worth another try or two. */
static int connect_vsock(void)
{
    struct sockaddr_vm address = {
        .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = AGENT_PORT};
    int fd = -ENODEV;

    for (int attempt = 0; attempt < 3; attempt++) {
        if (attempt > 0)
            usleep(100000);
        fd = connect_socket((const struct sockaddr *)&address, sizeof(address));
        if (fd != -ECONNRESET && fd != -ECONNREFUSED && fd != -ETIMEDOUT)
            break;
    }
    return fd;
}

static bool port_has_name(int class_fd, const char *port, const char *wanted)
{
    char path[320];
    char name[64];
    ssize_t len;
    int fd;

    snprintf(path, sizeof(path), "%s/name", port);
    fd = openat(class_fd, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    len = read(fd, name, sizeof(name) - 1);
    close(fd);
    if (len <= 0)
        return false;
    name[len] = '\0';
    name[strcspn(name, "\n")] = '\0';
    return strcmp(name, wanted) == 0;
}

static int open_named_port(const char *class_dir)
{
    DIR *ports = opendir(class_dir);
    struct dirent *entry;
    int fd = -ENODEV;

    if (!ports)
        return -errno;
    while (fd == -ENODEV && (entry = readdir(ports)) != NULL) {
        char path[320];

        if (entry->d_name[0] == '.' || !port_has_name(dirfd(ports), entry->d_name, SERIAL_NAME))
            continue;
        snprintf(path, sizeof(path), "/dev/%s", entry->d_name);
        fd = open(path, O_RDWR | O_CLOEXEC | O_NOCTTY);
        if (fd < 0)
            fd = -errno;
    }
    closedir(ports);
    return fd;
}

/* There is no udev here to make /dev/virtio-ports/: the names are in sysfs, which is mounted for as
 * long as it takes. The first write to the port waits until somebody holds its other end. */
static int open_serial(void)
{
    int fd = open("/dev/virtio-ports/" SERIAL_NAME, O_RDWR | O_CLOEXEC | O_NOCTTY);

    if (fd >= 0)
        return fd;
    if (mkdir(SYSFS_DIR, 0700) < 0)
        return -errno;
    fd = -ENODEV;
    if (mount("sysfs", SYSFS_DIR, "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) == 0) {
        fd = open_named_port(SYSFS_DIR "/class/virtio-ports");
        umount2(SYSFS_DIR, MNT_DETACH);
    }
    rmdir(SYSFS_DIR);
    return fd;
}

int agent_transport_connect(const char *unix_path, struct failure *failure)
{
    int vsock;
    int serial;

    if (unix_path) {
        int fd = connect_unix(unix_path);

        return fd >= 0 ? fd : failure_set(failure, -fd, "connect to '%s'", unix_path);
    }
    vsock = connect_vsock();
    if (vsock >= 0)
        return vsock;
    serial = open_serial();
    if (serial >= 0)
        return serial;
    return failure_set(failure, -vsock,
                       "no way to the host: no virtio-serial port '%s', and vsock port %d",
                       SERIAL_NAME, AGENT_PORT);
}

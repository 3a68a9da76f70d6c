/* Drawing by gnuplot: see bench_plot.h. Process: the CLI. */
#include "bench_plot.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "common/bytes.h"
#include "common/fd.h"
#include "common/text.h"

extern char **environ;

/* What is drawn, in both panels. */
static const struct curve {
    const char *series, *title, *colour;
} curves[] = {
    {"plain.first_exit", "plain: first exit", "#888888"},
    {"no_shell.restored", "no shell: restored", "#e69f00"},
    {"shell.restored", "shell: restored", "#009e73"},
    {"shell.first_exit", "shell: first exit", "#0072b2"},
    {"shell.first_result", "shell: first result", "#cc79a7"},
};

/* --- the script ------------------------------------------------------------------------------ */

void bench_plot_distribution(FILE *to, size_t number, const struct bench_series *series)
{
    fprintf(to, "$d%zu << END\n", number);
    if (series)
        fprintf(to, "%.4f 0\n", series->values[0] / 1e3);
    for (size_t i = 0; series && i < series->n; i++)
        fprintf(to, "%.4f %.5f\n", series->values[i] / 1e3, (double)(i + 1) / (double)series->n);
    fputs("END\n", to);
}

/* Blocks $m0…: memory size, p50 and p99 in ms. */
static void write_sizes(FILE *to, const struct bench_figures *figures, const uint32_t *memory_mib,
                        size_t n_memory)
{
    for (size_t c = 0; c < ARRAY_LEN(curves); c++) {
        fprintf(to, "$m%zu << END\n", c);
        for (size_t i = 0; i < n_memory; i++)
            if (bench_figures_find(figures, curves[c].series, memory_mib[i]))
                fprintf(to, "%u %.4f %.4f\n", memory_mib[i],
                        bench_figures_at(figures, curves[c].series, memory_mib[i], 50) / 1e3,
                        bench_figures_at(figures, curves[c].series, memory_mib[i], 99) / 1e3);
        fputs("END\n", to);
    }
}

/* gnuplot refuses to plot an empty block: curves without samples are left out. */
static void write_curves(FILE *to, const struct bench_figures *figures, uint32_t mib,
                         const char *format)
{
    const char *lead = "plot ";

    for (size_t c = 0; c < ARRAY_LEN(curves); c++) {
        if (!bench_figures_find(figures, curves[c].series, mib))
            continue;
        fputs(lead, to);
        fprintf(to,
                format[0] == 'd' ? "$d%zu using 1:2 with steps"
                                 : "$m%zu using 1:2:2:3 with "
                                   "yerrorlines pt 7 ps 0.5",
                c);
        fprintf(to, " lw 2 lc rgb '%s' title '%s'", curves[c].colour, curves[c].title);
        lead = ", \\\n     ";
    }
    fputc('\n', to);
}

void bench_plot_script(FILE *to, const struct bench_figures *figures, const uint32_t *memory_mib,
                       size_t n_memory)
{
    for (size_t c = 0; c < ARRAY_LEN(curves); c++)
        bench_plot_distribution(to, c,
                                bench_figures_find(figures, curves[c].series, memory_mib[0]));
    write_sizes(to, figures, memory_mib, n_memory);
    fprintf(to,
            "set terminal svg size 1200,520 dynamic background '#ffffff' font 'sans-serif,13'\n"
            "set multiplot layout 1,2\n"
            "set grid lc rgb '#dddddd'\n"
            "set border 3\n"
            "set tics nomirror\n"
            "set format y '%%g'\n"
            "set key outside below center horizontal\n"
            "set logscale x\n"
            "set title 'Starts from a snapshot, guests of %u MiB'\n"
            "set xlabel 'latency, ms' offset 0,0.7\n"
            "set ylabel 'share of starts'\n"
            "set yrange [0:1]\n"
            "set ytics 0,0.25,1\n",
            memory_mib[0]);
    write_curves(to, figures, memory_mib[0], "d");
    fputs("set title 'Latency and memory size: p50, bars to p99'\n"
          "set xlabel 'guest memory, MiB' offset 0,0.7\n"
          "set ylabel 'latency, ms'\n"
          "set yrange [*:*]\n"
          "set ytics auto\n"
          "set logscale y\n",
          to);
    fprintf(to, "set xrange [%.0f:%.0f]\nset xtics (", memory_mib[0] * 0.8,
            memory_mib[n_memory - 1] * 1.25);
    for (size_t i = 0; i < n_memory; i++)
        fprintf(to, "%s%u", i ? ", " : "", memory_mib[i]);
    fputs(")\n", to);
    write_curves(to, figures, memory_mib[0], "m");
    fputs("unset multiplot\n", to);
}

/* --- gnuplot --------------------------------------------------------------------------------- */

/* What gnuplot said, as one line. */
static void last_words(int fd, char *to, size_t size)
{
    char bytes[400];
    ssize_t n = pread(fd, bytes, sizeof(bytes), 0);

    for (ssize_t i = 0; i < n; i++)
        if (bytes[i] == '\n' || bytes[i] == '\t')
            bytes[i] = ' ';
    text_clean(to, size, bytes, n > 0 ? (size_t)n : 0);
}

static int missing(struct error *err)
{
    return error_say(err, ENOENT,
                     "there is no gnuplot, which --plot needs: apt-get install "
                     "gnuplot-nox, or leave --plot out");
}

static int spawn(int in, int out, int errors, pid_t *ret_pid)
{
    static char name[] = "gnuplot";
    char *const argv[] = {name, NULL};
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attributes;
    sigset_t defaults;

    sigemptyset(&defaults);
    sigaddset(&defaults, SIGPIPE); /* ignored here, and that would be inherited */
    sigaddset(&defaults, SIGXFSZ);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setsigdefault(&attributes, &defaults);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_adddup2(&files, in, STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&files, out, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&files, errors, STDERR_FILENO);
    int r = posix_spawnp(ret_pid, name, &files, &attributes, argv, environ);
    posix_spawn_file_actions_destroy(&files);
    posix_spawnattr_destroy(&attributes);
    return -r;
}

/* Runs gnuplot over the script in @in, a file at its beginning. */
static int run_gnuplot(int in, int out, struct error *err)
{
    char words[300];
    AUTO_FD errors = memfd_create("gnuplot-errors", MFD_CLOEXEC);
    int status;
    pid_t pid;

    if (errors < 0)
        return error_set(err, errno, "run gnuplot");
    int r = spawn(in, out, errors, &pid);
    if (r == -ENOENT)
        return missing(err);
    if (r < 0)
        return error_set(err, -r, "run gnuplot");
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return error_set(err, errno, "wait for gnuplot");
    last_words(errors, words, sizeof(words));
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return error_say(err, EIO, "gnuplot failed: %s", words[0] ? words : "it does not say why");
    return 0;
}

int bench_plot_check(struct error *err)
{
    AUTO_FD nothing = open("/dev/null", O_RDWR | O_CLOEXEC);

    return nothing < 0 ? error_set(err, errno, "open /dev/null")
                       : run_gnuplot(nothing, nothing, err);
}

/* The script in a file without a name: a pipe could fill up while gnuplot's output waits. */
static int script_file(bench_plot_writer *write, const void *opaque, struct error *err)
{
    AUTO_FREE char *script = NULL;
    size_t len = 0;
    FILE *stream = open_memstream(&script, &len);

    if (!stream)
        return error_set(err, ENOMEM, "write the plot's script");
    write(stream, opaque);
    if (fclose(stream) != 0)
        return error_set(err, ENOMEM, "write the plot's script");
    AUTO_FD fd = memfd_create("gnuplot-script", MFD_CLOEXEC);
    int r = fd < 0 ? -errno : fd_write_all(fd, script, len);
    if (r == 0 && lseek(fd, 0, SEEK_SET) < 0)
        r = -errno;
    return r < 0 ? error_set(err, -r, "write the plot's script") : fd_steal(&fd);
}

int bench_plot_render(const char *path, bench_plot_writer *write, const void *opaque,
                      struct error *err)
{
    char temporary[PATH_MAX];
    AUTO_FD in = script_file(write, opaque, err);

    if (in < 0)
        return in;
    if (snprintf(temporary, sizeof(temporary), "%s.%d.tmp", path, (int)getpid()) >= PATH_MAX)
        return error_say(err, ENAMETOOLONG, "the plot's path is too long");
    AUTO_FD out = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (out < 0)
        return error_set(err, errno, "write the plot '%s'", temporary);
    int r = run_gnuplot(in, out, err);
    if (r == 0 && rename(temporary, path) < 0)
        r = error_set(err, errno, "write the plot '%s'", path);
    if (r < 0)
        unlink(temporary);
    return r;
}

struct drawing {
    const struct bench_figures *figures;
    const uint32_t *memory_mib;
    size_t n_memory;
};

static void write_drawing(FILE *to, const void *opaque)
{
    const struct drawing *drawing = opaque;

    bench_plot_script(to, drawing->figures, drawing->memory_mib, drawing->n_memory);
}

int bench_plot_draw(const char *path, const struct bench_figures *figures,
                    const uint32_t *memory_mib, size_t n_memory, struct error *err)
{
    const struct drawing drawing = {figures, memory_mib, n_memory};

    return bench_plot_render(path, write_drawing, &drawing, err);
}

/* PID 1 of the serving images: starts one program, hands it the signals, reaps what it leaves behind, and ends as it ends.
 *
 * Upstream's server has no SIGTERM handler, and the kernel drops a signal without a handler for PID 1. So as PID 1 it
 * sits out the whole grace period of `docker stop` (tensorflow/serving#1853), even when it was started by `exec`. As
 * the child of this program it dies at once, and the container ends with 143 (128 + SIGTERM).
 *
 * Written here because the base images do not all have a package for it (Ubuntu 16.04 has no tini).
 * Build: cc -std=c99 -static -O2 -Wall -Wextra -Werror -s -o tf_serving_init init.c   (gcc 5 to 14)
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

enum { EXIT_USAGE = 64, EXIT_NO_FORK = 71, EXIT_CANNOT_RUN = 126, EXIT_NOT_FOUND = 127, EXIT_BY_SIGNAL = 128 };

/* Blocks every signal that someone may send, to fetch them one by one. A fault of our own must still end us. */
static void block_signals(sigset_t *waited)
{
    static const int faults[] = {SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP};

    sigfillset(waited);
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++)
        sigdelset(waited, faults[i]);
    sigprocmask(SIG_SETMASK, waited, NULL);
    /* Inherited as ignored, SIGCHLD would make the kernel throw the child's exit code away. */
    signal(SIGCHLD, SIG_DFL);
}

/* In the child: becomes the program. Signals that came since the fork are still pending and reach the program. */
static void become(char **command, int owns_terminal)
{
    sigset_t none;

    if (owns_terminal) {
        /* A group of its own in the foreground: Ctrl-C reaches the program once, from the terminal, not again from us.
         * SIGTTOU is blocked here, so that the terminal may be handed over from the background. */
        setpgid(0, 0);
        tcsetpgrp(STDIN_FILENO, getpid());
    }
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execvp(command[0], command);

    int error = errno;
    fprintf(stderr, "tf_serving_init: cannot run %s: %s\n", command[0], strerror(error));
    _exit(error == ENOENT ? EXIT_NOT_FOUND : EXIT_CANNOT_RUN);
}

/* Reaps all that have ended: the program, and orphans that came to us. Returns whether the program is among them. */
static int reap(pid_t program, int *status)
{
    int ended = 0, any;
    pid_t pid;

    while ((pid = waitpid(-1, &any, WNOHANG)) > 0) {
        if (pid == program) {
            *status = any;
            ended = 1;
        }
    }
    return ended;
}

int main(int argc, char **argv)
{
    sigset_t waited;
    int status = 0;

    if (argc < 2) {
        fputs("usage: tf_serving_init PROGRAM [ARGUMENT...]\n", stderr);
        return EXIT_USAGE;
    }
    /* Under another init (docker run --init) orphans would pass us by, unless we ask for them. */
    if (getpid() != 1 && prctl(PR_SET_CHILD_SUBREAPER, 1UL, 0UL, 0UL, 0UL) != 0)
        perror("tf_serving_init: orphans are left to the parent process");

    block_signals(&waited);
    int owns_terminal = tcgetpgrp(STDIN_FILENO) == getpgrp();
    pid_t program = fork();
    if (program < 0) {
        perror("tf_serving_init: cannot start a process");
        return EXIT_NO_FORK;
    }
    if (program == 0)
        become(argv + 1, owns_terminal);

    for (int ended = 0; !ended;) {
        int received = sigwaitinfo(&waited, NULL);
        if (received == SIGCHLD)
            ended = reap(program, &status);
        else if (received > 0)
            kill(program, received);
    }
    if (owns_terminal)
        tcsetpgrp(STDIN_FILENO, getpgrp());
    return WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_BY_SIGNAL + WTERMSIG(status);
}

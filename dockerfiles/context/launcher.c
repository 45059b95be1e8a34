/* /usr/bin/tensorflow_model_server: does what must hold however the server is started, and becomes the server.
 *
 * A CPU that lacks what the image needs ends it with exit code 78 and a sentence. Of an image with a server for each of several
 * CPU levels it starts the highest that the CPU has. As PID 1 it becomes tf_serving_init, which
 * starts the server and passes signals on to it; otherwise it becomes the server, without another process.
 * Called tf_serving_health, it is the health check.
 *
 * Build: cc -std=c99 -static -O2 -Wall -Wextra -Werror -s -o tensorflow_model_server launcher*.c   (gcc 5 to 12)
 */
#define _POSIX_C_SOURCE 200809L

#include "launcher.h"

#ifdef __x86_64__
#include <cpuid.h>
#endif
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define FOLDER ROOT "/usr/lib/serving-factory/"
#define SERVER FOLDER "tensorflow_model_server"
#define CHOICE "TF_SERVING_CPU_LEVEL"
#define INIT ROOT "/usr/bin/tf_serving_init"
#define HEALTH_CHECK "tf_serving_health"

enum { EXIT_NO_LEVEL = 64, EXIT_NO_MEMORY = 71, EXIT_CPU = 78, EXIT_CANNOT_RUN = 126, EXIT_NOT_FOUND = 127 };

void say(const char *format, ...)
{
    va_list values;

    fputs("tensorflow_model_server: ", stderr);
    va_start(values, format);
    vfprintf(stderr, format, values);
    va_end(values);
    fputc('\n', stderr);
}

ssize_t read_file(const char *path, char *text, size_t size)
{
    size_t length = 0;
    ssize_t got = -1;
    int file = open(path, O_RDONLY | O_CLOEXEC);

    text[0] = '\0';
    if (file < 0)
        return -1;
    while (length < size - 1 && (got = read(file, text + length, size - 1 - length)) > 0)
        length += (size_t)got;
    close(file);
    text[length] = '\0';
    return got < 0 ? -1 : (ssize_t)length;
}

/* Ends the line at its newline; gives the next one, or NULL after the last. */
static char *end_line(char *line)
{
    char *end = strchr(line, '\n');

    if (end == NULL)
        return NULL;
    *end = '\0';
    return end + 1;
}

/* --- the image -------------------------------------------------------------------------------------------------------- */

#define FACT(name, field) {name, offsetof(struct facts, field), sizeof((struct facts *)NULL)->field}

void read_facts(struct facts *facts)
{
    static const struct {
        const char *name;
        size_t place, size;
    } known[] = {
        FACT("FLAVOUR=", flavour),           FACT("LEVEL=", level.name),          FACT("CPU_FLAGS=", level.cpu_flags),
        FACT("LOWER_IMAGE=", lower_image),   FACT("CUDA=", cuda),                 FACT("DRIVER=", driver),
        FACT("CAPABILITIES=", capabilities), FACT("MODEL_STATUS=", model_status), FACT("LEVEL_1=", higher[0].name),
        FACT("CPU_FLAGS_1=", higher[0].cpu_flags), FACT("LEVEL_2=", higher[1].name),
        FACT("CPU_FLAGS_2=", higher[1].cpu_flags), FACT("LEVEL_3=", higher[2].name),
        FACT("CPU_FLAGS_3=", higher[2].cpu_flags), FACT("LEVEL_4=", higher[3].name),
        FACT("CPU_FLAGS_4=", higher[3].cpu_flags),
    };
    static char text[16384];

    memset(facts, 0, sizeof *facts);
    read_file(ROOT "/usr/share/serving-factory/image.env", text, sizeof text);
    for (char *line = text, *next; line != NULL; line = next) {
        next = end_line(line);
        for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
            size_t name = strlen(known[i].name);
            if (strncmp(line, known[i].name, name) != 0)
                continue;
            char *value = line + name + (line[name] == '"');
            value[strcspn(value, "\"")] = '\0';
            snprintf((char *)facts + known[i].place, known[i].size, "%s", value);
        }
    }
}

/* --- the CPU ---------------------------------------------------------------------------------------------------------- */

/* The value of the first line `NAME : VALUE` of /proc/cpuinfo, ended where the line ends; NULL where there is none. */
static char *cpuinfo_value(char *text, const char *name)
{
    size_t length = strlen(name);

    for (char *line = text; line != NULL; line = strchr(line, '\n')) {
        line += *line == '\n';
        char *mark = line + length;
        if (strncmp(line, name, length) != 0)
            continue;
        mark += strspn(mark, " \t");
        if (*mark == ':')
            return mark + 1 + strspn(mark + 1, " \t");
    }
    return NULL;
}

static int has_word(const char *words, const char *word, size_t length)
{
    for (words += strspn(words, " "); *words != '\0'; words += strspn(words, " ")) {
        size_t here = strcspn(words, " ");
        if (here == length && strncmp(words, word, length) == 0)
            return 1;
        words += here;
    }
    return 0;
}

/* Whether the CPU itself has a flag. An emulated one may have fewer than /proc/cpuinfo, which is the host's, lists. */
static int cpu_has(const char *flag, size_t length)
{
#ifdef __x86_64__
    enum { EAX, EBX, ECX, EDX };
    static const struct {
        const char *name;
        unsigned leaf, word, bit; /* of CPUID */
    } known[] = {
        {"pni", 1, ECX, 0},           {"ssse3", 1, ECX, 9},      {"fma", 1, ECX, 12},      {"cx16", 1, ECX, 13},
        {"sse4_1", 1, ECX, 19},       {"sse4_2", 1, ECX, 20},    {"movbe", 1, ECX, 22},    {"popcnt", 1, ECX, 23},
        {"avx", 1, ECX, 28},          {"f16c", 1, ECX, 29},      {"bmi1", 7, EBX, 3},      {"avx2", 7, EBX, 5},
        {"bmi2", 7, EBX, 8},          {"avx512f", 7, EBX, 16},   {"avx512dq", 7, EBX, 17}, {"avx512cd", 7, EBX, 28},
        {"avx512bw", 7, EBX, 30},     {"avx512vl", 7, EBX, 31},  {"lahf_lm", 0x80000001, ECX, 0},
        {"abm", 0x80000001, ECX, 5},
    };

    for (size_t i = 0; ROOT[0] == '\0' && i < sizeof known / sizeof known[0]; i++) {
        unsigned words[4] = {0}, leaf = known[i].leaf;
        if (strlen(known[i].name) != length || strncmp(known[i].name, flag, length) != 0)
            continue;
        if ((unsigned)__get_cpuid_max(leaf & 0x80000000, NULL) >= leaf)
            __cpuid_count(leaf, 0, words[EAX], words[EBX], words[ECX], words[EDX]);
        return words[known[i].word] >> known[i].bit & 1;
    }
#else
    (void)flag, (void)length;
#endif
    return 1;
}

/* The flags of a level that the CPU lacks, each after a space. Without the flags of an x86 CPU there is nothing to compare. */
static const char *missing_flags(const struct level *level, const char *has)
{
    static char missing[sizeof level->cpu_flags * 2];

    missing[0] = '\0';
    for (const char *flag = level->cpu_flags; has != NULL && *flag != '\0';) {
        size_t length = strcspn(flag, " "), used = strlen(missing);
        if (length > 0 && !(has_word(has, flag, length) && cpu_has(flag, length)))
            snprintf(missing + used, sizeof missing - used, " %.*s", (int)length, flag);
        flag += length + strspn(flag + length, " ");
    }
    return missing;
}

static void refuse_cpu(const char *what, const struct level *level, const char *name, const char *missing,
                       const char *instead)
{
    say("%s is made for CPUs of level %s, and the CPU of this machine (%s) lacks:%s. Use %s instead. "
        "In a virtual machine the CPU may have more than it shows: then let the machine pass on the host's CPU type.",
        what, level->name, name, missing, instead);
    exit(EXIT_CPU);
}

/* The level to start: the one that TF_SERVING_CPU_LEVEL names, or the highest that the CPU has. */
static const struct level *choose_level(const struct facts *facts, int serves)
{
    static char cpuinfo[65536];
    const char *given = getenv(CHOICE), *missing;
    int chosen = given != NULL && given[0] != '\0';
    char *name = NULL, *has = NULL;

    if ((facts->level.cpu_flags[0] != '\0' || facts->higher[0].name[0] != '\0') &&
        read_file(ROOT "/proc/cpuinfo", cpuinfo, sizeof cpuinfo) >= 0) {
        name = cpuinfo_value(cpuinfo, "model name");
        has = cpuinfo_value(cpuinfo, "flags");
        if (has != NULL)
            end_line(has);
        if (name != NULL)
            end_line(name);
    }
    if (name == NULL)
        name = "its name is not given";
    for (const struct level *one = facts->higher; one < facts->higher + MOST_HIGHER && one->name[0] != '\0'; one++) {
        missing = missing_flags(one, has);
        if (chosen ? strcmp(one->name, given) != 0 : has == NULL || missing[0] != '\0')
            continue;
        if (missing[0] != '\0')
            refuse_cpu("this server", one, name, missing, "another " CHOICE " or none");
        if (serves)
            say("the server of level %s is started, %s (%s)", one->name, chosen ? "by " CHOICE : "by the CPU", name);
        return one;
    }
    if (chosen && strcmp(facts->level.name, given) != 0) {
        char levels[MOST_HIGHER * (sizeof facts->level.name + 2)] = "";
        for (int i = MOST_HIGHER; i-- > 0;)
            strcat(strcat(levels, facts->higher[i].name[0] != '\0' ? ", " : ""), facts->higher[i].name);
        say(CHOICE " is '%s', and this image has no server of that level. It has: %s%s", given, facts->level.name, levels);
        exit(EXIT_NO_LEVEL);
    }
    missing = missing_flags(&facts->level, has);
    if (missing[0] != '\0')
        refuse_cpu("this image", &facts->level, name, missing,
                   facts->lower_image[0] != '\0' ? facts->lower_image : "an image of a lower level");
    if (serves && facts->higher[0].name[0] != '\0')
        say("the server of level %s is started, %s (%s)", facts->level.name, chosen ? "by " CHOICE : "by the CPU", name);
    return &facts->level;
}

/* --- threads ---------------------------------------------------------------------------------------------------------- */

/* How many CPUs the container's quota allows (docker run --cpus), rounded down, for a thread that is paused holds up all
 * others; 0 where it has no quota. */
static long quota_threads(void)
{
    char text[64];
    long quota = 0, period = 0;

    if (read_file(ROOT "/sys/fs/cgroup/cpu.max", text, sizeof text) > 0) { /* version 2 */
        if (sscanf(text, "%ld %ld", &quota, &period) != 2)
            return 0;
    } else {
        if (read_file(ROOT "/sys/fs/cgroup/cpu/cpu.cfs_quota_us", text, sizeof text) > 0)
            quota = strtol(text, NULL, 10);
        if (read_file(ROOT "/sys/fs/cgroup/cpu/cpu.cfs_period_us", text, sizeof text) > 0)
            period = strtol(text, NULL, 10);
    }
    if (quota <= 0 || period <= 0)
        return 0;
    return quota / period > 0 ? quota / period : 1;
}

/* The command to become, and the flags that the launcher adds. */
struct command {
    char **words;
    int count;
    char flags[2][64];
    char defaults[192]; /* what of it the quota decided, for the log */
};

/* Adds a flag that upstream's mkl image takes from the environment, unless it is among the server's own arguments. */
static void add_parallelism(struct command *command, int number, char **arguments, const char *flag, long by_quota)
{
    char variable[64], *flag_text = command->flags[number], *end;
    size_t length = strlen(flag), used = strlen(command->defaults);

    for (char **argument = arguments; *argument != NULL; argument++) {
        if (strncmp(*argument, flag, length) == 0 && (*argument)[length] == '=')
            return;
    }
    snprintf(variable, sizeof variable, "%s", flag + 2);
    for (char *letter = variable; *letter != '\0'; letter++)
        *letter = (char)(*letter >= 'a' && *letter <= 'z' ? *letter - 'a' + 'A' : *letter);
    const char *given = getenv(variable);
    if (given != NULL && given[0] != '\0') {
        long threads = strtol(given, &end, 10);
        if (*end == '\0' && threads >= -1 && threads <= 65536) {
            snprintf(flag_text, sizeof command->flags[0], "%s=%ld", flag, threads);
            command->words[command->count++] = flag_text;
            return;
        }
        say("%s is '%s', which is no number of threads, and is ignored", variable, given);
    }
    if (by_quota == 0)
        return;
    snprintf(flag_text, sizeof command->flags[0], "%s=%ld", flag, by_quota);
    command->words[command->count++] = flag_text;
    snprintf(command->defaults + used, sizeof command->defaults - used, " %s", flag_text);
}

/* OpenMP and TensorFlow count the CPUs that the container may run on, but know nothing of a quota, and more threads than that
 * wait for each other. Two operations at once are upstream's own default, and what TensorFlow takes where as many threads
 * as CPUs work on each. */
static void set_threads(const struct facts *facts, struct command *command, char **arguments)
{
    const char *given = getenv("OMP_NUM_THREADS");
    char number[24];

    if (strcmp(facts->flavour, "mkl") != 0)
        return;
    long threads = quota_threads();
    if (threads > 0 && (given == NULL || given[0] == '\0')) {
        snprintf(number, sizeof number, "%ld", threads);
        setenv("OMP_NUM_THREADS", number, 1);
        snprintf(command->defaults, sizeof command->defaults, " OMP_NUM_THREADS=%s", number);
    }
    add_parallelism(command, 0, arguments, "--tensorflow_intra_op_parallelism", threads);
    add_parallelism(command, 1, arguments, "--tensorflow_inter_op_parallelism", threads > 0 ? 2 : 0);
    if (command->defaults[0] != '\0')
        say("the container's CPU quota allows %ld thread(s):%s", threads, command->defaults);
}

/* --- start ------------------------------------------------------------------------------------------------------------ */

unsigned long mount_namespace(void)
{
    struct stat namespace;

    return stat("/proc/self/ns/mnt", &namespace) == 0 ? (unsigned long)namespace.st_ino : 0;
}

/* The socket stays open in the server. Nothing is ever sent to it: its name is all. */
static void announce(void)
{
    struct sockaddr_un address;
    size_t space = sizeof address.sun_path - 1;

    memset(&address, 0, sizeof address);
    address.sun_family = AF_UNIX;
    int length = snprintf(address.sun_path + 1, space, ANNOUNCED "%ld", mount_namespace(), (long)getpid());
    int made = socket(AF_UNIX, SOCK_DGRAM, 0), kept = made < 0 ? -1 : fcntl(made, F_DUPFD, STDERR_FILENO + 1);
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length);
    if (kept < 0 || (size_t)length >= space || bind(kept, (struct sockaddr *)&address, size) != 0)
        say("the health check will not find the server: %s", strerror(errno));
    if (made >= 0)
        close(made);
}

/* A shell as PID 1 neither dies of SIGTERM nor passes it on, so that `docker stop` would wait and kill. */
static void report_shell(void)
{
    static char status[8192], program[256];
    ssize_t length = readlink(ROOT "/proc/1/exe", program, sizeof program - 1);

    if (getppid() != 1 || length < 2 || strcmp(program + length - 2, "sh") != 0)
        return;
    read_file(ROOT "/proc/1/status", status, sizeof status);
    const char *caught = strstr(status, "\nSigCgt:");
    if (caught == NULL || (strtoull(caught + strlen("\nSigCgt:"), NULL, 16) >> (SIGTERM - 1) & 1) != 0)
        return;
    say("process 1 of this container, %s, passes no SIGTERM on, so that docker stop will wait and kill. "
        "Start the server with exec, or put /usr/bin/tf_serving_init before what is process 1.", program);
}

/* Runs a program in the place of this one; gives the exit code where it cannot be run. */
static int become(char **words)
{
    execv(words[0], words);

    int error = errno;
    if (error == ENOENT && strncmp(words[0], FOLDER, strlen(FOLDER)) == 0)
        say("this is only the launcher: the server itself is not at %s. "
            "Copy that file too, or build on the whole image.", words[0]);
    else
        say("cannot run %s: %s", words[0], strerror(error));
    return error == ENOENT ? EXIT_NOT_FOUND : EXIT_CANNOT_RUN;
}

int main(int argc, char **argv)
{
    static struct facts facts;
    static struct command command;
    static char server[sizeof SERVER + sizeof facts.level.name + 1] = SERVER;
    const char *name = argc > 0 ? strrchr(argv[0], '/') : NULL;
    int serves = 1;

    if (argc > 0 && strcmp(name != NULL ? name + 1 : argv[0], HEALTH_CHECK) == 0)
        return check_health();
    read_facts(&facts);
    command.words = calloc((size_t)argc + 8, sizeof *command.words);
    if (command.words == NULL)
        return EXIT_NO_MEMORY;
    for (int i = 1; i < argc; i++)
        serves = serves && strcmp(argv[i], "--version") != 0 && strcmp(argv[i], "--help") != 0;
    const struct level *level = choose_level(&facts, serves);
    command.words[command.count++] = INIT;
    command.words[command.count++] = server;
    if (level != &facts.level)
        snprintf(server, sizeof server, FOLDER "%s/tensorflow_model_server", level->name);
    if (serves) {
        report_driver(&facts);
        set_threads(&facts, &command, argv + 1);
        report_shell();
        announce();
    }
    for (int i = 1; i < argc; i++)
        command.words[command.count++] = argv[i];
    if (getpid() == 1)
        become(command.words);
    return become(command.words + 1);
}

/* The driver is the machine's, and the container runtime hands it in: its library, libcuda, and a device for each card. Without
 * them the server starts all the same, and computes on the CPU.
 */
#define _XOPEN_SOURCE 700

#include "launcher.h"

#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LIBRARY "libcuda.so.1"
#define REMEDIES                                                                                                             \
    "Start the container with its cards: docker run --gpus all, or with CDI --device nvidia.com/gpu=all; "                  \
    "in Kubernetes the resource nvidia.com/gpu"

/* What of an NVIDIA driver is in this container. */
struct driver {
    char library[PATH_MAX]; /* libcuda's path, empty where there is none */
    int hidden;             /* whether it is where the loader does not look */
    char version[32];       /* empty where it is not known, as on WSL2 */
    int cards, slices, wsl; /* devices: cards, or WSL2's stand-in for all of them; MIG's slices of a card */
};

/* --- the library ------------------------------------------------------------------------------------------------------ */

static int is_library(struct driver *driver, const char *root, const char *folder, size_t length)
{
    int size = snprintf(driver->library, sizeof driver->library, "%s%.*s/" LIBRARY, root, (int)length, folder);

    if (length > 0 && size < (int)sizeof driver->library && access(driver->library, F_OK) == 0)
        return 1;
    driver->library[0] = '\0';
    return 0;
}

/* Looks where LD_LIBRARY_PATH says. */
static int is_on_path(struct driver *driver)
{
    const char *folder = getenv("LD_LIBRARY_PATH");

    while (folder != NULL && *folder != '\0') {
        size_t length = strcspn(folder, ":;");
        if (is_library(driver, "", folder, length))
            return 1;
        folder += length + (folder[length] != '\0');
    }
    return 0;
}

/* Looks where the loader's cache says, to which container runtimes add the folders that they mount; any path in it ends with
 * NUL. */
static int is_in_cache(struct driver *driver)
{
    static const char name[] = "/" LIBRARY;
    static char cache[1 << 20];
    ssize_t length = read_file(ROOT "/etc/ld.so.cache", cache, sizeof cache);

    for (ssize_t place = 1; place + (ssize_t)sizeof name <= length; place++) {
        if (memcmp(cache + place, name, sizeof name) != 0)
            continue;
        ssize_t start = place;
        while (start > 0 && cache[start - 1] != '\0')
            start--;
        if (is_library(driver, ROOT, cache + start, (size_t)(place - start)))
            return 1;
    }
    return 0;
}

static void find_library(struct driver *driver)
{
    static const char *const usual[] = {"/usr/lib/x86_64-linux-gnu", "/lib/x86_64-linux-gnu", "/usr/lib64", "/lib64", "/usr/lib"};
    static const char *const others[] = {
        "/usr/local/nvidia/lib64", /* Google Kubernetes Engine, NVIDIA's driver containers */
        "/usr/local/nvidia/lib", "/usr/lib/wsl/lib", /* WSL2, mounted by hand */
    };

    if (is_on_path(driver) || is_in_cache(driver))
        return;
    for (size_t i = 0; i < sizeof usual / sizeof usual[0]; i++) {
        if (is_library(driver, ROOT, usual[i], strlen(usual[i])))
            return;
    }
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        if (is_library(driver, ROOT, others[i], strlen(others[i]))) {
            driver->hidden = 1;
            return;
        }
    }
}

/* Whether the word begins with a driver's version; WSL2's library is called libcuda.so.1.1. */
static int is_version(const char *word)
{
    char *end;

    return strtoul(word, &end, 10) >= 100 && *end == '.';
}

/* The version is in the name of the file that libcuda is a link to; the kernel module's says it too. */
static void find_version(struct driver *driver)
{
    char real[PATH_MAX], module[512];
    const char *mark = driver->library[0] != '\0' && realpath(driver->library, real) != NULL ? strstr(real, ".so.") : NULL;

    if (mark != NULL && is_version(mark + 4)) {
        snprintf(driver->version, sizeof driver->version, "%.*s", (int)strspn(mark + 4, "0123456789."), mark + 4);
        return;
    }
    /* NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.54.03  Tue Jun ... */
    if (read_file(ROOT "/proc/driver/nvidia/version", module, sizeof module) < 0)
        return;
    for (const char *word = module; *word != '\0'; word += strcspn(word, " \n"), word += strspn(word, " \n")) {
        if (is_version(word)) {
            snprintf(driver->version, sizeof driver->version, "%.*s", (int)strspn(word, "0123456789."), word);
            return;
        }
    }
}

/* Whether a version, as numbers joined by dots, is below another. */
static int is_below(const char *version, const char *other)
{
    for (char *end, *other_end; *version != '\0' || *other != '\0'; version = end, other = other_end) {
        unsigned long number = strtoul(version, &end, 10), other_number = strtoul(other, &other_end, 10);
        if (number != other_number)
            return number < other_number;
        if (end == version && other_end == other)
            return 0;
        end += *end == '.';
        other_end += *other_end == '.';
    }
    return 0;
}

/* --- the devices ------------------------------------------------------------------------------------------------------ */

/* How many entries of a folder are called by the name and a number above the given one. */
static int count_devices(const char *folder, const char *name, long above)
{
    int found = 0;
    DIR *entries = opendir(folder);
    struct dirent *entry;

    while (entries != NULL && (entry = readdir(entries)) != NULL) {
        const char *number = entry->d_name + strlen(name);
        if (strncmp(entry->d_name, name, strlen(name)) != 0 || *number < '0' || *number > '9')
            continue;
        char *end;
        found += strtol(number, &end, 10) > above && *end == '\0';
    }
    if (entries != NULL)
        closedir(entries);
    return found;
}

static void find_devices(struct driver *driver)
{
    driver->cards = count_devices(ROOT "/dev", "nvidia", -1);
    driver->slices = count_devices(ROOT "/dev/nvidia-caps", "nvidia-cap", 2); /* 1 and 2 are for MIG's own settings */
    driver->wsl = access(ROOT "/dev/dxg", F_OK) == 0;
}

/* --- the report ------------------------------------------------------------------------------------------------------- */

/* Adds the library's folder to LD_LIBRARY_PATH. */
static void show_library(const struct driver *driver)
{
    static char path[2 * PATH_MAX];
    const char *before = getenv("LD_LIBRARY_PATH");
    int length = (int)(strlen(driver->library) - strlen("/" LIBRARY));

    before = before != NULL ? before : "";
    snprintf(path, sizeof path, "%s%s%.*s", before, before[0] != '\0' ? ":" : "", length, driver->library);
    setenv("LD_LIBRARY_PATH", path, 1);
}

void report_driver(const struct facts *facts)
{
    static struct driver driver;
    static char needs[sizeof *facts];

    if (strcmp(facts->flavour, "gpu") != 0)
        return;
    find_library(&driver);
    find_version(&driver);
    find_devices(&driver);
    if (driver.hidden)
        show_library(&driver);
    snprintf(needs, sizeof needs, "CUDA %s needs driver %s or later; this image is compiled for %s", facts->cuda, facts->driver,
             facts->capabilities[0] != '\0' ? facts->capabilities : "the default capabilities");

    const char *version = driver.version[0] != '\0' ? driver.version : "of an unknown version";
    int devices = driver.cards > 0 || driver.wsl;
    if (driver.library[0] == '\0' && !devices && driver.version[0] != '\0')
        say("no NVIDIA driver is in this container, though the machine has %s (%s). " REMEDIES ".", version, needs);
    else if (driver.library[0] == '\0' && !devices)
        say("no NVIDIA driver is in this container (%s). " REMEDIES ".", needs);
    else if (driver.library[0] == '\0')
        say("an NVIDIA card is in this container, but the driver's " LIBRARY " is not (%s). " REMEDIES
            ", and NVIDIA_DRIVER_CAPABILITIES must name compute.", needs);
    else if (!devices)
        say("the NVIDIA driver %s is in this container, but no card is (%s). " REMEDIES ".", version, needs);
    else if (driver.version[0] != '\0' && is_below(driver.version, facts->driver))
        say("the NVIDIA driver here, %s, is too old: %s. Update the machine's driver, or use an image of a release with an "
            "older CUDA.", version, needs);
    else if (driver.version[0] == '\0')
        say("the version of the NVIDIA driver is not known here%s; %s.", driver.wsl ? ", under WSL2" : "", needs);
    else if (driver.slices > 0)
        say("NVIDIA driver %s, MIG slices of a card; %s.", version, needs);
    else
        say("NVIDIA driver %s; %s.", version, needs);
}

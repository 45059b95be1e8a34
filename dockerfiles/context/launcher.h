/* What the parts of the launcher share. */
#ifndef LAUNCHER_H
#define LAUNCHER_H

#include <stddef.h>
#include <sys/types.h>

#ifndef ROOT
#define ROOT "" /* the unit tests have an image and a machine of their own below another folder */
#endif

/* A level that the image has a server for, and the flags that its CPU must have, as Linux names them. */
struct level {
    char name[32];
    char cpu_flags[4096];
};

enum { MOST_HIGHER = 4 };

/* What image.env says of the image; empty where it says nothing. */
struct facts {
    char flavour[16];
    struct level level;               /* the image's; of an image with several, the lowest */
    struct level higher[MOST_HIGHER]; /* the others of an image with several, the highest first, then empty ones */
    char lower_image[512];
    char cuda[32];
    char driver[32];
    char capabilities[1024];
    char model_status[8];
};

void read_facts(struct facts *facts);

/* Reads the beginning of a file, up to size - 1 bytes, and ends it with NUL; -1 where it cannot be read. */
ssize_t read_file(const char *path, char *text, size_t size);

/* Prints a line to standard error, after the launcher's name. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* How a server is found by the health check: its process holds an abstract socket of this name, with the container's
 * mount namespace and the process's number at its end. No file is needed, and the name goes with the process. */
#define ANNOUNCED "serving-factory" ROOT "/%lu/"

unsigned long mount_namespace(void);

/* Says which driver is needed and what is here, and shows the server the way to a driver that its loader would not find. */
void report_driver(const struct facts *facts);

/* Whether the server of this container is ready: the exit code of the health check, after a line that says why. */
int check_health(void);

#endif

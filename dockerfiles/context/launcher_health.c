/* The health check. What to ask, and where, is read from the command line of the running server, so that it fits however the
 * model and the ports were given. One model: ready when a version of it is AVAILABLE. A configuration file: ready when the
 * REST port answers, for the server opens its ports only once every model of its first configuration is loaded. No REST:
 * ready when the gRPC port is open, for the same reason. It ends by itself within 3 seconds.
 */
#define _POSIX_C_SOURCE 200809L

#include "launcher.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef PATIENCE
#define PATIENCE 3 /* seconds */
#endif

#define TEXT(number) #number
#define NUMBER(macro) TEXT(macro)

enum { READY = 0, NOT_READY = 1, ARGUMENTS = 65536 };

static void give_up(int number)
{
    static const char line[] = "the server does not answer within " NUMBER(PATIENCE) " seconds\n";

    (void)number;
    ssize_t written = write(STDOUT_FILENO, line, sizeof line - 1);
    (void)written;
    _exit(NOT_READY);
}

/* Prints a line; gives the code. */
__attribute__((format(printf, 2, 3))) static int end(int code, const char *format, ...)
{
    va_list values;

    va_start(values, format);
    vprintf(format, values);
    va_end(values);
    putchar('\n');
    return code;
}

/* --- the server ------------------------------------------------------------------------------------------------------- */

/* The process that announced itself from this container, the oldest of several; 0 where there is none. */
static long announced(void)
{
    char line[512], name[128];
    long found = 0;
    FILE *sockets = fopen("/proc/net/unix", "re");

    if (sockets == NULL)
        return 0;
    snprintf(name, sizeof name, "@" ANNOUNCED, mount_namespace());
    while (fgets(line, sizeof line, sockets) != NULL) {
        const char *place = strstr(line, name);
        long process = place != NULL ? strtol(place + strlen(name), NULL, 10) : 0;
        if (process > 0 && (found == 0 || process < found))
            found = process;
    }
    fclose(sockets);
    return found;
}

/* The server's arguments, one behind the other, each ended by NUL; gives their length, 0 where there is no server. */
static size_t read_arguments(char *arguments, size_t size)
{
    char path[64];
    long process = announced();

    snprintf(path, sizeof path, "/proc/%ld/cmdline", process);
    ssize_t length = process > 0 ? read_file(path, arguments, size) : 0;
    return length > 0 ? (size_t)length : 0;
}

/* The value of a flag, such as "--port="; the last one counts, as for the server. */
static const char *flag(const char *arguments, size_t length, const char *name, const char *value)
{
    for (const char *argument = arguments; argument < arguments + length; argument += strlen(argument) + 1) {
        if (strncmp(argument, name, strlen(name)) == 0)
            value = argument + strlen(name);
    }
    return value;
}

/* --- its answer ------------------------------------------------------------------------------------------------------- */

/* A connection to a port of this machine; -1 where nothing answers. */
static int connect_to(const char *port)
{
    struct sockaddr_in address;
    int peer = socket(AF_INET, SOCK_STREAM, 0);

    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_port = htons((unsigned short)strtol(port, NULL, 10));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (peer < 0 || connect(peer, (struct sockaddr *)&address, sizeof address) != 0)
        return -1;
    return peer;
}

/* Appends a text as it goes into a URL. */
static void encode(char *url, const char *text)
{
    url += strlen(url);
    for (; *text != '\0'; text++) {
        if (strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._~-", *text) != NULL)
            *url++ = *text;
        else
            url += sprintf(url, "%%%02X", (unsigned char)*text);
    }
    *url = '\0';
}

/* The answer to a GET of the model's status, head and body; -1 where nothing answers. HTTP/1.0: the server ends it by closing
 * the connection. */
static int ask(const char *port, const char *model, char *answer, size_t size)
{
    static char request[3 * ARGUMENTS + 256];
    size_t length = 0, sent = 0;
    ssize_t moved;
    int peer = connect_to(port);

    if (peer < 0)
        return -1;
    strcpy(request, "GET /v1/models/");
    encode(request, model);
    strcat(request, " HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    while (sent < strlen(request) && (moved = write(peer, request + sent, strlen(request) - sent)) > 0)
        sent += (size_t)moved;
    while (length < size - 1 && (moved = read(peer, answer + length, size - 1 - length)) > 0)
        length += (size_t)moved;
    answer[length] = '\0';
    close(peer);
    return 0;
}

/* The next text that is the value of a member of JSON, cut to size, still escaped; gives what follows, NULL without one. */
static const char *next_text(const char *json, const char *member, char *text, size_t size)
{
    size_t used = 0;

    text[0] = '\0';
    while ((json = strstr(json, member)) != NULL) {
        json += strlen(member);
        json += strspn(json, " \t\r\n");
        if (*json != ':')
            continue;
        json += 1 + strspn(json + 1, " \t\r\n");
        if (*json != '"')
            continue;
        for (json++; *json != '\0' && *json != '"'; json++) {
            size_t letters = *json == '\\' && json[1] != '\0' ? 2 : 1;
            if (used + letters < size) {
                memcpy(text + used, json, letters);
                used += letters;
            }
            json += letters - 1;
        }
        text[used] = '\0';
        return json;
    }
    return NULL;
}

/* Prints why a model is not ready: the states of its versions and the first error, or the answer's first line. */
static void print_states(const char *model, const char *answer)
{
    char text[1024];
    int states = 0;

    printf("no version of %s is AVAILABLE: ", model);
    for (const char *rest = answer; (rest = next_text(rest, "\"state\"", text, sizeof text)) != NULL;)
        printf("%s%s", states++ > 0 ? ", " : "", text);
    if (states == 0)
        printf("%.*s", (int)strcspn(answer, "\r\n"), answer);
    for (const char *rest = answer; (rest = next_text(rest, "\"error_message\"", text, sizeof text)) != NULL;) {
        if (text[0] != '\0') {
            printf(": %s", text);
            break;
        }
    }
    putchar('\n');
}

int check_health(void)
{
    static char arguments[ARGUMENTS], answer[1 << 18];
    static struct facts facts;
    char state[64];

    signal(SIGALRM, give_up);
    signal(SIGPIPE, SIG_IGN);
    alarm(PATIENCE);
    size_t length = read_arguments(arguments, sizeof arguments);
    if (length == 0)
        return end(NOT_READY, "the server is not running");

    const char *port = flag(arguments, length, "--port=", "8500");
    const char *rest_port = flag(arguments, length, "--rest_api_port=", "0");
    if (strtol(rest_port, NULL, 10) == 0) {
        if (connect_to(port) < 0)
            return end(NOT_READY, "nothing answers on the gRPC port, %s", port);
        return end(READY, "the gRPC port, %s, is open", port);
    }
    const char *model = flag(arguments, length, "--model_name=", "default");
    if (ask(rest_port, model, answer, sizeof answer) < 0)
        return end(NOT_READY, "nothing answers on the REST port, %s", rest_port);
    if (strncmp(answer, "HTTP/1.", strlen("HTTP/1.")) != 0)
        return end(NOT_READY, "what answers on port %s is no HTTP server", rest_port);

    /* Before 1.10 the server knows no such question, and any answer says as much as an open port. */
    read_facts(&facts);
    if (flag(arguments, length, "--model_config_file=", "")[0] != '\0' || strcmp(facts.model_status, "no") == 0)
        return end(READY, "the REST port, %s, answers", rest_port);
    for (const char *rest = answer; (rest = next_text(rest, "\"state\"", state, sizeof state)) != NULL;) {
        if (strcmp(state, "AVAILABLE") == 0)
            return end(READY, "%s is AVAILABLE", model);
    }
    print_states(model, answer);
    return NOT_READY;
}

#include "cli/find.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool usable(const char *folder, size_t n, const char *name, char out[CLI_PATH]) {
    int length = snprintf(out, CLI_PATH, "%.*s/%s", (int)n, folder, name);
    return length > 0 && length < CLI_PATH && access(out, X_OK) == 0;
}

static bool beside_self(const char *name, char out[CLI_PATH]) {
    char self[CLI_PATH];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0) {
        return false;
    }
    self[n] = '\0';
    const char *slash = strrchr(self, '/');
    return slash != NULL && usable(self, (size_t)(slash - self), name, out);
}

int cli_find_program(const char *name, char out[CLI_PATH]) {
    if (beside_self(name, out)) {
        return 0;
    }
    const char *path = getenv("PATH");
    while (path != NULL && *path != '\0') {
        size_t n = strcspn(path, ":");
        if (n > 0 && n < CLI_PATH && usable(path, n, name, out)) {
            return 0;
        }
        path += n + (path[n] == ':');
    }
    return -1;
}

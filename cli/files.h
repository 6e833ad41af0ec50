/* Names of files: neighbours, relative names, programs and traces read by what they hold. */
#ifndef SF_CLI_FILES_H
#define SF_CLI_FILES_H

#include <stddef.h>

#include "cli/cli.h"
#include "core/hash.h"
#include "core/prog.h"
#include "core/trace.h"

#define CLI_PATH 1024

/* "runs/a.sftrace" + ".sfprog" -> "runs/a.sfprog". SF_E_INPUT when it does not fit. */
int cli_path_with_suffix(const char *path, const char *suffix, char out[CLI_PATH], struct sf_err *err);
/* `name` as seen from the folder of the file `from`; an absolute name stays as it is. */
int cli_path_beside(const char *from, const char *name, char out[CLI_PATH], struct sf_err *err);
/* The reverse: how a file in the folder of `from` names `path`. Neither file has to exist, their folders do. */
int cli_path_relative(const char *from, const char *path, char out[CLI_PATH], struct sf_err *err);
/* Copy with the length checked. */
int cli_path_copy(char *out, size_t size, const char *path, struct sf_err *err);

/* What a file is, by its first bytes. ASSEMBLY: the text form of a program. */
enum cli_file { CLI_FILE_TEXT, CLI_FILE_JSON, CLI_FILE_BINARY, CLI_FILE_ASSEMBLY };
int cli_file_kind(const char *path, enum cli_file *out, struct sf_err *err);

int cli_prog_write(const char *path, const struct sf_prog *prog, struct sf_err *err);
/* A trace in file order, and the hash of the file's bytes. `file_hash` may be NULL. */
int cli_trace_read(const char *path, struct sf_trace *out, struct sf_hash *file_hash, struct sf_err *err);

/* Output: to the file, or to stdout when path is NULL. Frees the buffer. */
int cli_output(const char *path, struct sf_buf *buf, struct sf_err *err);

#endif

/* Quantities with units: exact arithmetic, parsing that refuses a bare number, printing for people.
 *
 * Simulated time is int64 picoseconds (800 Gb/s is exactly 10 ps per byte; the range is 106 days). */
#ifndef SF_CORE_UNITS_H
#define SF_CORE_UNITS_H

#include <stddef.h>
#include <stdint.h>

#include "core/err.h"

typedef int64_t sf_time_ps;

#define SF_PS_PER_S INT64_C(1000000000000)

/* ceil(a * b / c) in 128 bits; c > 0. Saturates at INT64_MAX. */
int64_t sf_muldiv_up(int64_t a, int64_t b, int64_t c);

/* Time to move `bytes` at `bytes_per_s`, rounded up to a picosecond; bytes_per_s > 0. Saturates. */
sf_time_ps sf_transfer_ps(uint64_t bytes, uint64_t bytes_per_s);

double sf_ps_to_s(sf_time_ps t);
sf_time_ps sf_s_to_ps(double seconds); /* rounds to nearest; saturates */

/* Parsers take the whole string, refuse a missing or unknown unit, a sign, nan, inf and trailing text.
 *   time:  ps ns us ms s min h d          "18.522ms"
 *   bytes: B kB MB GB TB KiB MiB GiB TiB  "279GB"
 *   rate:  b/s kb/s Mb/s Gb/s Tb/s (bits), B/s kB/s MB/s GB/s TB/s, KiB/s MiB/s GiB/s (bytes) -> bytes per second
 *   flops: FLOP/s kFLOP/s MFLOP/s GFLOP/s TFLOP/s PFLOP/s -> operations per second
 *   power: W kW MW -> watts
 * Errors: SF_E_INPUT with what was expected and found. */
int sf_parse_time(const char *text, sf_time_ps *out, struct sf_err *err);
int sf_parse_bytes(const char *text, uint64_t *out, struct sf_err *err);
int sf_parse_rate(const char *text, uint64_t *bytes_per_s, struct sf_err *err);
int sf_parse_flops(const char *text, double *per_s, struct sf_err *err);
int sf_parse_power(const char *text, double *watts, struct sf_err *err);

/* For people, three to four digits ("1.234 ms", "279.0 GB", "98.4 GiB", "800.0 Gb/s"). Return `buf`. */
char *sf_format_time(sf_time_ps t, char *buf, size_t size);
char *sf_format_bytes(uint64_t bytes, char *buf, size_t size);
char *sf_format_count(uint64_t n, char *buf, size_t size); /* 220,032 */

#endif

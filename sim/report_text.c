/* Escaping and number formats of the report. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "sim/report_part.h"

/* Length of the UTF-8 sequence at s, 0 when it is none (overlong forms and surrogates included). */
static size_t utf8_length(const unsigned char *s) {
    size_t n = s[0] < 0x80                   ? 1
               : s[0] >= 0xc2 && s[0] < 0xe0 ? 2
               : (s[0] & 0xf0) == 0xe0       ? 3
               : s[0] >= 0xf0 && s[0] < 0xf5 ? 4
                                             : 0;
    for (size_t i = 1; i < n; i++) {
        if ((s[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    bool bad = (s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) || (s[0] == 0xf0 && s[1] < 0x90) ||
               (s[0] == 0xf4 && s[1] > 0x8f);
    return bad ? 0 : n;
}

static const char *entity(unsigned char c) {
    switch (c) {
    case '&':
        return "&amp;";
    case '<':
        return "&lt;";
    case '>':
        return "&gt;";
    case '"':
        return "&quot;";
    case '\'':
        return "&#39;";
    default:
        return c < 0x20 || c == 0x7f ? "&#xfffd;" : NULL;
    }
}

void sfi_html_text(struct sf_buf *out, const char *text) {
    const unsigned char *s = (const unsigned char *)text;
    while (*s != '\0') {
        size_t n = utf8_length(s);
        const char *replaced = n == 0 ? "&#xfffd;" : entity(*s);
        if (replaced != NULL) {
            sf_buf_printf(out, "%s", replaced);
        } else {
            sf_buf_write(out, s, n);
        }
        s += n == 0 ? 1 : n;
    }
}

void sfi_html_time(struct sf_buf *out, sf_time_ps t) {
    char text[32];
    if (t < 0) {
        sf_buf_printf(out, "unknown");
        return;
    }
    sf_format_time(t, text, sizeof text);
    char *space = strchr(text, ' ');
    if (space != NULL) {
        *space = '\0';
        bool micro = strcmp(space + 1, "us") == 0;
        sf_buf_printf(out, "%s&nbsp;%s", text, micro ? "&micro;s" : space + 1);
    } else {
        sf_buf_printf(out, "%s", text);
    }
}

void sfi_html_percent(struct sf_buf *out, double fraction) {
    double percent = fraction * 100;
    int digits = fabs(percent) < 99.95 ? 1 : 0;
    sf_buf_printf(out, "%s%.*f&nbsp;%%", percent < 0 ? "&minus;" : "+", digits, fabs(percent));
}

double sfi_tick(double range, int ticks) {
    double raw = range / ticks;
    double power = pow(10, floor(log10(raw)));
    double lead = raw / power;
    return power * (lead <= 1 ? 1 : lead <= 2 ? 2 : lead <= 5 ? 5 : 10);
}

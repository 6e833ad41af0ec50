#include "runtime/cuda/run_peers.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/arena.h"
#include "core/io.h"
#include "runtime/clock.h"

#define MAGIC UINT64_C(0x3165726966637473)      /* of this version of the frames below */
#define PATIENCE_NS (300 * INT64_C(1000000000)) /* thousands of ranks may come minutes apart */
#define RETRY_MS 100
#define QUIET_NS (10 * INT64_C(1000000000)) /* then people are told what is waited for */
#define HELLO_NS (5 * INT64_C(1000000000))  /* who connects and does not greet is no rank */
#define STRANGERS 64                        /* that may be heard at a time */
#define LIMIT_S 30                          /* for the rest of a frame, and for a host that does not answer */
#define CHUNK_BYTES (1u << 20)

enum kind { HELLO = 1, WELCOME, READY, GO, PART, FAILED, BYE };

struct head {
    uint64_t magic;
    uint32_t kind, rank; /* FAILED: the rank whose error it is */
    uint64_t bytes;      /* that follow */
    uint64_t word;       /* READY: what all must agree on */
};

struct hello {
    struct head head;
    uint32_t ranks, reserved;
    char run[64];
};

struct sf_rt_peers {
    uint32_t rank, ranks;
    int listener;
    int *sockets;         /* rank 0: [ranks], its own -1; others: [1]; -1: has said goodbye */
    struct pollfd *polls; /* as many */
    bool over;            /* nobody has anything more to say */
    struct sf_err failed; /* code 0: nobody has */
};

static uint32_t links(const struct sf_rt_peers *p) {
    return p->rank == 0 ? p->ranks : 1;
}

static uint32_t rank_of(const struct sf_rt_peers *p, uint32_t link) {
    return p->rank == 0 ? link : 0;
}

/* ---- bytes ------------------------------------------------------------------------------------------------------ */

static bool send_all(int socket, const void *data, size_t bytes) {
    for (size_t at = 0; at < bytes;) {
        ssize_t n = send(socket, (const char *)data + at, bytes - at, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return false;
        }
        at += (size_t)n;
    }
    return true;
}

static bool receive_all(int socket, void *data, size_t bytes) {
    for (size_t at = 0; at < bytes;) {
        ssize_t n = recv(socket, (char *)data + at, bytes - at, 0);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return false;
        }
        at += (size_t)n;
    }
    return true;
}

static bool send_head(int socket, enum kind kind, uint32_t rank, uint64_t word, uint64_t bytes) {
    const struct head h = {.magic = MAGIC, .kind = kind, .rank = rank, .word = word, .bytes = bytes};
    return send_all(socket, &h, sizeof h);
}

static bool send_error(int socket, uint32_t rank, const struct sf_err *why) {
    return send_head(socket, FAILED, rank, 0, sizeof *why) && send_all(socket, why, sizeof *why);
}

/* How long bytes may wait to be acknowledged, or for room at the other end; 0: as long as the system finds right. */
static void limit_unsent(int socket, int ms) {
    setsockopt(socket, IPPROTO_TCP, TCP_USER_TIMEOUT, &ms, sizeof ms);
}

/* A rank that stops in the middle of a frame, or whose host is gone, must not hold the others up for ever. */
static void set_limits(int socket) {
    const struct timeval limit = {.tv_sec = LIMIT_S};
    const int on = 1, idle_s = 10, every_s = 5, tries = 4;
    setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(socket, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(socket, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
    setsockopt(socket, IPPROTO_TCP, TCP_KEEPINTVL, &every_s, sizeof every_s);
    setsockopt(socket, IPPROTO_TCP, TCP_KEEPCNT, &tries, sizeof tries);
    setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    limit_unsent(socket, LIMIT_S * 1000);
}

/* ---- failing ---------------------------------------------------------------------------------------------------- */

static int report(const struct sf_rt_peers *p, struct sf_err *err) {
    if (err) {
        *err = p->failed;
    }
    return p->failed.code;
}

/* Errors of ops say so themselves. */
static bool names_rank(const struct sf_err *why, uint32_t rank) {
    char begin[24];
    int n = snprintf(begin, sizeof begin, "rank %u", rank);
    return strncmp(why->msg, begin, (size_t)n) == 0 && (why->msg[n] == ' ' || why->msg[n] == ':');
}

/* From now on every call fails with this; rank 0 passes it on. */
static int fail_all(struct sf_rt_peers *p, uint32_t rank, const struct sf_err *why, struct sf_err *err) {
    p->failed = *why;
    p->failed.code = why->code != SF_OK ? why->code : SF_E_FAULT;
    for (uint32_t i = 0; p->rank == 0 && i < p->ranks; i++) {
        if (p->sockets[i] >= 0) {
            send_error(p->sockets[i], rank, why);
        }
    }
    if (rank != p->rank && !names_rank(why, rank)) {
        sf_err_wrap(&p->failed, "rank %u", rank);
    }
    return report(p, err);
}

static int take_error(struct sf_rt_peers *p, uint32_t link, const struct head *h, struct sf_err *err);

/* It may have said why before it went. */
static int fail_gone(struct sf_rt_peers *p, uint32_t link, struct sf_err *err) {
    struct head h;
    if (recv(p->sockets[link], &h, sizeof h, MSG_PEEK | MSG_DONTWAIT) == sizeof h && h.magic == MAGIC &&
        h.kind == FAILED) {
        recv(p->sockets[link], &h, sizeof h, 0);
        return take_error(p, link, &h, err);
    }
    struct sf_err why = {0};
    sf_fail(&why, SF_E_FAULT, "is gone, without a word");
    return fail_all(p, rank_of(p, link), &why, err);
}

static int fail_babble(struct sf_rt_peers *p, uint32_t link, struct sf_err *err) {
    struct sf_err why = {0};
    sf_fail(&why, SF_E_INTERNAL, "says on the channel between ranks what does not belong there");
    return fail_all(p, rank_of(p, link), &why, err);
}

/* The error behind a FAILED head. Its texts end where they should, whoever sent them. */
static int take_error(struct sf_rt_peers *p, uint32_t link, const struct head *h, struct sf_err *err) {
    struct sf_err why;
    if (h->bytes != sizeof why || h->rank >= p->ranks) {
        return fail_babble(p, link, err);
    }
    if (!receive_all(p->sockets[link], &why, sizeof why)) {
        return fail_gone(p, link, err);
    }
    why.msg[sizeof why.msg - 1] = why.file[sizeof why.file - 1] = '\0';
    why.code = why.code > 0 && why.code < 64 ? why.code : SF_E_FAULT;
    return fail_all(p, p->rank == 0 ? link : h->rank, &why, err);
}

/* ---- frames ----------------------------------------------------------------------------------------------------- */

/* The next frame of a link, when it is of the kind that is expected; a goodbye closes the link. */
static int take_head(struct sf_rt_peers *p, uint32_t link, enum kind expected, struct head *h, struct sf_err *err) {
    if (!receive_all(p->sockets[link], h, sizeof *h)) {
        return fail_gone(p, link, err);
    }
    if (h->magic == MAGIC && h->kind == FAILED) {
        return take_error(p, link, h, err);
    }
    return h->magic == MAGIC && h->kind == (uint32_t)expected ? SF_OK : fail_babble(p, link, err);
}

/* Some of what is asked of all ranks waits for those that have not left. */
static int check_present(struct sf_rt_peers *p, uint32_t link, struct sf_err *err) {
    struct sf_err why = {0};
    if (p->sockets[link] >= 0) {
        return SF_OK;
    }
    sf_fail(&why, SF_E_INTERNAL, "has left before the others");
    return fail_all(p, link, &why, err);
}

/* Links among `wanted` (NULL: all) with something to read. Waits for the first of them when told to. */
static int wait_for_links(struct sf_rt_peers *p, const bool *wanted, bool waits) {
    uint32_t n = links(p);
    for (uint32_t i = 0; i < n; i++) {
        p->polls[i] = (struct pollfd){.fd = !wanted || wanted[i] ? p->sockets[i] : -1, .events = POLLIN};
    }
    int ready;
    do {
        ready = poll(p->polls, n, waits ? -1 : 0);
    } while (waits && ready < 0 && errno == EINTR);
    return ready;
}

static void say_goodbye(struct sf_rt_peers *p, uint32_t link) {
    close(p->sockets[link]);
    p->sockets[link] = -1;
    p->over = p->rank != 0;
}

/* Frames that somebody will ask for stay where they are. */
static int look_at(struct sf_rt_peers *p, uint32_t link, struct sf_err *err) {
    struct head h;
    ssize_t n = recv(p->sockets[link], &h, sizeof h, MSG_PEEK | MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return SF_OK;
    }
    if (n <= 0) {
        return fail_gone(p, link, err);
    }
    if ((size_t)n == sizeof h && h.magic == MAGIC && h.kind == BYE) {
        say_goodbye(p, link);
        return SF_OK;
    }
    if ((size_t)n == sizeof h && h.magic == MAGIC && h.kind == FAILED) {
        return take_head(p, link, FAILED, &h, err);
    }
    return SF_OK;
}

int sfi_peers_look(struct sf_rt_peers *p, struct sf_err *err) {
    if (p->failed.code != SF_OK) {
        return report(p, err);
    }
    if (p->over || wait_for_links(p, NULL, false) <= 0) {
        return SF_OK;
    }
    for (uint32_t i = 0; i < links(p); i++) {
        SF_TRY(p->polls[i].revents != 0 ? look_at(p, i, err) : SF_OK);
    }
    return SF_OK;
}

/* ---- agreeing --------------------------------------------------------------------------------------------------- */

static int check_word(struct sf_rt_peers *p, uint32_t link, const struct head *h, uint64_t word, const char *what,
                      struct sf_err *err) {
    struct sf_err why = {0};
    if (h->word == word) {
        return SF_OK;
    }
    sf_fail(&why, SF_E_USAGE, "has another %s than rank 0: all must have the same", what);
    return fail_all(p, link, &why, err);
}

static int hear_all(struct sf_rt_peers *p, bool *wanted, uint64_t word, const char *what, struct sf_err *err) {
    uint32_t left = p->ranks - 1;
    for (uint32_t i = 1; i < p->ranks; i++) {
        SF_TRY(check_present(p, i, err));
        wanted[i] = true;
    }
    while (left > 0) {
        if (wait_for_links(p, wanted, true) < 0) {
            return sf_fail(err, SF_E_FAULT, "waiting for the other ranks: %s", strerror(errno));
        }
        for (uint32_t i = 1; i < p->ranks; i++) {
            struct head h;
            if (!wanted[i] || p->polls[i].revents == 0) {
                continue;
            }
            SF_TRY(take_head(p, i, READY, &h, err));
            SF_TRY(check_word(p, i, &h, word, what, err));
            wanted[i] = false;
            left--;
        }
    }
    return SF_OK;
}

static int agree_as_first(struct sf_rt_peers *p, uint64_t word, const char *what, struct sf_err *err) {
    bool *wanted = sf_calloc(p->ranks, sizeof *wanted);
    int rc = wanted ? hear_all(p, wanted, word, what, err) : sf_fail_memory(err, "waiting for the other ranks");
    sf_free(wanted);
    if (rc != SF_OK && p->failed.code == SF_OK) {
        return fail_all(p, 0, err, err);
    }
    for (uint32_t i = 1; i < p->ranks && rc == SF_OK; i++) {
        rc = send_head(p->sockets[i], GO, 0, word, 0) ? SF_OK : fail_gone(p, i, err);
    }
    return rc;
}

void sfi_peers_tell(struct sf_rt_peers *p, const struct sf_err *why) {
    if (p->failed.code != SF_OK || p->over) {
        return;
    }
    if (p->rank != 0) {
        send_error(p->sockets[0], p->rank, why);
    }
    fail_all(p, p->rank, why, NULL);
}

int sfi_peers_agree_on(struct sf_rt_peers *p, int rc, uint64_t word, const char *what, struct sf_err *err) {
    struct sf_err local = {.code = rc};
    struct sf_err *e = err ? err : &local;
    struct head h;
    if (p->failed.code != SF_OK || p->over) {
        return p->over ? rc : report(p, e);
    }
    if (rc != SF_OK) {
        sfi_peers_tell(p, e);
        return rc;
    }
    if (p->rank == 0) {
        return agree_as_first(p, word, what, e);
    }
    if (!send_head(p->sockets[0], READY, p->rank, word, 0)) {
        return fail_gone(p, 0, e);
    }
    return wait_for_links(p, NULL, true) > 0 ? take_head(p, 0, GO, &h, e) : fail_gone(p, 0, e);
}

int sf_rt_peers_agree(struct sf_rt_peers *p, int rc, struct sf_err *err) {
    return p ? sfi_peers_agree_on(p, rc, 0, "step of its work", err) : rc;
}

/* ---- gathering -------------------------------------------------------------------------------------------------- */

/* Memory grows as bytes come, so that a length alone takes none. */
static int receive_part(struct sf_rt_peers *p, uint32_t link, struct sf_buf *part, struct sf_err *err) {
    struct head h;
    struct pollfd readable = {.fd = p->sockets[link], .events = POLLIN};
    char *chunk = sf_calloc(CHUNK_BYTES, 1);
    while (poll(&readable, 1, -1) < 0 && errno == EINTR) { /* it may still be busy making its part */
    }
    int rc = chunk ? take_head(p, link, PART, &h, err) : sf_fail_memory(err, "a rank's part");
    for (uint64_t left = rc == SF_OK ? h.bytes : 0; left > 0 && rc == SF_OK && !part->failed;) {
        size_t n = left < CHUNK_BYTES ? (size_t)left : CHUNK_BYTES;
        rc = receive_all(p->sockets[link], chunk, n) ? SF_OK : fail_gone(p, link, err);
        sf_buf_write(part, chunk, n);
        left -= n;
    }
    sf_free(chunk);
    return rc == SF_OK && part->failed ? sf_fail_memory(err, "a rank's part") : rc;
}

/* Rank 0 takes one part after the other, so this may take as long as all before it; meanwhile somebody may fail. */
static int send_part(struct sf_rt_peers *p, const char *data, uint64_t bytes, struct sf_err *err) {
    limit_unsent(p->sockets[0], 0); /* for good: the end of it may still wait for its turn when this returns */
    if (!send_head(p->sockets[0], PART, p->rank, 0, bytes)) {
        return fail_gone(p, 0, err);
    }
    for (uint64_t at = 0; at < bytes;) {
        struct pollfd link = {.fd = p->sockets[0], .events = POLLIN | POLLOUT};
        if (poll(&link, 1, -1) < 0 && errno != EINTR) {
            return sf_fail(err, SF_E_FAULT, "sending to rank 0: %s", strerror(errno));
        }
        SF_TRY(link.revents & ~POLLOUT ? sfi_peers_look(p, err) : SF_OK);
        size_t n = bytes - at < CHUNK_BYTES ? (size_t)(bytes - at) : CHUNK_BYTES;
        ssize_t sent = send(p->sockets[0], data + at, n, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno != EAGAIN && errno != EINTR) {
            return fail_gone(p, 0, err);
        }
        at += sent > 0 ? (uint64_t)sent : 0;
    }
    return SF_OK;
}

int sfi_peers_gather(struct sf_rt_peers *p, const void *mine, uint64_t bytes,
                     int (*take)(void *self, uint32_t rank, const void *data, uint64_t bytes, struct sf_err *err),
                     void *self, struct sf_err *err) {
    SF_TRY(sfi_peers_look(p, err));
    if (p->rank != 0) {
        return send_part(p, mine, bytes, err);
    }
    int rc = take(self, 0, mine, bytes, err);
    for (uint32_t i = 1; i < p->ranks && rc == SF_OK; i++) {
        struct sf_buf part = {0};
        rc = check_present(p, i, err);
        rc = rc == SF_OK ? receive_part(p, i, &part, err) : rc;
        rc = rc == SF_OK ? take(self, i, part.data, part.bytes, err) : rc;
        sf_buf_free(&part);
    }
    return rc;
}

/* ---- joining: rank 0 ------------------------------------------------------------------------------------------- */

/* Whoever has connected and has not said yet which rank it is. */
struct guest {
    int socket; /* -1: nobody */
    int64_t since_ns;
    size_t used;
    struct hello hello;
};

struct door {
    struct sf_rt_peers *p;
    const struct sfi_meeting_place *place;
    struct guest guests[STRANGERS];
    uint32_t guests_n, left; /* ranks that have not come */
};

static int open_port(uint16_t port, bool v6) {
    const int on = 1, off = 0;
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = in6addr_any};
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_ANY)};
    int s = socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s < 0) {
        return -1;
    }
    setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    int rc = v6 && setsockopt(s, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off) != 0 ? -1
             : v6 ? bind(s, (const struct sockaddr *)&six, sizeof six)
                  : bind(s, (const struct sockaddr *)&four, sizeof four);
    if (rc != 0 || listen(s, SOMAXCONN) != 0) {
        int why = errno;
        close(s);
        errno = why;
        return -1;
    }
    return s;
}

static int listen_on(uint16_t port, const char *who, int *out, struct sf_err *err) {
    *out = open_port(port, true);
    if (*out < 0 && (errno == EAFNOSUPPORT || errno == EADDRNOTAVAIL)) {
        *out = open_port(port, false);
    }
    return *out >= 0 ? SF_OK
                     : sf_fail(err, SF_E_FAULT,
                               "port %u of rank 0's host, where %s, cannot be had: %s; let MASTER_PORT name another",
                               port, who, strerror(errno));
}

static void send_away(struct guest *g, const char *why) {
    struct sf_err say = {0};
    if (why) {
        sf_fail(&say, SF_E_USAGE, "%s", why);
        send_error(g->socket, 0, &say);
    }
    close(g->socket);
    g->socket = -1;
}

static void welcome(struct door *d, struct guest *g) {
    const struct hello *h = &g->hello;
    struct sf_rt_peers *p = d->p;
    if (h->head.magic != MAGIC || h->head.kind != HELLO) {
        send_away(g, NULL);
    } else if (h->ranks != p->ranks || strncmp(h->run, d->place->run, sizeof h->run) != 0) {
        send_away(g, "belongs to another run: let MASTER_PORT keep them apart");
    } else if (h->head.rank == 0 || h->head.rank >= p->ranks || p->sockets[h->head.rank] >= 0) {
        send_away(g, "already has another process for this rank");
    } else if (!send_head(g->socket, WELCOME, 0, 0, 0)) {
        send_away(g, NULL); /* it tries again */
    } else {
        set_limits(g->socket);
        p->sockets[h->head.rank] = g->socket;
        g->socket = -1;
        d->left--;
    }
}

static void hear(struct door *d, struct guest *g, int64_t now) {
    ssize_t n = recv(g->socket, (char *)&g->hello + g->used, sizeof g->hello - g->used, MSG_DONTWAIT);
    bool nothing = n < 0 && (errno == EAGAIN || errno == EINTR);
    g->used += n > 0 ? (size_t)n : 0;
    if ((n <= 0 && !nothing) || now - g->since_ns > HELLO_NS) {
        send_away(g, NULL);
    } else if (g->used == sizeof g->hello) {
        welcome(d, g);
    }
}

static void let_in(struct door *d, int64_t now) {
    while (d->guests_n < STRANGERS) {
        int s = accept4(d->p->listener, NULL, NULL, SOCK_CLOEXEC);
        if (s < 0) {
            return;
        }
        d->guests[d->guests_n++] = (struct guest){.socket = s, .since_ns = now};
    }
}

static void hear_guests(struct door *d, int64_t now) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < d->guests_n; i++) {
        hear(d, &d->guests[i], now);
        if (d->guests[i].socket >= 0) {
            d->guests[kept++] = d->guests[i];
        }
    }
    d->guests_n = kept;
}

static void wait_at(const struct door *d) {
    struct pollfd polls[1 + STRANGERS] = {{.fd = d->guests_n < STRANGERS ? d->p->listener : -1, .events = POLLIN}};
    for (uint32_t i = 0; i < d->guests_n; i++) {
        polls[1 + i] = (struct pollfd){.fd = d->guests[i].socket, .events = POLLIN};
    }
    poll(polls, 1 + d->guests_n, RETRY_MS);
}

static int fail_missing(const struct door *d, int64_t patience_ns, struct sf_err *err) {
    char list[128] = "";
    size_t used = 0;
    for (uint32_t i = 1; i < d->p->ranks && used < sizeof list - 16; i++) {
        used += d->p->sockets[i] >= 0 ? 0 : (size_t)snprintf(list + used, sizeof list - used, " %u", i);
    }
    return sf_fail(err, SF_E_FAULT, "of %u ranks %u did not come to port %u of rank 0's host within %.3g s:%s%s",
                   d->p->ranks, d->left, d->place->peers_port, (double)patience_ns * 1e-9, list,
                   used < sizeof list - 16 ? "" : " and more");
}

static int receive_ranks(struct sf_rt_peers *p, const struct sfi_meeting_place *place, int64_t patience_ns,
                         struct sf_err *err) {
    struct door d = {.p = p, .place = place, .left = p->ranks - 1};
    int64_t deadline = sfi_now_ns() + patience_ns;
    SF_TRY(listen_on(place->peers_port, "the ranks meet", &p->listener, err));
    while (d.left > 0 && sfi_now_ns() < deadline) {
        wait_at(&d);
        let_in(&d, sfi_now_ns());
        hear_guests(&d, sfi_now_ns());
    }
    for (uint32_t i = 0; i < d.guests_n; i++) {
        close(d.guests[i].socket);
    }
    close(p->listener);
    p->listener = -1;
    if (d.left > 0) {
        fail_missing(&d, patience_ns, err);
        sfi_peers_tell(p, err);
        return SF_E_FAULT;
    }
    return SF_OK;
}

/* ---- joining: the others ---------------------------------------------------------------------------------------- */

/* -1 and why. */
static int connect_to(const struct sfi_meeting_place *place, const char **why) {
    const struct addrinfo how = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    const struct timeval limit = {.tv_sec = 5};
    struct addrinfo *found = NULL;
    char port[8];
    int s = -1;
    snprintf(port, sizeof port, "%u", place->peers_port);
    int unknown = getaddrinfo(place->host, port, &how, &found);
    if (unknown != 0) {
        *why = gai_strerror(unknown);
        return -1;
    }
    for (const struct addrinfo *a = found; a && s < 0; a = a->ai_next) {
        s = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit); /* of connecting, too */
        if (s >= 0 && connect(s, a->ai_addr, a->ai_addrlen) != 0) {
            *why = strerror(errno);
            close(s);
            s = -1;
        }
    }
    freeaddrinfo(found);
    return s;
}

/* True when it is settled, well or not: otherwise it is worth another try. */
static bool greet(struct sf_rt_peers *p, const struct sfi_meeting_place *place, const char **why, int *rc,
                  struct sf_err *err) {
    const struct timeval none = {0};
    struct hello hello = {.head = {.magic = MAGIC, .kind = HELLO, .rank = p->rank}, .ranks = p->ranks};
    struct head h;
    memcpy(hello.run, place->run, sizeof hello.run);
    int s = connect_to(place, why);
    if (s < 0) {
        return false;
    }
    *why = "what listens there is not rank 0 of this run";
    set_limits(s);
    if (!send_all(s, &hello, sizeof hello) || !receive_all(s, &h, sizeof h) || h.magic != MAGIC ||
        (h.kind != WELCOME && h.kind != FAILED)) {
        close(s);
        return false;
    }
    setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &none, sizeof none);
    p->sockets[0] = s;
    *rc = h.kind == WELCOME ? SF_OK : take_error(p, 0, &h, err);
    return true;
}

static int reach_first(struct sf_rt_peers *p, const struct sfi_meeting_place *place, int64_t patience_ns,
                       struct sf_err *err) {
    const char *why = "no socket";
    int64_t begin = sfi_now_ns();
    int rc = SF_OK;
    for (bool told = false; !greet(p, place, &why, &rc, err);) {
        int64_t waited = sfi_now_ns() - begin;
        if (waited > patience_ns) {
            return sf_fail(err, SF_E_FAULT,
                           "rank 0 did not answer at %s port %u within %.3g s (%s): is it there, and does nothing "
                           "stand between?",
                           place->host, place->peers_port, (double)patience_ns * 1e-9, why);
        }
        if (waited > QUIET_NS && !told) {
            fprintf(stderr, "staticfire: rank %u waits for rank 0 at %s port %u: %s\n", p->rank, place->host,
                    place->peers_port, why);
            told = true;
        }
        poll(NULL, 0, RETRY_MS);
    }
    return rc;
}

/* ---- all -------------------------------------------------------------------------------------------------------- */

/* A socket for each rank. */
static int allow_files(uint32_t ranks, struct sf_err *err) {
    struct rlimit limit;
    rlim_t need = (rlim_t)ranks + STRANGERS + 256;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= need) {
        return SF_OK;
    }
    limit.rlim_cur = need < limit.rlim_max ? need : limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    return limit.rlim_cur >= need
               ? SF_OK
               : sf_fail(err, SF_E_FAULT, "%u ranks need %llu open files, %llu are allowed: ulimit -n", ranks,
                         (unsigned long long)need, (unsigned long long)limit.rlim_cur);
}

int sfi_peers_join(const struct sfi_meeting_place *place, uint32_t rank, uint32_t ranks, int64_t patience_ns,
                   struct sf_rt_peers **out, struct sf_err *err) {
    SF_TRY(rank == 0 ? allow_files(ranks, err) : SF_OK);
    struct sf_rt_peers *p = sf_calloc(1, sizeof *p);
    uint32_t n = rank == 0 ? ranks : 1;
    if (!p) {
        return sf_fail_memory(err, "the channel between ranks");
    }
    *p = (struct sf_rt_peers){.rank = rank, .ranks = ranks, .listener = -1};
    p->sockets = sf_calloc(n, sizeof *p->sockets);
    p->polls = sf_calloc(n, sizeof *p->polls);
    int rc = p->sockets && p->polls ? SF_OK : sf_fail_memory(err, "the channel between ranks");
    for (uint32_t i = 0; rc == SF_OK && i < n; i++) {
        p->sockets[i] = -1;
    }
    if (rc == SF_OK) {
        rc = rank == 0 ? receive_ranks(p, place, patience_ns, err) : reach_first(p, place, patience_ns, err);
    }
    if (rc != SF_OK) {
        sf_rt_peers_close(p, rc, err);
        return rc;
    }
    *out = p;
    return SF_OK;
}

/* NCCL's first rank listens where this says, unless somebody has said so before. */
static int tell_nccl(const struct sfi_meeting_place *place, uint32_t rank, struct sf_err *err) {
    bool v6 = strchr(place->host, ':') && place->host[0] != '[';
    char text[SFI_HOST_BYTES + 16];
    int listener;
    if (getenv("NCCL_COMM_ID")) {
        return SF_OK;
    }
    if (rank == 0) {
        SF_TRY(listen_on(place->nccl_port, "NCCL's first rank is to listen", &listener, err));
        close(listener);
    }
    snprintf(text, sizeof text, v6 ? "[%s]:%u" : "%s:%u", place->host, place->nccl_port);
    return setenv("NCCL_COMM_ID", text, 1) == 0 ? SF_OK : sf_fail_memory(err, "the environment");
}

int sf_rt_peers_open(uint32_t rank, uint32_t ranks, struct sf_rt_peers **out, struct sf_err *err) {
    struct sfi_meeting_place place;
    *out = NULL;
    SF_TRY(sfi_place_meeting(&place, err));
    SF_TRY(sfi_peers_join(&place, rank, ranks, PATIENCE_NS, out, err));
    return sf_rt_peers_agree(*out, tell_nccl(&place, rank, err), err);
}

void sf_rt_peers_close(struct sf_rt_peers *p, int rc, const struct sf_err *err) {
    if (!p) {
        return;
    }
    bool failed = rc != SF_OK && rc != SF_E_INTERRUPTED;
    for (uint32_t i = 0; p->sockets && i < links(p); i++) {
        if (p->sockets[i] < 0) {
            continue;
        }
        if (p->failed.code == SF_OK) {
            failed ? (void)send_error(p->sockets[i], p->rank, err) : (void)send_head(p->sockets[i], BYE, p->rank, 0, 0);
        }
        close(p->sockets[i]);
    }
    sf_free(p->sockets);
    sf_free(p->polls);
    sf_free(p);
}

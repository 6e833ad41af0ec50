/* The binary form of a program. Layout:
 *   magic[8] version:u32 zero:u32 payload_bytes:u64 XXH3-128 of the payload:2*u64 payload
 * The digest is the program's identity: it covers everything that can change what the program does. */
#define XXH_STATIC_LINKING_ONLY /* for a digest state without the heap */
#include <string.h>
#include <xxhash.h>

#include "core/codec.h"
#include "core/prog_check.h"
#include "core/prog_file.h"

#define PICKS (UINT32_C(1) << 31) /* no axis: there are at most 8 */

static const char magic[8] = "SFPROG\r\n"; /* the line end betrays text-mode copies */

/* Bytes of each item in the file; for those with a name, of the shortest. */
enum { CALL_BYTES = 144, OP_BYTES = 38, ARG_BYTES = 21, BUFFER_BYTES = 30, TENSOR_BYTES = 70, RECIPE_BYTES = 10 };
enum { CLASS_BYTES = 42 };

static void visit_job(struct sfi_codec *c, struct sf_prog_job *j) {
    sfi_code_u32(c, &j->microbatches);
    sfi_code_u32(c, &j->micro_batch_sequences);
    sfi_code_u32(c, &j->seq_len_tokens);
    sfi_code_u32(c, &j->chunks);
    sfi_code_u32(c, &j->extra_copies);
    sfi_code_u32(c, &j->slices);
    sfi_code_u64(c, &j->global_batch_sequences);
    sfi_code_f64(c, &j->model_flops_per_step);
    sfi_code_u64(c, &j->vocab);
    sfi_code_f32(c, &j->lr);
    sfi_code_f32(c, &j->beta1);
    sfi_code_f32(c, &j->beta2);
    sfi_code_f32(c, &j->eps);
    sfi_code_f32(c, &j->weight_decay);
    sfi_code_u32(c, &j->warmup_steps);
    sfi_code_u64(c, &j->seed);
}

/* Only where there are any, which a bit of the axes says: other programs keep their bytes, and their hash. */
static void visit_comm(struct sfi_codec *c, struct sf_comm *comm) {
    uint32_t axes = comm->axes | (sf_coll_picks_any(&comm->picks) ? PICKS : 0);
    sfi_code_u32(c, &axes);
    if (sfi_reading(c)) {
        comm->axes = axes & ~PICKS;
    }
    for (int op = 0; op < SF_COLL_OPS_N && (axes & PICKS) != 0 && c->rc == 0; op++) {
        sfi_code_u8(c, &comm->picks.of[op]);
    }
    if ((axes & PICKS) != 0 && c->rc == 0 && !sf_coll_picks_any(&comm->picks)) {
        sfi_codec_fail(c, "communicator \"%s\" says that it has picks and has none", comm->name);
    }
}

static void visit_mesh(struct sfi_codec *c, struct sf_prog *p) {
    sfi_code_count(c, &p->axes_n, SF_MAX_AXES, 6, "axes");
    for (uint32_t i = 0; i < p->axes_n && c->rc == 0; i++) {
        sfi_code_text(c, p->axes[i].name, SF_NAME);
        sfi_code_u32(c, &p->axes[i].size);
    }
    sfi_code_count(c, &p->comms_n, SF_MAX_COMMS, 6, "communicators");
    for (uint32_t i = 0; i < p->comms_n && c->rc == 0; i++) {
        sfi_code_text(c, p->comms[i].name, SF_NAME);
        visit_comm(c, &p->comms[i]);
    }
    sfi_code_count(c, &p->streams_n, SF_MAX_STREAMS, 2, "streams");
    for (uint32_t i = 0; i < p->streams_n && c->rc == 0; i++) {
        sfi_code_text(c, p->streams[i], SF_NAME);
    }
    sfi_code_u32(c, &p->class_axes);
    sfi_code_u32(c, &p->ranks_per_domain);
    sfi_code_u32(c, &p->domain_gpus);
    sfi_code_u64(c, &p->device_memory_bytes);
    sfi_code_u64(c, &p->host_memory_bytes);
    sfi_code_count(c, &p->recipes_n, SF_MAX_RECIPES, RECIPE_BYTES, "recipes");
    sfi_code_count(c, &p->classes_n, SF_MAX_CLASSES, CLASS_BYTES, "classes");
}

/* As long as the mesh says, so its length is not stored. */
static void visit_binding(struct sfi_codec *c, struct sf_prog *p) {
    uint32_t ranks, n;
    if (c->rc == 0) {
        c->rc = sfi_check_mesh(p, &ranks, &n, c->err);
    }
    if (c->rc == 0 && sfi_reading(c) && n > (c->bytes - c->at) / sizeof *p->class_of) {
        sfi_codec_fail(c, "a binding of %u entries does not fit in the %zu bytes that follow", n, c->bytes - c->at);
    }
    uint32_t *class_of = c->rc == 0 ? sfi_code_array(c, p->class_of, n, sizeof *class_of) : NULL;
    for (uint32_t i = 0; c->rc == 0 && i < n; i++) {
        sfi_code_u32(c, &class_of[i]);
    }
    if (sfi_reading(c)) {
        p->class_of = class_of;
    }
}

static void visit_call(struct sfi_codec *c, struct sf_call *k) {
    sfi_code_u8(c, &k->kind);
    sfi_code_u8(c, &k->dtype);
    sfi_code_u16(c, &k->flags);
    sfi_code_u32(c, &k->comm);
    sfi_code_f32(c, &k->imm[0]);
    sfi_code_f32(c, &k->imm[1]);
    for (int i = 0; i < SF_CALL_DIMS; i++) {
        sfi_code_i64(c, &k->dims[i]);
    }
    for (int i = 0; i < SF_CALL_OPERANDS; i++) {
        sfi_code_u64(c, &k->operand[i]);
    }
}

static void visit_op(struct sfi_codec *c, struct sf_op *op) {
    sfi_code_u8(c, &op->kind);
    sfi_code_u8(c, &op->stream);
    sfi_code_u16(c, &op->flags);
    sfi_code_u64(c, &op->bytes);
    sfi_code_u32(c, &op->recipe);
    sfi_code_u32(c, &op->comm);
    sfi_code_i32(c, &op->peer_delta);
    sfi_code_u16(c, &op->arg_n);
    sfi_code_u16(c, &op->dep_n);
    sfi_code_u16(c, &op->microbatch);
    sfi_code_u16(c, &op->chunk);
    sfi_code_u16(c, &op->group);
    sfi_code_u16(c, &op->slice);
}

static void visit_arg(struct sfi_codec *c, struct sf_arg *a) {
    uint8_t access = (uint8_t)a->access;
    sfi_code_u32(c, &a->buf);
    sfi_code_u8(c, &access);
    sfi_code_u64(c, &a->offset);
    sfi_code_u64(c, &a->bytes);
    if (sfi_reading(c)) {
        a->access = access;
    }
}

static void visit_dep(struct sfi_codec *c, uint32_t *dep) {
    sfi_code_u32(c, dep);
}

static void visit_buffer(struct sfi_codec *c, struct sf_buffer *b) {
    sfi_code_text(c, b->name, SF_NAME);
    sfi_code_u64(c, &b->bytes);
    sfi_code_u64(c, &b->offset);
    sfi_code_u32(c, &b->first_op);
    sfi_code_u32(c, &b->last_op);
    sfi_code_u32(c, &b->kind);
}

static void visit_tensor(struct sfi_codec *c, struct sf_tensor *t) {
    sfi_code_text(c, t->name, sizeof t->name);
    sfi_code_u32(c, &t->buf);
    sfi_code_u32(c, &t->init);
    sfi_code_u64(c, &t->offset);
    sfi_code_u64(c, &t->rows);
    sfi_code_u64(c, &t->cols);
    sfi_code_f32(c, &t->init_std);
    sfi_code_u32(c, &t->dtype);
    sfi_code_u32(c, &t->comm);
    sfi_code_u64(c, &t->first_row);
    sfi_code_u64(c, &t->whole_rows);
    sfi_code_u64(c, &t->whole_cols);
}

/* A count, then that many items of one type. */
#define VISIT_ARRAY(c, array, count, type, visit, limit, min_bytes, what)                                              \
    do {                                                                                                               \
        sfi_code_count(c, &(count), limit, min_bytes, what);                                                           \
        type *items_ = sfi_code_array(c, array, count, sizeof *items_);                                                \
        for (uint32_t i_ = 0; (c)->rc == 0 && i_ < (count); i_++) {                                                    \
            visit(c, &items_[i_]);                                                                                     \
        }                                                                                                              \
        if (sfi_reading(c)) {                                                                                          \
            (array) = items_;                                                                                          \
        }                                                                                                              \
    } while (0)

static void visit_recipe(struct sfi_codec *c, struct sf_recipe *r) {
    sfi_code_text(c, r->name, SF_NAME);
    sfi_code_u32(c, &r->formals_n);
    VISIT_ARRAY(c, r->calls, r->calls_n, struct sf_call, visit_call, SF_MAX_RECIPE_CALLS, CALL_BYTES, "calls");
}

/* Args and deps lie in op order, so where each op's begin is not stored. Sums that leave the arrays are refused later,
 * by sfi_prog_storable. */
static void find_firsts(const struct sfi_codec *c, struct sf_class *k) {
    struct sf_op *ops = (struct sf_op *)(uintptr_t)k->ops; /* just read, still ours */
    uint32_t arg = 0, dep = 0;
    for (uint32_t i = 0; c->rc == 0 && i < k->ops_n; i++) {
        ops[i].arg_first = arg;
        ops[i].dep_first = dep;
        arg += ops[i].arg_n;
        dep += ops[i].dep_n;
    }
}

static void visit_class(struct sfi_codec *c, struct sf_class *k) {
    sfi_code_text(c, k->name, SF_NAME);
    sfi_code_u32(c, &k->stage);
    sfi_code_u64(c, &k->arena_bytes);
    sfi_code_u64(c, &k->host_bytes);
    VISIT_ARRAY(c, k->bufs, k->bufs_n, struct sf_buffer, visit_buffer, SF_MAX_CLASS_OPS, BUFFER_BYTES, "buffers");
    VISIT_ARRAY(c, k->tensors, k->tensors_n, struct sf_tensor, visit_tensor, SF_MAX_CLASS_OPS, TENSOR_BYTES, "tensors");
    VISIT_ARRAY(c, k->ops, k->ops_n, struct sf_op, visit_op, SF_MAX_CLASS_OPS, OP_BYTES, "ops");
    VISIT_ARRAY(c, k->args, k->args_n, struct sf_arg, visit_arg, SFI_MAX_CLASS_ITEMS, ARG_BYTES, "args");
    VISIT_ARRAY(c, k->deps, k->deps_n, uint32_t, visit_dep, SFI_MAX_CLASS_ITEMS, sizeof(uint32_t), "deps");
    if (sfi_reading(c)) {
        find_firsts(c, k);
    }
}

static void visit_prog(struct sfi_codec *c, struct sf_prog *p) {
    sfi_code_text(c, p->title, sizeof p->title);
    sfi_code_hash(c, &p->source);
    visit_job(c, &p->job);
    visit_mesh(c, p);
    visit_binding(c, p);
    struct sf_recipe *recipes = sfi_code_array(c, p->recipes, p->recipes_n, sizeof *recipes);
    for (uint32_t i = 0; c->rc == 0 && i < p->recipes_n; i++) {
        visit_recipe(c, &recipes[i]);
    }
    struct sf_class *classes = sfi_code_array(c, p->classes, p->classes_n, sizeof *classes);
    for (uint32_t i = 0; c->rc == 0 && i < p->classes_n; i++) {
        visit_class(c, &classes[i]);
    }
    if (sfi_reading(c)) {
        p->recipes = recipes;
        p->classes = classes;
    }
}

static void visit_header(struct sfi_codec *c, uint32_t *version, uint64_t *payload_bytes, struct sf_hash *digest) {
    uint32_t zero = 0;
    sfi_code_u32(c, version);
    sfi_code_u32(c, &zero);
    sfi_code_u64(c, payload_bytes);
    sfi_code_hash(c, digest);
    if (c->rc == 0 && zero != 0) {
        sfi_codec_fail(c, "the header is damaged");
    }
}

/* Visiting for output leaves the program untouched, see codec.h. */
static struct sf_prog *visited(const struct sf_prog *prog) {
    return (struct sf_prog *)(uintptr_t)prog;
}

int sf_prog_encode(const struct sf_prog *prog, struct sf_buf *out, struct sf_err *err) {
    SF_TRY(sfi_prog_storable(prog, err));
    struct sf_buf payload = {0};
    unsigned char room[SFI_CODEC_ROOM];
    struct sfi_codec body = {
        .sink = sfi_sink_buf, .self = &payload, .err = err, .pending = room, .pending_size = sizeof room};
    visit_prog(&body, visited(prog));
    sfi_codec_flush(&body);
    if (body.rc == 0 && payload.failed) {
        body.rc = sf_fail_memory(err, "an encoded program");
    }
    if (body.rc == 0) {
        struct sfi_codec head = {.sink = sfi_sink_buf, .self = out, .err = err};
        uint32_t version = SF_PROG_VERSION;
        uint64_t bytes = payload.bytes;
        struct sf_hash digest = sf_hash_bytes(payload.data, payload.bytes);
        sf_buf_write(out, magic, sizeof magic);
        visit_header(&head, &version, &bytes, &digest);
        sf_buf_write(out, payload.data, payload.bytes);
        body.rc = out->failed ? sf_fail_memory(err, "an encoded program") : head.rc;
    }
    sf_buf_free(&payload);
    return body.rc;
}

static void sink_digest(void *self, const void *data, size_t bytes) {
    XXH3_128bits_update(self, data, bytes);
}

struct sf_hash sf_prog_hash(const struct sf_prog *prog) {
    XXH3_state_t state;
    XXH3_INITSTATE(&state);
    XXH3_128bits_reset(&state);
    unsigned char room[SFI_CODEC_ROOM];
    struct sfi_codec c = {.sink = sink_digest, .self = &state, .pending = room, .pending_size = sizeof room};
    visit_prog(&c, visited(prog));
    sfi_codec_flush(&c);
    XXH128_hash_t h = XXH3_128bits_digest(&state);
    return (struct sf_hash){.hi = h.high64, .lo = h.low64};
}

static int decode_header(struct sfi_codec *c) {
    uint32_t version = 0;
    uint64_t payload_bytes = 0;
    struct sf_hash digest = {0};
    char found[sizeof magic] = "";
    sfi_code_raw(c, found, sizeof found);
    if (c->rc == 0 && memcmp(found, magic, sizeof magic) != 0) {
        c->at = 0;
        return sfi_codec_fail(c, "expected a program file, found something else");
    }
    visit_header(c, &version, &payload_bytes, &digest);
    if (c->rc == 0 && version != SF_PROG_VERSION) {
        return sfi_codec_fail(c, "program version %u, expected %d: compile the plan again", version, SF_PROG_VERSION);
    }
    if (c->rc == 0 && payload_bytes != c->bytes - c->at) {
        return sfi_codec_fail(c, "the file is cut off or has a tail: expected %llu more bytes, found %zu",
                              (unsigned long long)payload_bytes, c->bytes - c->at);
    }
    if (c->rc == 0 && !sf_hash_equal(digest, sf_hash_bytes(c->data + c->at, c->bytes - c->at))) {
        return sfi_codec_fail(c, "the file is damaged: its digest does not match its content");
    }
    return c->rc;
}

static int decode(struct sfi_codec *c, struct sf_prog *prog) {
    SF_TRY(decode_header(c));
    visit_prog(c, prog);
    if (c->rc == 0 && c->at != c->bytes) {
        sfi_codec_fail(c, "%zu bytes too many behind the program", c->bytes - c->at);
    }
    return c->rc != 0 ? c->rc : sfi_prog_accept(prog, c->err);
}

int sf_prog_decode(const void *data, size_t bytes, const char *name, struct sf_prog **out, struct sf_err *err) {
    *out = NULL;
    struct sf_prog *prog = sfi_prog_create();
    if (prog == NULL) {
        return sf_fail_memory(err, "a program");
    }
    struct sfi_codec c = {.data = data, .bytes = bytes, .arena = prog->arena, .name = name, .err = err};
    int rc = decode(&c, prog);
    if (rc != 0) {
        sf_prog_free(prog);
        return sfi_name_file(err, rc, name);
    }
    *out = prog;
    return 0;
}

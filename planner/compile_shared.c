/* Experts that every token takes: a feed-forward like that of a layer without experts, of a width of its own, added to
 * what the others make. */
#include "planner/compile_internal.h"

struct shared {
    struct sfi_shape shape;
    struct sfi_acts a;
};

/* The layer as if it had nothing else. */
static void view(const struct sfi_recipe *r, const struct sfi_acts *a, struct shared *out) {
    out->shape = *r->shape;
    out->shape.experts = 0;
    out->shape.ffn_local = r->shape->shared_local;
    out->shape.up_local = r->shape->shared_up;
    out->a = *a;
    out->a.gate_up = a->shared_up;
    out->a.act = a->shared_act;
}

static struct sfi_refs view_refs(const struct sfi_refs *w) {
    struct sfi_refs out = *w;
    out.gate_up = w->shared_up;
    out.down = w->shared_down;
    return out;
}

void sfi_shared_forward(struct sfi_recipe *r, const struct sfi_acts *a, const struct sfi_refs *w, sf_ref out) {
    const struct sfi_shape *whole = r->shape;
    uint64_t mark = r->work.at;
    struct shared s;
    if (whole->shared_local == 0) {
        return;
    }
    const struct sfi_refs refs = view_refs(w);
    view(r, a, &s);
    sf_ref mine = sfi_take(&r->work, whole->row_bytes);
    r->shape = &s.shape;
    sfi_ffn_forward(r, &s.a, &refs, mine);
    r->shape = whole;
    sfi_call_add(r, out, mine, out);
    r->work.at = mark;
}

void sfi_shared_backward(struct sfi_recipe *r, const struct sfi_acts *a, const struct sfi_refs *w,
                         const struct sfi_refs *dw, sf_ref g, sf_ref dn) {
    const struct sfi_shape *whole = r->shape;
    uint64_t mark = r->work.at;
    struct shared s;
    if (whole->shared_local == 0) {
        return;
    }
    const struct sfi_refs refs = view_refs(w), gradients = view_refs(dw);
    view(r, a, &s);
    sf_ref mine = r->inputs ? sfi_take(&r->work, whole->row_bytes) : SF_REF_NONE;
    r->shape = &s.shape;
    sfi_ffn_backward(r, &s.a, &refs, &gradients, g, mine);
    r->shape = whole;
    if (r->inputs) {
        sfi_call_add(r, dn, mine, dn);
    }
    r->work.at = mark;
}

void sfi_shared_redo(struct sfi_recipe *r, const struct sfi_acts *a) {
    const struct sfi_shape *whole = r->shape;
    struct shared s;
    if (whole->shared_local == 0) {
        return;
    }
    view(r, a, &s);
    r->shape = &s.shape;
    sfi_call_glu(r, SF_CALL_GLU_FWD, s.shape.tokens, (const sf_ref[]){s.a.gate_up, s.a.act}, 2);
    r->shape = whole;
}

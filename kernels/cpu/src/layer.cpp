// A decoder layer in one call: the operations that Python would call one after the other, in their order and so with their bits. Between two of
// them there is then nothing to wait for, and nothing is computed but what they compute.
#include <cstring>
#include <ctime>

#include "operations.h"
#include "parallel.h"
#include "vectors.h"

namespace {

using namespace infer;

// All of these have the order and the types of layer.py's.
struct Norm {
    const void *weight, *bias;  // [hidden], of `dtype`; without a weight there is no norm
    int64_t centered, dtype;
    double eps;
};

// See infer_gemm; with a scale infer_gemm_int8, by quantized rows.
struct Product {
    const void *panels, *bias;
    const float *scale;
    const int32_t *sums;
    int64_t outs, words, widened, bias_dtype, half, gate;
};

struct Layer {
    Norm attention_norm, attention_out_norm, mlp_norm, mlp_out_norm;
    Product qkv, out, up, down;
    const float *cos, *sin;  // null: nothing is rotated
    int64_t rotated;
    const void *norm_query, *norm_key;
    int64_t head_norm_dtype, heads, kv_heads, head_dim, window;
    const float *alibi, *sinks, *distances;
    int64_t of_head, activation, gated, hidden, dtype;
    double head_eps, scale, soft_cap;
};

struct Step {
    int64_t rows, stored;  // of which the first `stored` are tokens
    const int64_t *positions, *slots;
    int64_t block_size;
    const int32_t *query_start, *kv_lens, *tables, *spans;
    int64_t table_stride;
    const Member *members;
    const Run *runs;
    const ItemParts *items;
    int64_t num_items, heads_together;
    void *wide, *narrow;  // room for what `Pass::run` makes on the way: [rows or num_wanted, the more] of the most features that it says
    uint8_t *codes;       // the same for quantized rows
    float *factors;       // [rows or num_wanted, the more]: scales of quantized rows, and so of what products give of them
};

// What differs from layer to layer and from step to step.
struct Call {
    void *x;                // [rows][hidden]: what is still to be added; of the result the same, or in `x_out`
    const float *x_scale;   // [rows] or null: factors of x, which may be the step's
    int64_t adds;           // 0: nothing is, x is room for the result
    void *residual;         // [rows][hidden]
    void *key, *value;      // the layer's cache
    int64_t cache_dtype;
    const int64_t *wanted;  // [num_wanted]: the only rows that are wanted
    int64_t num_wanted;     // -1: all are
    void *x_out, *residual_out;  // [num_wanted][hidden], where some are wanted
    int64_t *nanoseconds;        // [parts] are added to, if not null, in the order of `Pass::run`
};

// The time since it was last asked, if anybody wants to know.
class Watch {
  public:
    explicit Watch(int64_t *into) : into(into), last(into ? now() : 0) {}
    void part() {
        if (!into) return;
        const int64_t time = now();
        *into++ += time - last;
        last = time;
    }

  private:
    static int64_t now() {
        timespec time;
        clock_gettime(CLOCK_MONOTONIC, &time);
        return time.tv_sec * 1000000000LL + time.tv_nsec;
    }
    int64_t *into, last;
};

class Pass {
  public:
    Pass(const Layer &l, const Step &s, const Call &c) : l(l), s(s), c(c), item(l.dtype == F32 ? 4 : 2) {}

    void run() {
        Watch watch(c.nanoseconds);
        const int64_t width = l.heads * l.head_dim;
        void *x = c.x, *residual = c.residual;
        int64_t rows = s.rows;
        norm(l.attention_norm, c.adds ? x : residual, c.x_scale, c.adds ? residual : nullptr, x, rows, l.qkv.scale);
        watch.part();
        product(l.qkv, s.wide, x, rows);
        watch.part();
        infer_rope_and_store(s.wide, factors(l.qkv), l.qkv.outs, s.positions, l.cos, l.sin, l.norm_query, l.norm_key, s.narrow, l.rotated, c.key, c.value,
                             s.block_size, s.slots, rows, s.stored, l.heads, l.kv_heads, l.head_dim, l.dtype, c.cache_dtype, l.head_norm_dtype, (float)l.head_eps);
        watch.part();
        const void *seen = s.wide;
        memset(row(s.wide, s.stored, width), 0, (rows - s.stored) * width * item);
        infer_attention(s.wide, s.narrow, c.key, c.value, s.query_start, s.kv_lens, s.tables, s.spans, s.table_stride, s.members, s.runs, s.items, s.num_items,
                        s.heads_together, l.heads, l.kv_heads, l.head_dim, s.block_size, l.window, (float)l.scale, (float)l.soft_cap, l.alibi, l.sinks,
                        l.distances, l.of_head, l.dtype, c.cache_dtype);
        if (c.num_wanted >= 0) {
            rows = c.num_wanted;
            choose(s.narrow, s.wide, width), choose(c.residual_out, residual, l.hidden);
            seen = s.narrow, x = c.x_out, residual = c.residual_out;
        }
        watch.part();
        if (l.out.scale) infer_quantize(seen, s.codes, s.factors, rows, width, l.dtype);
        watch.part();
        product(l.out, x, seen, rows);
        watch.part();
        const float *of_x = factors(l.out);
        if (l.attention_out_norm.weight) norm(l.attention_out_norm, x, of_x, nullptr, x, rows, false), of_x = nullptr;
        norm(l.mlp_norm, x, of_x, residual, x, rows, l.up.scale);
        watch.part();
        // `wide` has qkv, what attention gives, and what `up` gives if it does not gate; `narrow` queries, chosen rows, and what `down` reads or, if
        // that is quantized behind a gate, is made of, in float32.
        const bool fused = l.up.gate >= 0, quantizes = l.down.scale;
        const int64_t size = l.gated ? l.up.outs / 2 : l.up.outs;
        product(l.up, fused ? s.narrow : s.wide, x, rows);
        watch.part();
        if (!fused)
            infer_activation(s.wide, factors(l.up), quantizes ? s.codes : s.narrow, quantizes ? s.factors : nullptr, rows, size, l.dtype, l.activation, l.gated);
        else if (quantizes)
            infer_quantize(s.narrow, s.codes, s.factors, rows, size, F32);
        watch.part();
        product(l.down, x, s.narrow, rows);
        watch.part();
        if (l.mlp_out_norm.weight) norm(l.mlp_out_norm, x, factors(l.down), nullptr, x, rows, false);
        watch.part();
    }

  private:
    char *row(void *rows, int64_t number, int64_t size) const { return (char *)rows + number * size * item; }

    void choose(void *to, const void *from, int64_t size) const {
        for (int64_t i = 0; i < c.num_wanted; i++) memcpy(row(to, i, size), row((void *)from, c.wanted[i], size), size * item);
    }

    // To `out`, or quantized to the step's codes and factors: each row's are read, if x has some there, before they are written.
    void norm(const Norm &n, const void *x, const float *x_scale, void *residual, void *out, int64_t rows, bool quantizes) const {
        float *scale = quantizes ? s.factors : nullptr;
        if (quantizes) out = s.codes;
        if (n.centered)
            infer_layer_norm(x, x_scale, residual, n.weight, n.bias, out, scale, rows, l.hidden, l.dtype, n.dtype, (float)n.eps);
        else
            infer_rms_norm(x, x_scale, residual, n.weight, out, scale, rows, l.hidden, l.dtype, n.dtype, (float)n.eps);
    }

    // Of x, or of the quantized rows.
    void product(const Product &p, void *out, const void *x, int64_t rows) const {
        if (!p.scale) return infer_gemm(out, x, p.panels, p.bias, rows, p.outs, p.words, l.dtype, p.widened, p.bias_dtype, p.half, p.gate);
        const float *by_bias = p.bias ? s.factors : nullptr, *by_gate = p.gate >= 0 ? factors(p) : nullptr;
        infer_gemm_int8(out, s.codes, p.panels, p.scale, p.sums, by_bias, p.bias, by_gate, rows, p.outs, p.words, l.dtype, p.bias_dtype, p.half, p.gate,
                        p.gate >= 0 && l.down.scale);
    }

    // What rows that p gives, without a gate, are still to be multiplied by.
    const float *factors(const Product &p) const { return p.scale && !p.bias ? s.factors : nullptr; }

    const Layer &l;
    const Step &s;
    const Call &c;
    const int64_t item;
};

}  // namespace

extern "C" void infer_decoder_layer(const void *layer, const void *step, const void *call) {
    Pass(*(const Layer *)layer, *(const Step *)step, *(const Call *)call).run();
}

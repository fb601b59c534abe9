// The gated delta rule, token by token. A sequence's columns of a head's state are independent of each other: one thread goes along all
// tokens with as many of them as registers hold sums for.
#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "parallel.h"
#include "vectors.h"

namespace {

using namespace infer;

#if defined(__AVX512F__)
constexpr int MOST = 4;  // vectors of columns
#else
constexpr int MOST = 2;
#endif

// As in state.py.
constexpr float LENGTH_EPS = 1e-6f;

// Rows whose queries, keys and gates are made ready at a time, for all heads and columns that read them.
constexpr int64_t ROWS = 256;

struct Step {
    const void *qkv;             // [rows, stride]: queries and keys of each key head, values of each head
    const void *gates;           // [rows, 2 * heads]
    const float *rate, *bias;    // [heads]
    float *state;                // [slots, heads, keys, values]
    const int32_t *query_start;  // [sequences + 1]
    const int32_t *kv_lens;      // [sequences]
    const int32_t *slots;        // [sequences]
    void *out;                   // [rows, heads * values]
    int64_t stride, heads, key_heads, keys, values;
    float *ready;                // [ROWS, 2 * key_heads * keys + 2 * heads]: as `qkv`, of length 1, queries scaled; decay and beta of each head

    float *columns(int64_t sequence, int64_t head) const { return state + (slots[sequence] * heads + head) * keys * values; }
    int64_t width() const { return 2 * key_heads * keys + 2 * heads; }
};

template <class T> void unit(const T *x, int64_t size, float factor, float *out) {
    f32x16 squares = {};
    over_row(size, [&](int64_t i, int n) {
        const f32x16 v = load_n(x + i, n);
        squares = vfma(v, v, squares);
    });
    factor /= __builtin_sqrtf(reduce_add(squares) + LENGTH_EPS);
    over_row(size, [&](int64_t i, int n) { store_n(out + i, load_n(x + i, n) * factor, n); });
}

template <class T, class G> void make_ready(const Step &s, int64_t row, float *ready) {
    const T *x = (const T *)s.qkv + row * s.stride;
    const float scale = 1.0f / __builtin_sqrtf((float)s.keys);
    for (int64_t head = 0; head < 2 * s.key_heads; head++, x += s.keys, ready += s.keys)
        unit(x, s.keys, head < s.key_heads ? scale : 1.0f, ready);
    const G *gates = (const G *)s.gates + row * 2 * s.heads;
    over_row(s.heads, [&](int64_t i, int n) {
        store_n(ready + s.heads + i, 1.0f / (1.0f + vexp(-load_n(gates + i, n))), n);
        const f32x16 a = load_n(gates + s.heads + i, n) + load_n(s.bias + i, n);
        f32x16 time = vexp(-vabs(a));
        for (int lane = 0; lane < n; lane++) ready[i + lane] = std::log1p(time[lane]);
        time = load_n(ready + i, n) + select(a < 0.0f, splat(0.0f), a);
        store_n(ready + i, vexp(load_n(s.rate + i, n) * time), n);
    });
}

// The rows of one sequence from `begin` on that are ready, one head, the NV * 16 columns from `column` on, of which there are `there`
// (fewer with NV = 1 only). `ahead`: the columns that this thread takes next, to be on their way.
template <class T, int NV>
void walk(const Step &s, int64_t begin, int64_t sequence, int64_t head, int64_t column, int there, const float *ahead) {
    const int64_t start = s.query_start[sequence], end = s.query_start[sequence + 1], width = s.values;
    const int64_t first = std::max(start, begin), last = std::min(end, begin + ROWS), keys = s.key_heads * s.keys;
    if (first >= last) return;
    const bool fresh = s.kv_lens[sequence] <= end - start && first == start;
    float *const state = s.columns(sequence, head) + column;
    auto read = [&](const auto *p, int n) { return NV == 1 ? load_n(p, there) : load(p + n * LANES); };
    auto write = [&](auto *p, int n, f32x16 v) { NV == 1 ? store_n(p, v, there) : store(p + n * LANES, v); };

    const float *ready = s.ready + (first - begin) * s.width();
    const float *query = ready + head / (s.heads / s.key_heads) * s.keys, *gates = ready + 2 * keys + head;
    f32x16 recalled[NV];  // key times state
#pragma GCC unroll 4
    for (int n = 0; n < NV; n++) recalled[n] = splat(0.0f);
    for (int64_t i = 0; i < s.keys; i++) {
        float *const row = state + i * width;
        const f32x16 key = splat(query[keys + i]);
#pragma GCC unroll 4
        for (int n = 0; n < NV; n++) {
            if (fresh) write(row, n, splat(0.0f));
            else recalled[n] = vfma(key, read(row, n), recalled[n]);
        }
    }
    const T *value = (const T *)s.qkv + first * s.stride + 2 * s.key_heads * s.keys + head * width + column;
    T *out = (T *)s.out + (first * s.heads + head) * width + column;
    for (int64_t t = first; t < last; t++, value += s.stride, out += s.heads * width, query += s.width(), gates += s.width()) {
        // The next token's key is multiplied by the state on the way; after the last one, its own in its place.
        const float *const following = query + keys + (t + 1 < last ? s.width() : 0);
        f32x16 change[NV], sum[NV];
#pragma GCC unroll 4
        for (int n = 0; n < NV; n++) {
            change[n] = (read(value, n) - recalled[n] * gates[0]) * gates[s.heads];
            sum[n] = recalled[n] = splat(0.0f);
        }
        const f32x16 decay = splat(gates[0]);
        for (int64_t i = 0; i < s.keys; i++) {
            float *const row = state + i * width;
            const f32x16 key = splat(query[keys + i]), asks = splat(query[i]), other = splat(following[i]);
#pragma GCC unroll 4
            for (int n = 0; n < NV; n++) {
                const f32x16 v = vfma(key, change[n], read(row, n) * decay);
                write(row, n, v);
                sum[n] = vfma(asks, v, sum[n]);
                recalled[n] = vfma(other, v, recalled[n]);
                if (t + 1 == last) __builtin_prefetch(ahead + i * width + n * LANES, 0, 2);
            }
        }
#pragma GCC unroll 4
        for (int n = 0; n < NV; n++) write(out, n, sum[n]);
    }
}

template <class T, class G> void run(const Step &s, int64_t sequences) {
    const int64_t wide = s.values / (MOST * LANES), parts = wide + (s.values % (MOST * LANES) + LANES - 1) / LANES;
    const int64_t rows = s.query_start[sequences];
    for (int64_t begin = 0; begin < rows; begin += ROWS) {
        // Sequences with rows among these.
        const int64_t from = std::upper_bound(s.query_start, s.query_start + sequences, begin) - s.query_start - 1;
        const int64_t to = std::lower_bound(s.query_start, s.query_start + sequences, std::min(rows, begin + ROWS)) - s.query_start;
        parallel_rows(std::min(rows - begin, ROWS), s.width(), [&](int64_t row) { make_ready<T, G>(s, begin + row, s.ready + row * s.width()); });
        const int64_t tasks = (to - from) * s.heads * parts;
        auto column_of = [&](int64_t part) { return part < wide ? part * MOST * LANES : wide * MOST * LANES + (part - wide) * LANES; };
        auto place_of = [&](int64_t task) { return s.columns(from + task / parts / s.heads, task / parts % s.heads) + column_of(task % parts); };
        // Where each is a token or so, what counts is that the next columns are on their way from memory.
        parallel_for(tasks, tasks < 1000 ? 1 : 16, [&](int64_t task) {
            const int64_t part = task % parts, head = task / parts % s.heads, sequence = from + task / parts / s.heads;
            const int64_t column = column_of(part), there = std::min<int64_t>(LANES, s.values - column);
            const float *const ahead = place_of(task + 1 < tasks ? task + 1 : task);
            if (part < wide) walk<T, MOST>(s, begin, sequence, head, column, LANES, ahead);
            else walk<T, 1>(s, begin, sequence, head, column, (int)there, ahead);
        });
    }
}

}  // namespace

extern "C" void infer_gated_delta_rule(const void *qkv, int64_t stride, const void *gates, const float *rate, const float *bias, float *state,
                                       const int32_t *query_start, const int32_t *kv_lens, const int32_t *slots, void *out, int64_t sequences,
                                       int64_t heads, int64_t key_heads, int64_t keys, int64_t values, int64_t dtype, int64_t gates_dtype) {
    Step s{qkv, gates, rate, bias, state, query_start, kv_lens, slots, out, stride, heads, key_heads, keys, values, nullptr};
    s.ready = (float *)malloc(std::min<int64_t>(ROWS, query_start[sequences]) * s.width() * sizeof(float));
    INFER_DISPATCH(dtype, T, INFER_DISPATCH(gates_dtype, G, run<T, G>(s, sequences)));
    free(s.ready);
}

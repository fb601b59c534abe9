// Mamba-2's scan, token by token. The features of a head are independent of each other: lanes are features, and a sum over the state's
// rows stays in its lane. One thread goes along all tokens of a sequence with up to 64 features of a head, some tokens at a time, so
// that the state is read and written once for all of these; each number goes through the same steps however many they are.
#include <algorithm>

#include "parallel.h"
#include "state/softplus.h"
#include "state/rows.h"

namespace {

using namespace infer;

constexpr int WIDE = 4;  // vectors of features that go along together
#if defined(__AVX512F__)
constexpr int TOKENS = 4, AT_ONCE = 2;  // tokens at a time, and vectors: what registers hold
#else
constexpr int TOKENS = 2, AT_ONCE = 1;
#endif

struct Scan {
    const void *xbc;   // [rows, stride]: features, rows of B, rows of C
    const void *dt;    // [rows, dt_stride]
    const float *rate, *skip, *bias;  // [heads]
    float *state;      // [slots, heads, depth, width]
    void *out;         // [rows, heads * width]
    float *steps;      // [rows, heads]: the time that each token takes
    float *decays;     // [rows, heads]: what it leaves of a state
    float *bc;         // [rows, 2 * groups * depth]: B and C
    int64_t stride, dt_stride, heads, groups, width, depth;
    float low, high;   // of times
};

template <class T> void prepare_row(const Scan &s, int64_t row) {
    const T *dt = (const T *)s.dt + row * s.dt_stride;
    float *steps = s.steps + row * s.heads, *decays = s.decays + row * s.heads;
    over_row(s.heads, [&](int64_t i, int n) {
        f32x16 step = softplus(load_n(dt + i, n) + load_n(s.bias + i, n));
        step = vmax(splat(s.low), vmin(splat(s.high), step));  // NaN stays
        store_n(steps + i, step, n);
        store_n(decays + i, vexp(step * load_n(s.rate + i, n)), n);
    });
    const int64_t size = 2 * s.groups * s.depth;
    widen_row((const T *)s.xbc + row * s.stride + s.heads * s.width, size, s.bc + row * size);
}

// A part of one head: `there` lanes of its vectors are features (fewer than all of one alone).
struct Part {
    int64_t head, column;
    int there;
};

// Tokens `row` to `row` + N, vectors of features from `at` on to `at` + V.
template <class T, int N, int V> inline void advance(const Scan &s, const Part &p, int64_t row, int at, float *state) {
    const int64_t column = p.head * s.width + p.column + at * LANES, bc_size = 2 * s.groups * s.depth;
    auto read = [&](const auto *from, int v) { return V == 1 ? load_n(from, p.there) : load(from + v * LANES); };
    auto write = [&](auto *to, int v, f32x16 x) { V == 1 ? store_n(to, x, p.there) : store(to + v * LANES, x); };
    const float *b[N], *c[N];
    f32x16 decay[N], added[N][V], sum[N][V];
#pragma GCC unroll 4
    for (int n = 0; n < N; n++) {
        b[n] = s.bc + (row + n) * bc_size + p.head / (s.heads / s.groups) * s.depth;
        c[n] = b[n] + s.groups * s.depth;
        decay[n] = splat(s.decays[(row + n) * s.heads + p.head]);
        const float step = s.steps[(row + n) * s.heads + p.head];
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) {
            added[n][v] = read((const T *)s.xbc + (row + n) * s.stride + column, v) * step;
            sum[n][v] = splat(0.0f);
        }
    }
    state += at * LANES;
    for (int64_t i = 0; i < s.depth; i++, state += s.width) {
        f32x16 h[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) h[v] = read(state, v);
#pragma GCC unroll 4
        for (int n = 0; n < N; n++) {
            const f32x16 in = splat(b[n][i]), out = splat(c[n][i]);
#pragma GCC unroll 4
            for (int v = 0; v < V; v++) {
                h[v] = vfma(h[v], decay[n], added[n][v] * in);
                sum[n][v] = vfma(h[v], out, sum[n][v]);
            }
        }
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) write(state, v, h[v]);
    }
    const f32x16 skip = splat(s.skip[p.head]);
#pragma GCC unroll 4
    for (int n = 0; n < N; n++) {
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) {
            const f32x16 x = read((const T *)s.xbc + (row + n) * s.stride + column, v);
            write((T *)s.out + (row + n) * s.heads * s.width + column, v, vfma(skip, x, sum[n][v]));
        }
    }
}

// V vectors of features of one head, along all tokens of a sequence.
template <class T, int V> void walk(const Scan &s, const States &states, int64_t sequence, const Part &p) {
    constexpr int FEW = V < AT_ONCE ? V : AT_ONCE;
    float *state = s.state + (states.slots[sequence] * s.heads + p.head) * s.depth * s.width + p.column;
    if (states.fresh(sequence))
        for (int64_t i = 0; i < s.depth; i++) memset(state + i * s.width, 0, (V == 1 ? p.there : V * LANES) * sizeof(float));
    int64_t row = states.first(sequence);
    const int64_t last = states.last(sequence);
    for (; row + TOKENS <= last; row += TOKENS)
        for (int at = 0; at < V; at += FEW) advance<T, TOKENS, FEW>(s, p, row, at, state);
    for (; row < last; row++) advance<T, 1, V>(s, p, row, 0, state);
}

template <class T> void scan(const Scan &s, const States &states) {
    const int64_t rows = states.last(states.sequences - 1);
    const int64_t wide = s.width / (WIDE * LANES), parts = wide + (s.width % (WIDE * LANES) + LANES - 1) / LANES;
    parallel_rows(rows, s.groups * s.depth * 2 + s.heads * 4, [&](int64_t row) { prepare_row<T>(s, row); });
    const auto one = [&](int64_t task) {
        const int64_t part = task % parts, head = task / parts % s.heads, sequence = task / parts / s.heads;
        if (states.first(sequence) == states.last(sequence)) return;
        if (part < wide) return walk<T, WIDE>(s, states, sequence, {head, part * WIDE * LANES, LANES});
        const int64_t column = (wide * WIDE + part - wide) * LANES;
        walk<T, 1>(s, states, sequence, {head, column, (int)std::min<int64_t>(LANES, s.width - column)});
    };
    Pieces pieces(states.sequences * s.heads * parts);
    in_team([&] { pieces.work(one); }, worth_threads(rows * s.heads * s.width * s.depth / 8));
}

}  // namespace

extern "C" void infer_mamba2_scan(const void *xbc, int64_t stride, const void *dt, int64_t dt_stride, const float *rate, const float *skip,
                                  const float *bias, float low, float high, float *state, const int32_t *query_start, const int32_t *kv_lens,
                                  const int32_t *slots, int64_t sequences, void *out, float *steps, float *decays, float *bc, int64_t heads,
                                  int64_t groups, int64_t width, int64_t depth, int64_t dtype) {
    const Scan s{xbc, dt, rate, skip, bias, state, out, steps, decays, bc, stride, dt_stride, heads, groups, width, depth, low, high};
    const States states{query_start, kv_lens, slots, sequences};
    INFER_DISPATCH(dtype, T, scan<T>(s, states));
}

// Mamba's selective scan, token by token. Channels are independent of each other: lanes are channels, and one thread goes along all tokens
// of a sequence with sixteen of them, whose states it holds in a buffer.
#include <cstdlib>

#include "parallel.h"
#include "powers.h"
#include "state/rows.h"
#include "state/softplus.h"

namespace {

using namespace infer;

constexpr int BLOCK = 4;  // vectors of channels one after the other, since lines of memory hold more than one's
constexpr float LOG2_E = 1.44269504f;

struct Scan {
    const void *x, *dt, *gate;  // [rows, their stride]
    const void *bc;             // [rows, bc_stride]: B, then C
    const float *rate;          // [depth, channels]
    const float *skip, *bias;   // [channels]
    float *state;               // [slots, depth, channels]
    void *out;                  // [rows, channels]
    float *wide;                // [rows, 2 * depth]: B and C
    int64_t stride, dt_stride, gate_stride, bc_stride, channels, depth;
};

// `there` channels from `channel` on, along the tokens of a sequence. `buffer`: 2 * depth vectors.
template <class T> void walk(const Scan &s, const States &states, int64_t sequence, int64_t channel, int there, f32x16 *buffer) {
    f32x16 *h = buffer, *rate = buffer + s.depth;
    float *state = s.state + states.slots[sequence] * s.depth * s.channels + channel;
    const bool fresh = states.fresh(sequence);
    for (int64_t i = 0; i < s.depth; i++) {
        h[i] = fresh ? splat(0.0f) : load_n(state + i * s.channels, there);
        rate[i] = load_n(s.rate + i * s.channels + channel, there);
    }
    const f32x16 skip = load_n(s.skip + channel, there), bias = load_n(s.bias + channel, there);
    for (int64_t row = states.first(sequence); row < states.last(sequence); row++) {
        const f32x16 x = load_n((const T *)s.x + row * s.stride + channel, there);
        const f32x16 step = softplus(load_n((const T *)s.dt + row * s.dt_stride + channel, there) + bias);
        const f32x16 gate = load_n((const T *)s.gate + row * s.gate_stride + channel, there);
        const f32x16 added = step * x, time = step * LOG2_E;
        const float *b = s.wide + row * 2 * s.depth, *c = b + s.depth;
        f32x16 sum = splat(0.0f);
        for (int64_t i = 0; i < s.depth; i++) {
            h[i] = vfma(h[i], exp2_weight(time * rate[i]), added * b[i]);
            sum = vfma(h[i], splat(c[i]), sum);
        }
        sum = vfma(skip, x, sum);
        store_n((T *)s.out + row * s.channels + channel, sum * (gate / (1.0f + vexp(-gate))), there);
    }
    for (int64_t i = 0; i < s.depth; i++) store_n(state + i * s.channels, h[i], there);
}

template <class T> void scan(const Scan &s, const States &states) {
    const int64_t rows = states.last(states.sequences - 1), blocks = (s.channels + BLOCK * LANES - 1) / (BLOCK * LANES);
    parallel_rows(rows, 2 * s.depth, [&](int64_t row) { widen_row((const T *)s.bc + row * s.bc_stride, 2 * s.depth, s.wide + row * 2 * s.depth); });
    Pieces pieces(states.sequences * blocks);
    in_team(
        [&] {
            f32x16 *buffer = (f32x16 *)aligned_alloc(64, 2 * s.depth * sizeof(f32x16));
            pieces.work([&](int64_t task) {
                const int64_t sequence = task / blocks, block = task % blocks;
                if (states.first(sequence) == states.last(sequence)) return;
                const int64_t start = block * BLOCK * LANES, size = s.channels - start;
                over_row(size < BLOCK * LANES ? size : BLOCK * LANES,
                         [&](int64_t i, int n) { walk<T>(s, states, sequence, start + i, n, buffer); });
            });
            free(buffer);
        },
        worth_threads(rows * s.channels * s.depth));
}

}  // namespace

extern "C" void infer_selective_scan(const void *x, int64_t stride, const void *dt, int64_t dt_stride, const void *bc, int64_t bc_stride,
                                     const void *gate, int64_t gate_stride, const float *rate, const float *skip, const float *bias,
                                     float *state, const int32_t *query_start, const int32_t *kv_lens, const int32_t *slots,
                                     int64_t sequences, void *out, float *wide, int64_t channels, int64_t depth, int64_t dtype) {
    const Scan s{x, dt, gate, bc, rate, skip, bias, state, out, wide, stride, dt_stride, gate_stride, bc_stride, channels, depth};
    const States states{query_start, kv_lens, slots, sequences};
    INFER_DISPATCH(dtype, T, scan<T>(s, states));
}

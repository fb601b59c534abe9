// Short causal convolution: each channel of a row is a weighed sum of its last inputs, those before this step's from the state.
#include "parallel.h"
#include "vectors.h"

namespace {

using namespace infer;

// Same numbers as in convolution.py.
enum Kind : int32_t { NONE = 0, SILU = 1 };

// Channels that one thread works on at a time: a few rows of them stay in the first cache.
constexpr int64_t PART = 1024;
// Taps whose rows are looked up once a token.
constexpr int64_t MOST_TAPS = 64;

struct Convolution {
    const void *x;        // [rows, stride], of which the first `size`
    const float *weight;  // [width, size], the oldest input's first
    const float *bias;    // [size] or null
    void *state;          // [slots, width - 1, size], oldest first
    const int32_t *query_start, *kv_lens, *slots;
    void *out;  // [rows, size]
    int64_t sequences, rows, size, width, stride;
};

template <class T, int KIND> void convolve(const Convolution &c, int64_t sequence, int64_t first, int64_t end) {
    const int64_t begin = c.query_start[sequence], count = c.query_start[sequence + 1] - begin, kept = c.width - 1;
    if (!count) return;
    const bool begins = c.kv_lens[sequence] <= count;
    T *state = (T *)c.state + c.slots[sequence] * kept * c.size;
    const T *x = (const T *)c.x + begin * c.stride;
    // The input at a place among this step's, or before them; null where there is none.
    auto input = [&](int64_t place) -> const T * {
        return place >= 0 ? x + place * c.stride : begins ? nullptr : state + (kept + place) * c.size;
    };
    for (int64_t place = 0; place < count; place++) {
        const T *taps[MOST_TAPS];
        for (int64_t tap = 0; tap < c.width; tap++) taps[tap] = input(place - kept + tap);
        T *out = (T *)c.out + (begin + place) * c.size;
        over_row(end - first, [&](int64_t i, int n) {
            i += first;
            f32x16 total = c.bias ? load_n(c.bias + i, n) : splat(0.0f);
            for (int64_t tap = 0; tap < c.width; tap++)
                if (taps[tap]) total = vfma(load_n(c.weight + tap * c.size + i, n), load_n(taps[tap] + i, n), total);
            if (KIND == SILU) total = total / (1.0f + vexp(-total));
            store_n(out + i, total, n);
        });
    }
    // Oldest first: what is read lies behind what is written.
    for (int64_t place = 0; place < kept; place++) {
        const T *from = input(count - kept + place);
        T *to = state + place * c.size + first;
        if (from)
            memmove(to, from + first, (end - first) * sizeof(T));
        else
            memset(to, 0, (end - first) * sizeof(T));
    }
}

template <class T, int KIND> void run(const Convolution &c) {
    const int64_t parts = (c.size + PART - 1) / PART, total = c.query_start[c.sequences];
    Pieces pieces(c.sequences * parts);
    in_team(
        [&] {
            pieces.work([&](int64_t item) {
                const int64_t first = item % parts * PART;
                convolve<T, KIND>(c, item / parts, first, first + PART < c.size ? first + PART : c.size);
            });
        },
        worth_threads(c.rows * c.size * c.width));
    memset((T *)c.out + total * c.size, 0, (c.rows - total) * c.size * sizeof(T));
}

}  // namespace

extern "C" void infer_short_convolution(const void *x, const float *weight, const float *bias, void *state, const int32_t *query_start,
                                        const int32_t *kv_lens, const int32_t *slots, void *out, int64_t sequences, int64_t rows,
                                        int64_t size, int64_t width, int64_t stride, int64_t dtype, int64_t kind) {
    const Convolution c{x, weight, bias, state, query_start, kv_lens, slots, out, sequences, rows, size, width, stride};
    INFER_DISPATCH(dtype, T, kind == SILU ? run<T, SILU>(c) : run<T, NONE>(c));
}

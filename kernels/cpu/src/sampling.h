// Rows of logits: what is kept of one, and finding its largest.
//
// A row is read once from memory: that pass keeps, of every block of 256 logits, the largest in each lane. From these
// come the argmax and a bound below which no token can matter (the k-th largest block maximum is no larger than the
// k-th largest logit), so that the few candidates above it are found by looking into few blocks. Nothing is sorted but
// candidates, and probabilities are computed for candidates alone, or once over the row where all tokens stay.
//
// Weights are relative to the most likely token's, which is 1. All sums run in a fixed order within their row.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdlib>

#include <algorithm>

#include "parallel.h"
#include "vectors.h"

namespace infer {

constexpr int BLOCK = 16 * LANES;
constexpr int BUCKETS = 512;
// Below this argument vexp gives 0.
constexpr double LARGEST_EXPONENT = 87.4;

constexpr float INF = __builtin_inff();

// -- lanes ----------------------------------------------------------------------------------------------------------
// As a number, bit i: lane i of a is at least that of b.
inline uint32_t at_least(f32x16 a, f32x16 b) {
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GE_OQ);
#else
    return at_bits(a >= b);
#endif
}

// Lane i of v where bit i is set, else of `other`; bits from LANES on are not looked at.
inline f32x16 where_set(uint32_t bits, f32x16 v, f32x16 other) {
#if defined(__AVX512F__)
    return (f32x16)_mm512_mask_blend_ps((__mmask16)bits, (__m512)other, (__m512)v);
#else
    static const uint32_t OWN_BIT[LANES] = {1,      1 << 1, 1 << 2,  1 << 3,  1 << 4,  1 << 5,  1 << 6,  1 << 7,
                                            1 << 8, 1 << 9, 1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15};
    u32x16 own;
    read(OWN_BIT, own);
    return select((own & u32x16(bits)) != u32x16(0u), v, other);
#endif
}

// Writes those lanes of v whose bits are set, and their places counted from `first`, to x[n], id[n] and on; returns the new n.
// May overwrite LANES elements from n on.
inline int64_t append(uint32_t bits, f32x16 v, int64_t first, float *x, int32_t *id, int64_t n) {
#if defined(__AVX512F__)
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    _mm512_storeu_ps(x + n, _mm512_maskz_compress_ps(bits, (__m512)v));
    _mm512_storeu_si512(id + n, _mm512_maskz_compress_epi32(bits, _mm512_add_epi32(lane, _mm512_set1_epi32((int)first))));
    return n + __builtin_popcount(bits);
#else
    float values[LANES];
    store(values, v);
    for (; bits; bits &= bits - 1) {
        int lane = __builtin_ctz(bits);
        x[n] = values[lane];
        id[n++] = (int32_t)(first + lane);
    }
    return n;
#endif
}

// With -inf in the lanes from n on: those are never the largest and weigh nothing.
inline f32x16 padded(f32x16 v, int n) { return n == LANES ? v : select(lane_numbers() < n, v, splat(-INF)); }

// Sixteen float32 added up in double.
struct Sum {
    f64x8 first = {}, second = {};

    void add(f32x16 v) {
        first += to_double(low(v));
        second += to_double(high(v));
    }

    double total() const {
        f64x8 a = first + second;
        return ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]));
    }
};

// -- what is kept of a row ------------------------------------------------------------------------------------------
struct Weighted {
    float x;
    float weight;
};

// One thread's memory, for rows of up to `vocabulary` logits.
struct Scratch {
    double *sums;         // [blocks]
    Weighted *pairs;      // [vocabulary]
    float *maxima;        // [blocks, LANES]: the largest of each lane
    float *block_maxima;  // [blocks * LANES]
    float *changed;       // [vocabulary]
    float *x;             // [vocabulary]: candidates' logits, in token order
    float *weight;        // [vocabulary]
    int32_t *id;          // [vocabulary]
    float *kept_x;        // [vocabulary]
    float *kept_weight;   // [vocabulary]
    float *bucket;        // [vocabulary]: int32

    explicit Scratch(int64_t vocabulary) {
        const int64_t blocks = (vocabulary + BLOCK - 1) / BLOCK, logits = blocks * BLOCK + LANES;
        // Pages that no row needs are never touched, so they cost nothing.
        char *next = memory = (char *)malloc(blocks * (8 + 2 * 4 * LANES) + logits * (8 + 7 * 4));
        if (!memory) abort();
        auto take = [&](auto *&field, int64_t count) {
            field = (std::remove_reference_t<decltype(field)>)next;
            next += count * sizeof *field;
        };
        take(sums, blocks);
        take(pairs, logits);
        take(maxima, blocks * LANES);
        take(block_maxima, blocks * LANES);
        take(id, logits);
        for (float **field : {&changed, &x, &weight, &kept_x, &kept_weight, &bucket}) take(*field, logits);
    }
    ~Scratch() { free(memory); }
    Scratch(const Scratch &) = delete;

  private:
    char *memory;
};

template <class T> struct Row {
    const T *logits;
    int64_t vocabulary;
    float highest;
    bool finite;

    int64_t blocks() const { return (vocabulary + BLOCK - 1) / BLOCK; }

    // Calls body(first token, logits) for each vector of a block, the last filled up with -inf.
    template <class F> void over_block(int64_t block, F body) const {
        int64_t start = block * BLOCK;
        over_row(std::min<int64_t>(BLOCK, vocabulary - start),
                 [&](int64_t i, int n) { body(start + i, padded(load_n(logits + start + i, n), n)); });
    }
};

template <class T> Row<T> scan(const T *logits, int64_t vocabulary, Scratch &scratch) {
    Row<T> row{logits, vocabulary, 0, false};
    f32x16 highest = splat(-INF), poison = {};
    for (int64_t block = 0; block < row.blocks(); block++) {
        int64_t start = block * BLOCK;
        f32x16 best = splat(-INF);
        over_row(std::min<int64_t>(BLOCK, vocabulary - start), [&](int64_t i, int n) {
            f32x16 v = load_n(logits + start + i, n);
            poison += v * 0.0f;  // NaN from the first infinity or NaN on
            best = vmax(padded(v, n), best);
        });
        store(scratch.maxima + block * LANES, best);
        highest = vmax(best, highest);
    }
    row.highest = reduce_max(highest);
    row.finite = reduce_add(poison) == 0;
    return row;
}

template <class T> int64_t argmax(const Row<T> &row, const Scratch &scratch) {
    int64_t block = 0;
    while (!at_least(load(scratch.maxima + block * LANES), splat(row.highest))) block++;
    int64_t found = -1;
    row.over_block(block, [&](int64_t first, f32x16 v) {
        uint32_t bits = at_least(v, splat(row.highest));
        if (found < 0 && bits) found = first + __builtin_ctz(bits);
    });
    return found;
}

// Lists the tokens whose logits reach `bound` (above -inf), in order; returns how many.
template <class T> int64_t collect(const Row<T> &row, float bound, Scratch &scratch) {
    int64_t n = 0;
    for (int64_t block = 0; block < row.blocks(); block++) {
        if (!at_least(load(scratch.maxima + block * LANES), splat(bound))) continue;
        row.over_block(block, [&](int64_t first, f32x16 v) {
            if (uint32_t bits = at_least(v, splat(bound))) n = append(bits, v, first, scratch.x, scratch.id, n);
        });
    }
    return n;
}

// No larger than the k-th largest logit; -inf where k is above the number of maxima.
template <class T> float kth_bound(const Row<T> &row, int64_t k, Scratch &scratch) {
    // Each maximum is another token's, so at least k tokens reach the k-th largest one.
    int64_t n = row.blocks();
    float *maxima = scratch.block_maxima;
    if (k <= n) {
        for (int64_t block = 0; block < n; block++) maxima[block] = reduce_max(load(scratch.maxima + block * LANES));
    } else {
        n *= LANES;
        if (k > n) return -INF;
        memcpy(maxima, scratch.maxima, n * sizeof(float));
    }
    std::nth_element(maxima, maxima + k - 1, maxima + n, [](float a, float b) { return a > b; });
    return maxima[k - 1];
}

// The smallest of the shortest run of largest x whose weight reaches `wanted`; the smallest of all if none does.
// Each round keeps the bucket of values that the run ends in.
inline float run_end(const float *x, const float *weight, int64_t n, double wanted, Scratch &scratch) {
    while (n > 64) {
        f32x16 highest = splat(-INF), negated_lowest = splat(-INF);
        over_row(n, [&](int64_t i, int count) {
            f32x16 v = load_n(x + i, count);
            highest = vmax(highest, padded(v, count));
            negated_lowest = vmax(negated_lowest, padded(-v, count));
        });
        const float high = reduce_max(highest), low = -reduce_max(negated_lowest), scale = BUCKETS / (high - low);
        if (low == high) return low;
        if (!(scale > 0 && scale < INF)) break;  // numbers at either end of what float32 can hold
        over_row(n, [&](int64_t i, int count) {
            f32x16 place = vmin((high - load_n(x + i, count)) * scale, splat(BUCKETS - 1));
            store_n(scratch.bucket + i, as<f32x16>(convert<i32x16>(place)), count);
        });
        const int32_t *bucket = (const int32_t *)scratch.bucket;
        double total[BUCKETS] = {};
        for (int64_t i = 0; i < n; i++) total[bucket[i]] += weight[i];
        int end = 0;  // the last bucket holds `low`: a run that rounding has kept short of `wanted` ends there
        while (end < BUCKETS - 1 && total[end] < wanted) wanted -= total[end++];
        int64_t kept = 0;
        for (int64_t i = 0; i < n; i++) {
            scratch.kept_x[kept] = x[i];
            scratch.kept_weight[kept] = weight[i];
            kept += bucket[i] == end;
        }
        x = scratch.kept_x;
        weight = scratch.kept_weight;
        n = kept;
    }
    Weighted *pairs = scratch.pairs;
    for (int64_t i = 0; i < n; i++) pairs[i] = {x[i], weight[i]};
    std::sort(pairs, pairs + n, [](const Weighted &a, const Weighted &b) { return a.x > b.x; });
    int64_t last = 0;
    for (double sum = pairs[0].weight; sum < wanted && last < n - 1; sum += pairs[last].weight) last++;
    return pairs[last].x;
}

// Inverse CDF: the first of n places whose cumulative weight exceeds u of the whole. weights(i, count) gives those of
// places [i, i + count), 0 in the other lanes. At least one weight is positive.
template <class F> int64_t locate(int64_t n, double u, double *sums, F weights) {
    int64_t blocks = (n + BLOCK - 1) / BLOCK;
    double total = 0;
    for (int64_t block = 0; block < blocks; block++) {
        Sum sum;
        int64_t start = block * BLOCK;
        over_row(std::min<int64_t>(BLOCK, n - start), [&](int64_t i, int count) { sum.add(weights(start + i, count)); });
        total += sums[block] = sum.total();
    }
    double target = u * total, running = 0;
    int64_t found = 0;
    for (int64_t block = 0; block < blocks; block++) {
        if (sums[block] <= 0) continue;
        found = block;
        if (running + sums[block] > target) break;
        running += sums[block];
    }
    int64_t start = found * BLOCK, place = -1;
    // Added one by one the block may come out a little smaller: its last place with a weight stands in then.
    over_row(std::min<int64_t>(BLOCK, n - start), [&](int64_t i, int count) {
        f32x16 w = weights(start + i, count);
        for (int lane = 0; lane < count && running <= target; lane++) {
            if (w[lane] > 0) place = start + i + lane;
            running += w[lane];
        }
    });
    return place;
}

// Calls body(row, scratch) for each of so many rows, over threads.
template <class F> void over_rows(int64_t rows, int64_t vocabulary, F body) {
    Pieces pieces(rows);
    in_team(
        [&] {
            Scratch scratch(vocabulary);
            pieces.work([&](int64_t r) { body(r, scratch); });
        },
        rows > 1);
}

}  // namespace infer

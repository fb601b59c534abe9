// From a qkv projection to queries and cache: per-head RMSNorm, rotation, storing keys and values, one pass over the rows.
#include "codes.h"
#include "kept.h"
#include "operations.h"
#include "parallel.h"
#include "quantized.h"
#include "rotation.h"
#include "vectors.h"
#include "widen.h"

namespace {

using namespace infer;

constexpr int64_t TOKENS = 16;  // rows that one thread takes at a time

struct Step {
    const void *qkv;                // [rows, (heads + 2 kv_heads) * dim]
    const float *scale;             // [rows] or null
    int64_t stride;                 // elements from row to row
    Rotation rotation;
    const float *norm_q, *norm_k;   // [dim] or null
    float eps;
    void *query;                    // [rows, heads, dim], of qkv's type
    void *key;                      // [blocks, kv_heads, pairs, block_size, 2], or see codes.h
    void *value;                    // see kept.h; null: there are none, and keys are rows [blocks, block_size, dim]
    const int64_t *slots;           // [stored]
    int64_t block_size, rows, stored, heads, kv_heads, dim;
};

// One head of one row, from x to out, normed and rotated.
template <class X, class O> inline void turn(const Step &s, int64_t row, const X *x, const float *norm, O *out) {
    const float factor = s.scale ? s.scale[row] : 1.0f;
    float inverse = 1.0f;
    if (norm) {
        f32x16 squares = {};
        over_row(s.dim, [&](int64_t i, int n) {
            f32x16 v = load_n(x + i, n) * factor;
            squares = vfma(v, v, squares);
        });
        inverse = 1.0f / __builtin_sqrtf(reduce_add(squares) / s.dim + s.eps);
    }
    s.rotation.turn(row, s.dim, out, [&](int64_t i, int n) {
        f32x16 v = load_n(x + i, n) * factor;
        return norm ? v * inverse * load_n(norm + i, n) : v;
    });
}

// Puts `count` tokens' keys of one head, which follow each other in a block, into its columns.
template <class C> inline void scatter(const C *keys, int64_t pairs, int64_t count, int64_t block_size, C *column) {
    for (int64_t p = 0; p < pairs; p++)
        for (int64_t t = 0; t < count; t++) memcpy(column + (p * block_size + t) * 2, keys + (t * pairs + p) * 2, 2 * sizeof(C));
}

// Stores key/value head `h` of `count` tokens from `row` on, whose places in the block follow each other.
template <class X, class C>
void store_head(const Step &s, int64_t row, int64_t count, int64_t block, int64_t offset, int64_t h, C *keys) {
    const int64_t dim = s.dim, pairs = (dim + 1) / 2, head = block * s.kv_heads + h;
    C values[TOKENS * dim];
    for (int64_t t = 0; t < count; t++) {
        const X *key = (const X *)s.qkv + (row + t) * s.stride + (s.heads + h) * dim;
        C *turned = keys + t * pairs * 2;
        turned[pairs * 2 - 1] = C{};
        turn(s, row + t, key, s.norm_k, turned);
        const X *value = key + s.kv_heads * dim;
        C *stored = values + t * dim;
        const float factor = s.scale ? s.scale[row + t] : 1.0f;
        over_row(dim, [&](int64_t i, int n) { store_n(stored + i, load_n(value + i, n) * factor, n); });
    }
    scatter(keys, pairs, count, s.block_size, (C *)s.key + (head * pairs * s.block_size + offset) * 2);
    store_values((C *)s.value + head * s.block_size * dim, values, offset, count, dim, s.block_size);
}

// What keys and values are kept as, in place of a type.
struct Codes {};

// The codes of `dim` numbers, `flip` added; returns their scale.
inline float encode(const float *x, int64_t dim, uint8_t flip, uint8_t *codes) {
    Magnitude magnitude;
    over_row(dim, [&](int64_t i, int n) { magnitude.add(load_n(x + i, n)); });
    const Quantizer quantizer(magnitude.largest());
    over_row(dim, [&](int64_t i, int n) { quantizer.store(codes + i, load_n(x + i, n), n); });
    for (int64_t i = 0; i < dim; i++) codes[i] ^= flip;
    return quantizer.scale;
}

template <class X>
void store_head(const Step &s, int64_t row, int64_t count, int64_t block, int64_t offset, int64_t h, Codes *) {
    const int64_t dim = s.dim, size = s.block_size, wide = places(dim), beside = together(size);
    const int64_t place = (block * s.kv_heads + h) * head_bytes(dim, size);
    uint8_t *keys = (uint8_t *)s.key + place, *values = (uint8_t *)s.value + place;
    float numbers[dim];
    uint8_t codes[wide];
    memset(codes, 0, wide);
    for (int64_t t = 0; t < count; t++) {
        const int64_t at = offset + t;
        const X *key = (const X *)s.qkv + (row + t) * s.stride + (s.heads + h) * dim, *value = key + s.kv_heads * dim;
        turn(s, row + t, key, s.norm_k, numbers);
        const float key_scale = encode(numbers, dim, 0, codes);
        for (int64_t i = 0; i < wide; i += 4) memcpy(keys + i * size + at * 4, codes + i, 4);
        memcpy(keys + wide * size + at * 4, &key_scale, 4);

        const float factor = s.scale ? s.scale[row + t] : 1.0f;
        over_row(dim, [&](int64_t i, int n) { store_n(numbers + i, load_n(value + i, n) * factor, n); });
        const float value_scale = encode(numbers, dim, 0x80, codes);
        uint8_t *column = values + at / beside * beside * wide + at % beside;
        for (int64_t i = 0; i < wide; i++) column[i * beside] = codes[i];
        memcpy(values + wide * size + at * 4, &value_scale, 4);
    }
}

template <class X, class C> void rope_and_store(const Step &s, int64_t first, int64_t last) {
    const int64_t dim = s.dim, width = s.heads * dim;
    const X *qkv = (const X *)s.qkv;
    for (int64_t row = first; row < last; row++)
        for (int64_t h = 0; h < s.heads; h++)
            turn(s, row, qkv + row * s.stride + h * dim, s.norm_q, (X *)s.query + row * width + h * dim);
    if (last > s.stored) last = s.stored;
    if constexpr (!std::is_same_v<C, Codes>)
        if (!s.value) {  // of one head, so that a slot is a row
            for (int64_t row = first; row < last; row++) turn(s, row, qkv + row * s.stride + width, s.norm_k, (C *)s.key + s.slots[row] * dim);
            return;
        }
    C keys[TOKENS * ((dim + 1) / 2) * 2];
    for (int64_t row = first; row < last;) {
        const int64_t slot = s.slots[row], block = slot / s.block_size, offset = slot % s.block_size;
        int64_t count = 1;
        while (row + count < last && offset + count < s.block_size && s.slots[row + count] == slot + count) count++;
        for (int64_t h = 0; h < s.kv_heads; h++) store_head<X>(s, row, count, block, offset, h, keys);
        row += count;
    }
}

template <class X, class C> void run(const Step &s) {
    const int64_t chunks = (s.rows + TOKENS - 1) / TOKENS;
    parallel_rows(chunks, TOKENS * (s.heads + 2 * s.kv_heads) * s.dim, [&](int64_t chunk) {
        const int64_t first = chunk * TOKENS;
        rope_and_store<X, C>(s, first, first + TOKENS < s.rows ? first + TOKENS : s.rows);
    });
}

}  // namespace

// cache_dtype may be INT8; norm_q and norm_k are of type norm_dtype, both there or both null.
extern "C" void infer_rope_and_store(const void *qkv, const float *scale, int64_t stride, const int64_t *positions, const float *cos,
                                     const float *sin, const void *norm_q, const void *norm_k, void *query, int64_t rotated, void *key,
                                     void *value, int64_t block_size, const int64_t *slots, int64_t rows, int64_t stored, int64_t heads,
                                     int64_t kv_heads, int64_t dim, int64_t dtype, int64_t cache_dtype, int64_t norm_dtype, float eps) {
    float buffer[2 * dim];
    const float *q = widened(norm_q, norm_dtype, dim, buffer), *k = widened(norm_k, norm_dtype, dim, buffer + dim);
    const Step s{qkv, scale, stride, {positions, cos, sin, rotated}, q, k, eps, query, key, value, slots,
                 block_size, rows, stored, heads, kv_heads, dim};
    if (cache_dtype == INT8) {
        INFER_DISPATCH(dtype, X, run<X, Codes>(s));
    } else {
        INFER_DISPATCH(dtype, X, INFER_DISPATCH(cache_dtype, C, run<X, C>(s)));
    }
}
